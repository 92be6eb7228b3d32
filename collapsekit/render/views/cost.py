"""What a diagnosis would cost: what is run and trained by part, seconds on this machine, and memory."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.io.safe_text import TEXT_LIMIT, clean
from collapsekit.render import document as doc
from collapsekit.render.document import Detail, Span, TableCell, TableColumn, line
from collapsekit.render.numbers import ABSENT, fmt
from collapsekit.report.cost import CostReport, CostRow

_SHORT = 0.1  # seconds under which a time is not told
_KINDS = {
    "passes": ("passes", "examples through the whole model"),
    "encodings": ("encoder", "examples through one encoder by itself"),
    "replays": ("replays", "examples through fusion and head, the encoders answering from their recordings"),
    "gradients": ("back", "examples back through fusion and head"),
    "heads": ("heads", "small models trained on recorded features"),
    "encoders": ("alone", "encoders trained alone, once a learning rate"),
}


def view(report: CostReport, detail: Detail) -> doc.Document:
    """Make a document of what a diagnosis would cost."""
    del detail  # there is little to say
    checkpoint, total = clean(report.checkpoint), report.total
    some = " beside what is not estimated" if any(not row.estimated for row in report.probes) else ""
    whole = f"about {_time(total.seconds or 0.0)}{some}"
    read = ", ".join(f"{clean(name)} {n:,}" for name, n in report.examples.items())
    memory = f"{fmt(report.kept_bytes / 1e6)} MB of inputs and features, {fmt(report.peak_bytes / 1e6)} MB for a batch"
    split = f"split {clean(report.split)} of {checkpoint}, profile {report.profile}"
    kinds = [name for name in _KINDS if getattr(total, name)]
    heads = (TableColumn(Span(_KINDS[name][0]), "number", _KINDS[name][1]) for name in kinds)
    rows = ([*_cells(row, kinds)] for row in (report.opening, *report.probes, total))
    about = (
        "Time is reckoned by one batch of each kind on this machine, in one process, and by the sizes of what is fitted; "
        "what several need is counted once"
    )
    table = doc.table("What it would run", ("part", *heads, ">time"), rows, about=about)
    return doc.Document(
        subject="Cost of a diagnosis",
        title=f"Diagnosing {split}: it takes {whole}. Nothing was measured or written.",
        page=f"cost: {checkpoint}",
        facts=doc.facts(Examples=read, Memory=memory),
        sections=(doc.Section((), (table, doc.items(_remarks(report)))),),
        ends=(line(f"Made by collapsekit {clean(report.collapsekit)}."),),
    )


def _cells(row: CostRow, kinds: list[str]) -> Iterator[TableCell]:
    """The part, its counts, and its time; what may come out lower is marked."""
    yield doc.cell(clean(row.name), "strong" if row.name == "total" else "name")
    for name in kinds:
        n, bound = getattr(row, name), "≤ " * (name in row.at_most)
        yield doc.cell(f"{bound}{f'{n:,}' if n < 10_000 else f'{n / 1000:,.0f} k'}" if n else "")
    seconds = row.seconds or 0.0
    told = _time(seconds) if seconds >= _SHORT else f"< {_SHORT} s"
    yield doc.cell("not estimated" if not row.estimated else told if seconds else ABSENT)


def _remarks(report: CostReport) -> Iterator[str]:
    """Why a number is a bound, what would measure nothing, and what does not say."""
    for why in report.total.why:
        names = ", ".join(clean(row.name) for row in report.probes if why in row.why)
        yield f"≤ in {names}: {clean(why, TEXT_LIMIT)}."
    for row in report.probes:
        if row.skipped is not None:
            yield f"{clean(row.name)} would measure nothing: {clean(row.skipped, TEXT_LIMIT)}."
        if not row.estimated:
            yield f"{clean(row.name)} is not estimated: its probe does not say what it costs (@probe(..., cost=...))."


def _time(seconds: float) -> str:
    """Tell a time in the unit that fits."""
    unit, size = next(((u, s) for u, s in (("h", 3600), ("min", 60)) if seconds > 1.6 * s), ("s", 1))
    return f"{fmt(seconds / size)} {unit}"
