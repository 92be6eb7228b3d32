"""Reports side by side on a terminal."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from collapsekit.render.compare_tables import Block, Shown, about, blocks, cleaned_comparison, legend, p_blocks, runs_of
from collapsekit.render.numbers import ABSENT
from collapsekit.render.screen import STYLES, broken_name, heading, letter, plain_table, printed
from collapsekit.render.tables import MARKS
from collapsekit.report.comparison import Column, Comparison

_NAME_WIDTH = 12  # columns with longer names are called A, B, …
_LABELS = (28, 20)  # widths of the first column, roomy and tight


@dataclass(frozen=True)
class _Way:
    """How cells are written: with intervals and verdicts in words, or neither."""

    full: bool
    label: int


_WAYS = (_Way(True, _LABELS[0]), _Way(True, _LABELS[1]), _Way(False, _LABELS[1]))


def render(comparison: Comparison, *, width: int | None = None, color: bool = False) -> str:
    """The comparison as text no wider than ``width`` columns (default: the terminal's, from 40 to 120).

    Without ``color`` there is no escape sequence in it, whatever names the reports hold.
    """
    comparison = cleaned_comparison(comparison)
    return printed(lambda console: _all(comparison, console), width, color)


def _all(comparison: Comparison, console: Console) -> Iterable[RenderableType]:
    columns = comparison.columns
    long = any(cell_len(c.name) > _NAME_WIDTH for c in columns)
    heads = {c.name: letter(i) if long else c.name for i, c in enumerate(columns)}
    yield Text(about(comparison), style="dim")
    yield Text()
    for column in columns:
        key = f"{heads[column.name]} = {column.name}" if long else column.name
        reference = ", the reference" if _is_reference(comparison, column) else ""
        yield Text.assemble((key, "bold"), f": {runs_of(column)}{reference}")
    yield Text()
    way = yield from _tables(blocks(comparison), [heads[c.name] for c in columns], console, _WAYS)
    for line in _legend(comparison, way):
        yield Text(f"{line}.", style="dim")
    tested, found = p_blocks(comparison)
    if found and comparison.testing is not None:
        yield from heading("p-values after Holm's correction", f"  against {comparison.testing.reference}")
        yield from _tables(found, [heads[c.name] for c in tested], console, _WAYS[:2])
    for note in comparison.notes:
        yield Text()
        yield Text(f"Note: {note}")
    yield Text()
    yield Text(f"Made by collapsekit {comparison.collapsekit}. Definitions and sources: HTML or JSON.", style="dim")


def _is_reference(comparison: Comparison, column: Column) -> bool:
    return comparison.testing is not None and comparison.testing.reference == column.name


def _legend(comparison: Comparison, way: _Way) -> Iterable[str]:
    if not way.full:
        yield ", ".join(f"{mark} {state}" for state, mark in MARKS.items() if state != "healthy")
        if any(c.interval is not None for row in comparison.rows for c in row.cells):
            yield "Intervals: Markdown, HTML or JSON"
    yield from legend(comparison, intervals=way.full)


def _tables(
    found: Sequence[Block], heads: Sequence[str], console: Console, ways: Sequence[_Way]
) -> Generator[RenderableType, None, _Way]:
    """The first arrangement that fits; where none does, the last one in as many tables as it takes."""
    for way in ways:
        table = _table(found, heads, range(len(heads)), way)
        if _wide(table, console) <= console.width:
            yield table
            return way
    way = ways[-1]
    for parts in range(2, len(heads) + 1):
        size = -(-len(heads) // parts)
        pieces = [range(i, min(i + size, len(heads))) for i in range(0, len(heads), size)]
        tables = [_table(found, heads, piece, way) for piece in pieces]
        if parts == len(heads) or all(_wide(t, console) <= console.width for t in tables):
            break
    for table in tables:
        yield from (Text(), table)
    return way


def _wide(table: Table, console: Console) -> int:
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum


def _table(found: Sequence[Block], heads: Sequence[str], shown: Sequence[int], way: _Way) -> Table:
    table = plain_table("", *(f">{heads[i]}" for i in shown))
    empty = [Text()] * len(shown)
    marks = max((len(line.cells[i].marks) for b in found for line in b.lines for i in shown), default=0)
    for block in found:
        title = f"{block.name} {block.arrow}".rstrip()
        first = broken_name(title, way.label)
        first.stylize("bold")
        if len(block.lines) == 1 and not block.lines[0].label:
            table.add_row(first, *(_cell(block.lines[0].cells[i], marks, way) for i in shown))
            continue
        table.add_row(first, *empty)
        for line in block.lines:
            label = broken_name(line.label or "whole model", way.label - 2)
            indented = Text("\n").join(Text("  ") + part for part in label.split("\n"))
            table.add_row(indented, *(_cell(line.cells[i], marks, way) for i in shown))
    return table


def _cell(cell: Shown, marks: int, way: _Way) -> Text:
    """The value with room for marks behind it, so that numbers stay in line; its spread below."""
    if cell.state is not None:
        text = cell.text.replace(", ", "\n") if way.full else cell.short
        return Text("\n".join(line + " " * marks for line in text.split("\n")), style=STYLES.get(cell.state, ""))
    found = Text(cell.text, style="bold" if cell.best else "") + Text(cell.marks.ljust(marks))
    if cell.text != ABSENT and cell.aside and (way.full or cell.aside.startswith("(")):
        found += Text("\n" + cell.aside + " " * marks, style="dim")
    return found
