"""Results of a diagnosis, arranged: by probe, one column a modality; and by subset of modalities.

All functions take a report that :func:`collapsekit.report.names.cleaned` has been through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from collapsekit.measures import headings
from collapsekit.render import document as doc
from collapsekit.render.numbers import fmt_parts
from collapsekit.render.views._words import Estimate, Interval, number
from collapsekit.report.diagnosis import Curve, Report, Result
from collapsekit.report.names import label, short_name, some, subset_members

WHOLE = "fused"  # the column of what has no modality, beside columns that have one
SUBSETS = {"reliance.subsets": "loss", "reliance.subsets_metric": "metric"}  # curves over names of subsets


class ProbeResults(NamedTuple):
    """What one probe left in the report, whose modalities are in an order."""

    probe: str
    title: str
    results: tuple[Result, ...]
    order: tuple[str, ...]

    @property
    def notes(self) -> list[doc.Line]:
        """Each note once, with what it is about."""
        notes: dict[str, list[str]] = {}
        for r in self.results:
            if r.note is not None:
                notes.setdefault(r.note, []).append(label(r))
        return [doc.line("Note on ", doc.Span(some(about), "name"), f": {note}") for note, about in notes.items()]

    @property
    def skips(self) -> list[doc.Line]:
        """What was not measured: each reason once, with what it is about."""
        reasons: dict[str, list[str]] = {}
        for r in self.results:
            if r.skipped is not None:
                reasons.setdefault(r.skipped, []).append(label(r))
        return [
            doc.line(doc.Span(some(about), "name"), f" {'was' if len(about) == 1 else 'were'} not measured: {reason}")
            for reason, about in reasons.items()
        ]

    @property
    def skip_count(self) -> int:
        """How many results were not measured."""
        return sum(r.skipped is not None for r in self.results)

    @property
    def curves(self) -> list[tuple[Result, Curve]]:
        """Its curves, but those over subsets, which have a table of their own."""
        return [(r, r.curve) for r in self.results if r.curve is not None and r.name not in SUBSETS]

    @property
    def values(self) -> tuple[list[Result], list[Result]]:
        """Results with a value: of the model as a whole, and those whose names some modality has, too."""
        values = [r for r in self.results if r.value is not None]
        split = {r.name for r in values if r.modality is not None}
        return [r for r in values if r.name not in split], [r for r in values if r.name in split]

    @property
    def modalities(self) -> list[str | None]:
        """Those that the probe has values of, and None where it has some of the whole model under the same name."""
        present = dict.fromkeys(r.modality for r in self.values[1])
        first = [m for m in self.order if m in present]
        return [*first, *(m for m in present if m not in (*first, None)), *([None] if None in present else [])]

    def tables(self, pairs: bool) -> Iterator[doc.Table]:
        """Show values of the whole model, then by modality; ``pairs`` adds those that are about two."""
        alone, split = self.values
        whole = [(doc.name(short_name(r)), number(r.value, r.interval), r.unit or "") for r in alone]
        names = [doc.TableColumn(doc.Span(WHOLE if m is None else m, "name"), "number") for m in self.modalities]
        rows = list(_rows([r for r in split if pairs or r.versus is None], self.modalities))
        found = [
            doc.table(f"{self.title}, whole model", ("result", ">value", "unit"), whole),
            doc.table(f"{self.title}, by modality", ("result", *names), rows, split=True),
        ]
        return (table for table in found if table.rows)


def by_probe(report: Report) -> list[ProbeResults]:
    """Group the results by probe, in the order in which they are shown."""
    heads, order = headings(r.probe for r in report.results), report.subject.modalities
    return [
        ProbeResults(h.probe, h.title, tuple(r for r in report.results if r.probe == h.probe), order) for h in heads
    ]


def _rows(results: Sequence[Result], order: Sequence[str | None]) -> Iterator[tuple[doc.TableCell, ...]]:
    rows: dict[tuple[str, str | None], dict[str | None, Result]] = {}
    for r in results:
        rows.setdefault((r.name, r.versus), {})[r.modality] = r
    for (_, versus), found in rows.items():
        first, cells = next(iter(found.values())), {m: number(r.value, r.interval) for m, r in found.items()}
        text = short_name(first) + (f" versus {versus}" if versus is not None else "")
        yield doc.name(text, first.unit or ""), *(cells.get(m, doc.TableCell()) for m in order)


def cost(report: Report, modality: str, other: str | None = None) -> str:
    """Write what it costs not to use a modality, with as many digits as its interval justifies.

    Args:
        report: The report.
        modality: Its name.
        other: The other modality that is missing; None: what it costs today.

    Returns:
        The number, in the task metric; a dash where there is none.
    """
    verdict = report.modalities[modality]
    value = verdict.costs_now if other is None else verdict.costs_if_missing.get(other)
    name = "utilisation.costs_now" if other is None else "utilisation.costs_if_missing"
    measured = report.find(name, modality, other)
    return fmt_parts(value, measured.interval if measured is not None else None)[0]


class Subset(NamedTuple):
    """One coalition of modalities and what the model does with it. ``members`` is None where it is not one."""

    label: str
    members: frozenset[str] | None
    loss: Estimate | None
    metric: Estimate | None


def subsets(report: Report) -> list[Subset]:
    """Make the coalition table, smallest first: each subset's loss and metric, from the ``reliance`` curves."""
    found: dict[str, dict[str, Estimate]] = {part: {} for part in SUBSETS.values()}
    for name, part in SUBSETS.items():
        curve = next((r for r in report.named(name) if r.curve is not None), None)
        found[part] = {str(x): (y, ends) for x, y, ends in points(curve)}
    names = dict.fromkeys(name for part in found.values() for name in part)
    every = report.subject.modalities
    rows = [Subset(n, subset_members(every, n), found["loss"].get(n), found["metric"].get(n)) for n in names]
    return sorted(rows, key=lambda s: len(s.members) if s.members is not None else 0)


def points(result: Result | None) -> list[tuple[float | str, float, Interval]]:
    """List the points of a curve: x, y and the ends of y's interval."""
    curve = result.curve if result is not None else None
    if curve is None:
        return []
    ends: list[Interval] = [None] * len(curve.y)
    if curve.lower is not None and curve.upper is not None:
        ends = list(zip(curve.lower, curve.upper, strict=True))
    return list(zip(curve.x, curve.y, ends, strict=True))
