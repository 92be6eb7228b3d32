"""Words that several views share: numbers in cells, letters for long names, settings in lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from collapsekit.render import document as doc
from collapsekit.render.document import Span, TableCell, line
from collapsekit.render.numbers import fmt, fmt_estimate, fmt_parts
from collapsekit.report.diagnosis import ModalityVerdict, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

Interval = tuple[float, float] | None
Draw = Callable[..., "Drawing | None"]
Estimate = tuple[float, Interval]


def number(value: float | None, interval: Interval = None) -> TableCell:
    """Show a number and its interval."""
    text, ends = fmt_parts(value, interval)
    return TableCell(line(text), (Span(ends, "interval"),) if ends else ())


def estimate(value: Estimate | None, absent: str = "") -> TableCell:
    """Show a number and its interval, or what stands for one that is not there."""
    return number(*value) if value is not None else doc.cell(absent)


def moved(by: float | None, *ends: Interval) -> str:
    """Write a difference with its sign, and as many digits as the intervals of the two numbers justify together."""
    had = [e for e in ends if e is not None]
    if by is None or not had:
        text = fmt(by)
    else:
        half = sum((high - low) / 2 for low, high in had)
        text = fmt_parts(by, (by - half, by + half))[0]
    return f"+{text}" if by is not None and by > 0 and text[0].isdigit() and text != "0" else text


def point(x: float | str) -> TableCell:
    """Show where a point of a curve lies: a number, or a name."""
    return doc.cell(x if isinstance(x, str) else fmt(x))


def letters(names: Sequence[str], limit: int | None) -> dict[str, str]:
    """Give each name a letter where one is wider than ``limit``: A to Z, then m27, m28, …; else itself."""
    if limit is None or all(cell_len(n) <= limit for n in names):
        return {n: n for n in names}
    return {n: chr(ord("A") + i) if i < 26 else f"m{i + 1}" for i, n in enumerate(names)}


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


def names(lines: Iterable[tuple[str, str]]) -> list[tuple[TableCell, TableCell]]:
    """Make rows of names beside names: settings and their values."""
    return [(doc.name(key), doc.name(value)) for key, value in lines]


def thinned(count: int, most: int) -> list[int]:
    """Pick the places of at most ``most`` of ``count`` points, evenly spread, both ends among them."""
    return list(range(count)) if count <= most else [round(i * (count - 1) / (most - 1)) for i in range(most)]


def p_value(p: float | None) -> str:
    """Write a p-value; of the smallest ones only that they are small."""
    return "<0.0001" if p is not None and p < 1e-4 else fmt(p)


def made_by(report: Any) -> str:
    """Say which version made the report of a diagnosis, a repair or a comparison, and which schema it has."""
    kind = "comparison" if getattr(report, "kind", "") == "comparison" else "report"
    return f"Made by collapsekit {report.collapsekit}, {kind} schema {report.schema_version}."


def severity(word: str) -> int:
    """Rank a verdict, the worst first."""
    return list(doc.MARKS).index(word)


def drawn(
    figures: Iterable[tuple[str, str, Result | None, Draw]], findings: Mapping[str, str] | None = None
) -> Iterator[doc.Figure]:
    """Draw figures, wide and, where that differs, in one column, each with the definition of what explains it, and with
    what it shows, by its name."""
    for name, title, about, draw in figures:
        wide = draw(wide=True)
        if wide is not None:
            texts = (about.definition, about.source) if about is not None else ("", "")
            narrow = draw(wide=False) if wide.get_figwidth() > 4 else None
            yield doc.Figure(name, title, *texts, wide, narrow, (findings or {}).get(name, ""))


def meter(v: ModalityVerdict, when: str = "", *ends: str) -> doc.Block:
    """Show how much a modality is ignored on a scale whose ends have names, before or after a repair."""
    if v.score is None:
        return doc.sentence("No score could be had.", "note")
    text = f"{when}ignored {fmt_estimate(v.score, v.interval)} on a scale from 0, fully used, to 1, fully ignored"
    return doc.Meter(text, v.score, v.interval, v.verdict, ends)
