"""Results of a diagnosis, arranged: by probe, one column a modality; and by subset of modalities.

All functions take a report that :func:`collapsekit.report.cleaning.cleaned` has been through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from collapsekit.render.headings import headings
from collapsekit.render.views._words import Estimate, Interval, some
from collapsekit.report.diagnosis import Report, Result
from collapsekit.report.names import label, short_name

WHOLE = "fused"  # the column of what has no modality, beside columns that have one
SUBSETS = {"reliance.subsets": "loss", "reliance.subsets_metric": "metric"}  # curves over names of subsets


@dataclass(frozen=True)
class ResultRow:
    """One result name across the modalities of a probe; ``results`` follows ``ProbeResults.modalities``."""

    label: str
    unit: str
    pairwise: bool  # about two modalities
    results: tuple[Result | None, ...]


@dataclass(frozen=True)
class ProbeResults:
    """What one probe left in the report."""

    probe: str
    title: str
    whole: tuple[Result, ...]  # values of the model as a whole
    modalities: tuple[str, ...]
    rows: tuple[ResultRow, ...]
    curves: tuple[Result, ...]
    skipped: tuple[Result, ...]
    notes: tuple[tuple[str, str], ...]  # (what it is about, the note)
    definitions: tuple[Result, ...]  # one for each name, definition and source that occur


@dataclass(frozen=True)
class Subset:
    """One coalition of modalities and what the model does with it. ``members`` is None where it is not one."""

    label: str
    members: frozenset[str] | None
    loss: Estimate | None
    metric: Estimate | None


def by_probe(report: Report) -> list[ProbeResults]:
    """The results of each probe, in the order in which they are shown."""
    return [_of_probe(report, h.probe, h.title) for h in headings(r.probe for r in report.results)]


def _of_probe(report: Report, probe: str, title: str) -> ProbeResults:
    results = [r for r in report.results if r.probe == probe]
    values = [r for r in results if r.value is not None]
    split = {r.name for r in values if r.modality is not None}
    across = [r for r in values if r.name in split]
    order = _modalities(report, across)
    notes: dict[str, list[str]] = {}
    for r in results:
        if r.note is not None:
            notes.setdefault(r.note, []).append(label(r))
    return ProbeResults(
        probe=probe,
        title=title,
        whole=tuple(r for r in values if r.name not in split),
        modalities=tuple(WHOLE if m is None else m for m in order),
        rows=tuple(_rows(across, order)),
        curves=tuple(r for r in results if r.curve is not None),
        skipped=tuple(r for r in results if r.skipped is not None),
        notes=tuple((some(about), note) for note, about in notes.items()),
        definitions=tuple({(r.name, r.definition, r.source): r for r in results}.values()),
    )


def _modalities(report: Report, results: list[Result]) -> list[str | None]:
    present = dict.fromkeys(r.modality for r in results)
    known: list[str | None] = [m for m in report.subject.modalities if m in present]
    others = [m for m in present if m not in known and m is not None]
    return [*known, *others, *([None] if None in present else [])]


def _rows(results: list[Result], order: list[str | None]) -> Iterator[ResultRow]:
    rows: dict[tuple[str, str | None, int], dict[str | None, Result]] = {}
    seen: Counter[tuple[str, str | None, str | None]] = Counter()
    for r in results:
        again = (r.name, r.versus, r.modality)  # a name used twice gets a row of its own, and nothing is lost
        rows.setdefault((r.name, r.versus, seen[again]), {})[r.modality] = r
        seen[again] += 1
    for (_, versus, _), found in rows.items():
        first = next(iter(found.values()))
        text = short_name(first) + (f" versus {versus}" if versus is not None else "")
        yield ResultRow(text, first.unit or "", versus is not None, tuple(found.get(m) for m in order))


def subsets(report: Report) -> list[Subset]:
    """The coalition table, smallest first: each subset's loss and metric, from the ``reliance`` curves."""
    found = {part: _by_category(report, name) for name, part in SUBSETS.items()}
    names = dict.fromkeys(name for part in found.values() for name in part)
    rows = [Subset(n, _members(report, n), found["loss"].get(n), found["metric"].get(n)) for n in names]
    return sorted(rows, key=lambda s: len(s.members) if s.members is not None else 0)


def _by_category(report: Report, name: str) -> dict[str, Estimate]:
    curve = next((r for r in report.named(name) if r.curve is not None), None)
    return {} if curve is None else {str(x): (y, ends) for x, y, ends in points(curve)}


def points(result: Result) -> list[tuple[float | str, float, Interval]]:
    """The points of a curve: x, y and the ends of y's interval."""
    curve = result.curve
    if curve is None:
        return []
    ends: list[Interval] = [None] * len(curve.y)
    if curve.lower is not None and curve.upper is not None:
        ends = list(zip(curve.lower, curve.upper, strict=True))
    return list(zip(curve.x, curve.y, ends, strict=True))


def _members(report: Report, name: str) -> frozenset[str] | None:
    if name == "(none)":
        return frozenset()
    parts = [name] if name in report.subject.modalities else name.split("+")
    return frozenset(parts) if all(p in report.subject.modalities for p in parts) else None
