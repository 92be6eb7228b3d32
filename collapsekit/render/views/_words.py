"""Words that several views share: numbers in cells, letters for long names, settings in lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len

from collapsekit.render import document as doc
from collapsekit.render.document import Cell, Line, Run, Table, line
from collapsekit.render.numbers import fmt, fmt_interval

Interval = tuple[float, float] | None
Estimate = tuple[float, Interval]


def number(value: float | None, interval: Interval = None) -> Cell:
    """A number and its interval."""
    return Cell(line(fmt(value)), _ends(interval))


def estimate(found: Estimate | None, absent: str = "") -> Cell:
    """A number and its interval, or what stands for one that is not there."""
    return number(*found) if found is not None else doc.cell(absent)


def point(x: float | str) -> Cell:
    """Where a point of a curve lies: a number, or a name."""
    return doc.cell(x if isinstance(x, str) else fmt(x))


def strong_number(value: float | None, interval: Interval = None) -> Line:
    """A number that stands out in a line, and its interval."""
    ends = _ends(interval)
    return (Run(fmt(value), "strong"), *[Run(" ")] * len(ends), *ends)


def _ends(interval: Interval) -> Line:
    return (Run(fmt_interval(interval), "interval"),) if interval is not None else ()


def letter(index: int) -> str:
    """A, B, … for the first 26, then m27, m28, …"""
    return chr(ord("A") + index) if index < 26 else f"m{index + 1}"


def letters(names: Sequence[str], limit: int) -> dict[str, str] | None:
    """A letter for each of the names where one is wider than ``limit``, else None."""
    return {n: letter(i) for i, n in enumerate(names)} if any(cell_len(n) > limit for n in names) else None


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


def names_table(title: str, heads: tuple[str, str], lines: Iterable[tuple[str, str]], **how: Any) -> Table:
    """Names beside names: settings and their values."""
    return doc.table(title, heads, [(doc.name(key), doc.name(value)) for key, value in lines], **how)


def thinned(count: int, most: int) -> list[int]:
    """The places of at most ``most`` of ``count`` points, evenly spread, both ends among them."""
    return list(range(count)) if count <= most else [round(i * (count - 1) / (most - 1)) for i in range(most)]


def p_value(p: float | None) -> str:
    """A p-value; of the smallest ones only that they are small."""
    return "<0.0001" if p is not None and p < 1e-4 else fmt(p)


def made_by(report: Any, detail: doc.Detail, rest: str) -> str:
    """Which version made the report; at a glance, also where the rest is, and on a page which schema it has."""
    kind = "comparison" if getattr(report, "kind", "") == "comparison" else "report"
    ends = {
        doc.Detail.GLANCE: f". {rest}",
        doc.Detail.SUMMARY: ".",
        doc.Detail.FULL: f", {kind} schema {report.schema_version}.",
    }
    return f"Made by collapsekit {report.collapsekit}{ends[detail]}"
