"""The arrangement every format of a Comparison shares: names made harmless, rows in blocks, cells as text with marks.

All functions but :func:`cleaned_comparison` take a comparison that has been through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from collapsekit.render.numbers import ABSENT, fmt, fmt_interval
from collapsekit.render.sanitize import NAME_LIMIT, TEXT_LIMIT, clean, display_names
from collapsekit.render.tables import MARKS, SEVERITY
from collapsekit.report.comparison import Cell, Column, Comparison, Row

BEST, DIFFERS = "*", "†"
ARROWS = {"lower": "↓", "higher": "↑"}


@dataclass(frozen=True)
class Shown:
    """A cell as text. ``aside`` is its interval, or the spread of its runs; ``state`` its verdict, the worst of several."""

    text: str
    aside: str = ""
    marks: str = ""
    best: bool = False
    state: str | None = None
    short: str = ""  # of verdicts: signs only


@dataclass(frozen=True)
class Line:
    """One row under the heading of its block."""

    modality: str | None
    versus: str | None
    cells: tuple[Shown, ...]

    @property
    def label(self) -> str:
        """What the row is of; empty where it is of the whole model."""
        return (self.modality or "") + (f" without {self.versus}" if self.versus is not None else "")


@dataclass(frozen=True)
class Block:
    """Rows of one number."""

    name: str
    arrow: str
    unit: str
    why: str
    lines: tuple[Line, ...]


def cleaned_comparison(comparison: Comparison) -> Comparison:
    """The same comparison with every string cleaned, so that no renderer can forget one. Names stay distinct."""
    names = display_names(dict.fromkeys(c.name for c in comparison.columns))
    found = [*comparison.modalities, *(n for r in comparison.rows for n in (r.modality, r.versus) if n is not None)]
    modalities = display_names(dict.fromkeys(found))
    raw = comparison.model_dump()
    raw["modalities"] = [modalities[m] for m in raw["modalities"]]
    for column in raw["columns"]:
        column["name"] = names[column["name"]]
    for row in raw["rows"]:
        for field in ("modality", "versus"):
            row[field] = None if row[field] is None else modalities[row[field]]
    if raw["testing"] is not None:
        raw["testing"]["reference"] = names[raw["testing"]["reference"]]
    return Comparison.model_validate(_walk(raw))


def _walk(value: object) -> object:
    if isinstance(value, str):
        return clean(value, TEXT_LIMIT)
    if isinstance(value, dict):
        return {clean(str(k), NAME_LIMIT): _walk(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_walk(v) for v in value]
    return value


def about(comparison: Comparison) -> str:
    """What the reports share, in one line."""
    c = comparison
    names = ", ".join(c.modalities)
    return f"{c.task}, {c.metric} · {c.split} split, {c.examples} examples · {names}"


def runs_of(column: Column) -> str:
    """``5 runs``, or the checkpoint of the only one."""
    return f"{len(column.runs)} runs" if len(column.runs) != 1 else column.runs[0].checkpoint


def blocks(comparison: Comparison) -> list[Block]:
    """Rows under the name they share, in the comparison's order."""
    return _blocks(comparison, lambda row: tuple(map(_shown, row.cells, comparison.columns)))


def p_blocks(comparison: Comparison) -> tuple[list[Column], list[Block]]:
    """The columns that were tested, and p-values after Holm's correction of the rows that were."""
    columns = [i for i, _ in enumerate(comparison.columns) if any(row.cells[i].test for row in comparison.rows)]
    tested = comparison.model_copy(update={"rows": tuple(r for r in comparison.rows if any(c.test for c in r.cells))})
    found = _blocks(tested, lambda row: tuple(_p_value(row.cells[i], comparison.columns[i]) for i in columns))
    return [comparison.columns[i] for i in columns], found


def _blocks(comparison: Comparison, cells: Callable[[Row], tuple[Shown, ...]]) -> list[Block]:
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in comparison.rows:
        grouped.setdefault((row.part, row.name), []).append(row)
    return [
        Block(
            name=rows[0].name,
            arrow=ARROWS.get(rows[0].better or "", ""),
            unit=rows[0].unit or "",
            why=rows[0].why or "",
            lines=tuple(Line(r.modality, r.versus, cells(r)) for r in rows),
        )
        for rows in grouped.values()
    ]


def _shown(cell: Cell, column: Column) -> Shown:
    if cell.states:
        return _states(cell, column)
    if cell.value is None:
        return Shown(ABSENT)
    marks = BEST * cell.best + DIFFERS * (cell.test is not None and cell.test.significant)
    aside = f"({fmt(cell.sd)})" if cell.sd is not None else fmt_interval(cell.interval)
    if cell.runs < len(column.runs):
        aside = f"{aside} {cell.runs} of {len(column.runs)}".lstrip()
    return Shown(fmt(cell.value), aside, marks, cell.best)


def _states(cell: Cell, column: Column) -> Shown:
    order = (*SEVERITY, "healthy")
    found = sorted(cell.states.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order))
    many = len(column.runs) > 1
    text = ", ".join(f"{MARKS.get(s, '?')} {s}" + (f" {n}" if many else "") for s, n in found)
    short = " ".join(MARKS.get(s, "?") + (str(n) if many else "") for s, n in found)
    return Shown(text, state=found[0][0], short=short)


def _p_value(cell: Cell, column: Column) -> Shown:
    if cell.test is None:
        return Shown(ABSENT)
    test = cell.test
    text = "<0.0001" if test.p_holm < 1e-4 else fmt(test.p_holm)
    said = [f"{test.pairs} pairs"] * (test.pairs != column.pairs) + ["equal"] * (test.differing == 0)
    aside = f"({', '.join(said)})" if said else ""
    return Shown(text, aside, DIFFERS * test.significant, test.significant)


def legend(comparison: Comparison, *, intervals: bool = True) -> Iterator[str]:
    """What the signs mean, a sentence each; ``intervals``: whether they are shown."""
    cells = [c for r in comparison.rows for c in r.cells]
    if any(c.sd is not None for c in cells):
        yield "Of several runs, the mean and (standard deviation over runs)"
    if intervals and any(c.interval is not None for c in cells):
        yield "In [brackets], the interval over examples that a single report gives"
    if any(c.best for c in cells):
        yield f"{BEST} best of the row, where a direction is agreed: ↓ lower, ↑ higher is better"
    t = comparison.testing
    if t is not None and t.tests:
        yield f"{DIFFERS} differs from {t.reference}, p ≤ {t.alpha:g} after Holm's correction. {t.family}"
    if any(c.value is None and not c.states for c in cells):
        yield f"{ABSENT} not measured"


def absences(comparison: Comparison) -> list[tuple[str, str, str]]:
    """(number, column, why) of each cell that has nothing."""
    return [
        (row_name(row), column.name, cell.missing)
        for row in comparison.rows
        for column, cell in zip(comparison.columns, row.cells, strict=True)
        if cell.missing is not None
    ]


def row_name(row: Row) -> str:
    """The name with what it is of."""
    of = f" of {row.modality}" if row.modality is not None else ""
    return f"{row.name}{of}" + (f" versus {row.versus}" if row.versus is not None else "")


def definitions(comparison: Comparison) -> list[tuple[str, str, str]]:
    """(name, definition, source), once each."""
    return list(dict.fromkeys((r.name, r.definition, r.source) for r in comparison.rows))
