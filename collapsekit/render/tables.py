"""The arrangement every text format shares: results grouped by probe, one column a modality, subsets, settings.

All functions take a report that :func:`collapsekit.render.sanitize.cleaned` has been through.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from collapsekit.measures import Heading, headings
from collapsekit.report.diagnosis import ModalityVerdict, Report, Result

SEVERITY = ("collapsed", "underused", "inconclusive", "uninformative", "used")
MARKS = {
    "collapsed": "✗",
    "underused": "◐",
    "inconclusive": "?",
    "uninformative": "○",
    "used": "✓",
    "healthy": "✓",
}
WHOLE = "fused"  # the column of what has no modality, beside columns that have one


@dataclass(frozen=True)
class Row:
    """One result name across the modalities of a section; ``cells`` follows ``Section.columns``."""

    label: str
    unit: str | None
    pairwise: bool  # about two modalities
    cells: tuple[Result | None, ...]


@dataclass(frozen=True)
class Section:
    """What one probe left in the report."""

    probe: str
    title: str
    whole: tuple[Result, ...]  # values of the model as a whole
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
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


Estimate = tuple[float, tuple[float, float] | None]


def verdicts(report: Report) -> list[tuple[str, ModalityVerdict]]:
    """Modalities with their verdicts, the worst first, else in report order."""
    return sorted(report.modalities.items(), key=lambda item: SEVERITY.index(item[1].verdict))


def short_name(result: Result) -> str:
    """The name without its probe: ``vif.mean`` of probe ``vif`` is ``mean``."""
    return result.name.removeprefix(f"{result.probe}.") or result.name


def label(result: Result) -> str:
    """The short name with the modalities it is about: ``cka of image versus audio``."""
    of = f" of {result.modality}" if result.modality is not None else ""
    versus = f" versus {result.versus}" if result.versus is not None else ""
    return f"{short_name(result)}{of}{versus}"


def sections(report: Report) -> list[Section]:
    """One section a probe, in the order that probes declare."""
    return [_section(report, h) for h in headings(r.probe for r in report.results)]


def _section(report: Report, headed: Heading) -> Section:
    results = [r for r in report.results if r.probe == headed.probe]
    values = [r for r in results if r.value is not None]
    split = {r.name for r in values if r.modality is not None}
    across = [r for r in values if r.name in split]
    columns = _columns(report, across)
    keys = [WHOLE if c is None else c for c in columns]
    notes: dict[str, list[str]] = {}
    for r in results:
        if r.note is not None:
            notes.setdefault(r.note, []).append(label(r))
    return Section(
        probe=headed.probe,
        title=headed.title,
        whole=tuple(r for r in values if r.name not in split),
        columns=tuple(keys),
        rows=tuple(_rows(across, columns)),
        curves=tuple(r for r in results if r.curve is not None),
        skipped=tuple(r for r in results if r.skipped is not None),
        notes=tuple((some(about), note) for note, about in notes.items()),
        definitions=tuple({(r.name, r.definition, r.source): r for r in results}.values()),
    )


def some(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _columns(report: Report, results: list[Result]) -> list[str | None]:
    present = {r.modality for r in results}
    order: list[str | None] = [m for m in report.subject.modalities if m in present]
    order += [r.modality for r in results if r.modality not in order and r.modality is not None]
    return list(dict.fromkeys(order)) + ([None] if None in present else [])


def _rows(results: list[Result], columns: list[str | None]) -> Iterator[Row]:
    rows: dict[tuple[str, str | None, int], dict[str | None, Result]] = {}
    seen: Counter[tuple[str, str | None, str | None]] = Counter()
    for r in results:
        again = (r.name, r.versus, r.modality)  # a name used twice gets a row of its own, and nothing is lost
        rows.setdefault((r.name, r.versus, seen[again]), {})[r.modality] = r
        seen[again] += 1
    for (_, versus, _), cells in rows.items():
        first = next(iter(cells.values()))
        text = short_name(first) + (f" versus {versus}" if versus is not None else "")
        yield Row(text, first.unit, versus is not None, tuple(cells.get(c) for c in columns))


def subsets(report: Report) -> list[Subset]:
    """The coalition table, smallest first: each subset's loss and metric, from the ``reliance`` curves."""
    found = {part: _by_category(report, f"reliance.{part}") for part in ("subsets", "subsets_metric")}
    names = dict.fromkeys([*found["subsets"], *found["subsets_metric"]])
    table = [Subset(n, _members(report, n), found["subsets"].get(n), found["subsets_metric"].get(n)) for n in names]
    return sorted(table, key=lambda s: len(s.members) if s.members is not None else 0)


def _by_category(report: Report, name: str) -> dict[str, Estimate]:
    curve = next((r.curve for r in report.named(name) if r.curve is not None), None)
    if curve is None:
        return {}
    bounds: list[tuple[float, float] | None] = [None] * len(curve.x)
    if curve.lower is not None and curve.upper is not None:
        bounds = list(zip(curve.lower, curve.upper, strict=True))
    return {str(x): (y, b) for x, y, b in zip(curve.x, curve.y, bounds, strict=True)}


def _members(report: Report, name: str) -> frozenset[str] | None:
    if name == "(none)":
        return frozenset()
    parts = [name] if name in report.subject.modalities else name.split("+")
    return frozenset(parts) if all(p in report.subject.modalities for p in parts) else None


def flatten(mapping: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted key, JSON text) lines."""
    lines: list[tuple[str, str]] = []
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            lines += flatten(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            lines.append((f"{prefix}{key}", text))
    return lines


def command(report: Report) -> str | None:
    """The command line that made the report, where it is known."""
    line = report.settings.get("command")
    return line if isinstance(line, str) and line else None


def settings_lines(report: Report) -> list[tuple[str, str]]:
    """All settings but the command."""
    return flatten({k: v for k, v in report.settings.items() if k != "command"})
