"""What a diagnosis would cost: what is run and trained by part, seconds on this machine, and memory."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.io.safe_text import TEXT_LIMIT, clean
from collapsekit.render import document as doc
from collapsekit.render.document import Detail, Span, TableCell, line
from collapsekit.render.numbers import ABSENT, fmt
from collapsekit.report.cost import CostReport, CostRow

AT_MOST = "≤ "
_LEAST, _MINUTES, _HOURS = 0.1, 100.0, 6000.0  # seconds from which a time is told, in minutes, in hours
_EXACT = 10_000  # counts below are told digit by digit
_KINDS = (
    ("passes", "Passes: examples through the whole model, the encoders among it."),
    ("encodings", "Encoder: examples through one encoder by itself, in training or with noise at its input."),
    ("replays", "Replays: examples through fusion and head, the encoders answering from their recordings."),
    ("gradients", "Back: examples back through fusion and head."),
    ("heads", "Trained: heads, which are small models on recorded features; and encoders, once a learning rate."),
)


def view(report: CostReport, detail: Detail) -> doc.Document:
    """Make a document of what a diagnosis would cost."""
    del detail  # there is little to say
    split, checkpoint = clean(report.split), clean(report.checkpoint)
    bound = "at most " if report.total.at_most else "about "
    some = " beside what is not estimated" if any(not row.estimated for row in report.probes) else ""
    seconds = f"{bound}{_time(report.total.seconds or 0.0)}{some}"
    memory = f"{_size(report.kept_bytes)} of inputs and features, and {_size(report.peak_bytes)} for a batch"
    read = ", ".join(f"{clean(name)} {n:,}" for name, n in report.examples.items())
    return doc.Document(
        subject="Cost of a diagnosis",
        title=f"Diagnosing split {split} of {checkpoint}, profile {report.profile}: model and training take {seconds}; "
        f"{memory}.",
        page=f"cost: {checkpoint}",
        blocks=(
            doc.sentence(f"Examples that are read: {read}. Nothing was measured or written: this is --dry-run."),
            _table(report),
            doc.items(f"{text}{_unit(report, name)}" for name, text in _KINDS if getattr(report.total, name)),
            *_remarks(report),
        ),
        ends=(
            line("What several parts need is counted where it is first needed."),
            line("Time is by one batch of each kind on this machine, in one process; statistics come on top."),
            line(f"Made by collapsekit {clean(report.collapsekit)}."),
        ),
    )


def _table(report: CostReport) -> doc.Table:
    heads = ("part", ">passes", ">encoder", ">replays", ">back", "trained", ">time")
    rows = [_cells(row) for row in (report.opening, *report.probes, report.total)]
    empty = [i for i in range(1, len(heads) - 1) if not any(row[i].runs for row in rows)]
    kept = [i for i in range(len(heads)) if i not in empty]
    return doc.table("What it would run", [heads[i] for i in kept], ([row[i] for i in kept] for row in rows))


def _cells(row: CostRow) -> list[TableCell]:
    name = doc.cell(clean(row.name), "strong" if row.name == "total" else "name")
    if not row.estimated:
        return [name, *[TableCell()] * 4, doc.cell("not estimated", "quiet"), doc.cell(ABSENT)]
    counts = [_count(row, what) for what in ("passes", "encodings", "replays", "gradients")]
    seconds = row.seconds or 0.0
    time = (
        ABSENT
        if not seconds
        else f"{AT_MOST if row.at_most else ''}{_time(seconds)}"
        if seconds >= _LEAST
        else "< 0.1 s"
    )
    return [name, *counts, _trained(row), doc.cell(time)]


def _count(row: CostRow, what: str) -> TableCell:
    return doc.cell(_number(row, what) if getattr(row, what) else "")


def _number(row: CostRow, what: str) -> str:
    return f"{AT_MOST if what in row.at_most else ''}{_short(getattr(row, what))}"


def _trained(row: CostRow) -> TableCell:
    models = [f"{_number(row, what)} {what}" for what in ("heads", "encoders") if getattr(row, what)]
    steps = row.steps + row.encoder_steps
    bound = AT_MOST if {"steps", "encoder_steps"} & set(row.at_most) else ""
    if row.skipped is not None and not models:
        return doc.cell("skipped", "quiet")
    return TableCell(line(", ".join(models)), line(Span(f"{bound}{_short(steps)} steps", "quiet")) if steps else ())


def _unit(report: CostReport, name: str) -> str:
    """How long one of a kind takes."""
    value = report.unit_seconds.get("steps" if name == "heads" else name)
    return "" if value is None else f" {fmt(1000 * value)} ms {'a step' if name == 'heads' else 'each'}."


def _remarks(report: CostReport) -> Iterator[doc.Items]:
    """Why a number is a bound, why a probe would measure nothing, and what says nothing."""
    texts = []
    for why in report.total.why:
        names = ", ".join(clean(row.name) for row in report.probes if why in row.why)
        texts.append(f"{AT_MOST}in {names}: {clean(why, TEXT_LIMIT)}.")
    for row in report.probes:
        name = clean(row.name)
        if row.skipped is not None:
            texts.append(f"{name} would measure nothing: {clean(row.skipped, TEXT_LIMIT)}.")
        if not row.estimated:
            texts.append(f"{name} is not estimated: its probe does not say what it costs (@probe(..., cost=...)).")
    if texts:
        yield doc.items(texts)


def _short(count: int) -> str:
    """Tell a count, the larger ones to three digits."""
    if count < _EXACT:
        return f"{count:,}"
    unit, power = next((u, p) for u, p in (("T", 12), ("G", 9), ("M", 6), ("k", 3)) if count >= 10**p)
    return f"{fmt(count / 10**power)} {unit}"


def _time(seconds: float) -> str:
    """Tell a time in the unit that fits."""
    if seconds < _MINUTES:
        return f"{fmt(seconds)} s"
    return f"{fmt(seconds / 60)} min" if seconds < _HOURS else f"{fmt(seconds / 3600)} h"


def _size(count: int) -> str:
    """Tell a number of bytes."""
    return f"{fmt(count / 1e6)} MB" if count < 1e9 else f"{fmt(count / 1e9)} GB"
