"""What a diagnosis would cost: what is run and trained by part, seconds on this machine, and memory."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.io.safe_text import TEXT_LIMIT, clean
from collapsekit.render import document as doc
from collapsekit.render.document import Detail, Span, TableCell, TableColumn, line
from collapsekit.render.numbers import ABSENT, fmt
from collapsekit.report.cost import CostReport, CostRow

AT_MOST = "≤ "
_SHORT = 0.1  # seconds under which a time is not told
_KINDS = {
    "passes": ("passes", "examples through the whole model, the encoders among it"),
    "encodings": ("encoder", "examples through one encoder by itself, in training or with noise at its input"),
    "replays": ("replays", "examples through fusion and head, the encoders answering from their recordings"),
    "gradients": ("back", "examples back through fusion and head"),
    "heads": ("heads", "small models trained on recorded features, in {steps} steps"),
    "encoders": ("alone", "encoders trained alone, once a learning rate, in {encoder_steps} steps"),
}


def view(report: CostReport, detail: Detail) -> doc.Document:
    """Make a document of what a diagnosis would cost."""
    del detail  # there is little to say
    split, checkpoint = clean(report.split), clean(report.checkpoint)
    bound = "at most " if report.total.at_most else "about "
    some = " beside what is not estimated" if any(not row.estimated for row in report.probes) else ""
    memory = f"{_size(report.kept_bytes)} of inputs and features, and {_size(report.peak_bytes)} for a batch"
    read = ", ".join(f"{clean(name)} {n:,}" for name, n in report.examples.items())
    facts = doc.sentence(f"Examples that are read: {read}. Nothing was measured or written: this is --dry-run.")
    return doc.Document(
        subject="Cost of a diagnosis",
        title=f"Diagnosing split {split} of {checkpoint}, profile {report.profile}: model and training take {bound}"
        f"{_time(report.total.seconds or 0.0)}{some}; {memory}.",
        page=f"cost: {checkpoint}",
        sections=(doc.Section((), (facts, _table(report), doc.items(_remarks(report)))),),
        ends=(
            line("What several parts need is counted where it is first needed."),
            line("Time is by one batch of each kind on this machine, in one process; statistics come on top."),
            line(f"Made by collapsekit {clean(report.collapsekit)}."),
        ),
    )


def _table(report: CostReport) -> doc.Table:
    kinds = [name for name in _KINDS if getattr(report.total, name)]
    heads = (TableColumn(Span(_KINDS[name][0]), "number") for name in kinds)
    rows = ([*_cells(row, kinds)] for row in (report.opening, *report.probes, report.total))
    return doc.table("What it would run", ("part", *heads, ">time"), rows)


def _cells(row: CostRow, kinds: list[str]) -> Iterator[TableCell]:
    """The part, its counts, and its time."""
    yield doc.cell(clean(row.name), "strong" if row.name == "total" else "name")
    for name in kinds:
        yield doc.cell(_count(row, name) if getattr(row, name) else "")
    seconds = row.seconds or 0.0
    told = f"{AT_MOST * bool(row.at_most)}{_time(seconds)}" if seconds >= _SHORT else f"< {_SHORT} s"
    yield doc.cell("not estimated" if not row.estimated else told if seconds else ABSENT)


def _remarks(report: CostReport) -> Iterator[str]:
    """What is counted and how long one takes, why a number is a bound, what would measure nothing, what says nothing."""
    for name, (head, about) in _KINDS.items():
        if getattr(report.total, name):
            value = report.unit_seconds.get(name)
            steps = {kind: _count(report.total, kind) for kind in ("steps", "encoder_steps")}
            yield f"{head}: {about.format(**steps)}" + ("." if value is None else f", {fmt(1000 * value)} ms each.")
    for why in report.total.why:
        names = ", ".join(clean(row.name) for row in report.probes if why in row.why)
        yield f"{AT_MOST}in {names}: {clean(why, TEXT_LIMIT)}."
    for row in report.probes:
        if row.skipped is not None:
            yield f"{clean(row.name)} would measure nothing: {clean(row.skipped, TEXT_LIMIT)}."
        if not row.estimated:
            yield f"{clean(row.name)} is not estimated: its probe does not say what it costs (@probe(..., cost=...))."


def _count(row: CostRow, name: str) -> str:
    n = getattr(row, name)
    return f"{AT_MOST * (name in row.at_most)}{f'{n:,}' if n < 10_000 else f'{n / 1000:,.0f} k'}"


def _time(seconds: float) -> str:
    """Tell a time in the unit that fits."""
    unit, size = next(((u, s) for u, s in (("h", 3600), ("min", 60)) if seconds > 1.6 * s), ("s", 1))
    return f"{fmt(seconds / size)} {unit}"


def _size(count: int) -> str:
    """Tell a number of bytes."""
    return f"{fmt(count / 1e6)} MB" if count < 1e9 else f"{fmt(count / 1e9)} GB"
