"""A document for a terminal: text no wider than the window, colours where they are wanted, no other escapes."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from rich import box
from rich.cells import cell_len, chop_cells
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from collapsekit.render import document as doc

DETAIL = doc.Detail.GLANCE
_STYLES = {"heading": "bold underline", "strong": "bold", "quiet": "dim", "interval": "dim", "off": "dim"}
_TONES = {"bad": "bold red", "warn": "yellow", "open": "bold magenta", "calm": "cyan", "good": "bold green"}
MIN_WIDTH, MAX_WIDTH = 40, 120
_LABELS = (28, 20, 14)  # columns that a row's name may take; the last only where it saves a table from being broken


def write(document: doc.Document, *, width: int | None = None, color: bool = False) -> str:
    """Print the document for a terminal.

    Args:
        document: What a view made.
        width: Columns (default: the terminal's); at least 40 and at most 120 are used.
        color: Whether to colour it; without, there is no escape sequence in it, whatever names the report holds.

    Returns:
        The text, no line of which is wider.
    """
    wanted = width if width is not None else shutil.get_terminal_size((80, 24)).columns
    console = Console(
        file=io.StringIO(),
        width=max(MIN_WIDTH, min(wanted, MAX_WIDTH)),
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=not color,
        legacy_windows=False,
        highlight=False,
        markup=False,
        emoji=False,
        _environ={},
    )
    with console.capture() as captured:
        for part in _document(document, console):
            console.print(part)
    lines = captured.get().splitlines()
    return "\n".join(text if color else text.rstrip() for text in lines) + "\n"


def _document(document: doc.Document, console: Console) -> Iterator[RenderableType]:
    outcome = document.outcome
    if outcome is not None:
        yield Text.assemble((f"{outcome.mark} {outcome.text.upper()}", _style(outcome)), "  ", document.title)
    elif document.title:
        yield Text(document.title)
    facts = " · ".join(f"{doc.plain(fact.runs)} {doc.plain(fact.text)}" for fact in document.facts.items)
    yield from [Text(facts, style="dim")] * bool(facts)
    for warning in document.warnings:
        yield Text.assemble(("Warning: ", "bold yellow"), warning)
    for section in document.sections:
        yield Text()
        if section.title:
            yield _text(doc.line(doc.Span(section.title[0].text, "heading"), *section.title[1:]))
        yield from _shown(section.blocks, console)
    yield Text()
    yield from (Text(doc.plain(end), style="dim") for end in document.ends)


def _style(run: doc.Span) -> str:
    return _TONES.get(doc.TONES.get(run.kind, ""), _STYLES.get(run.kind, ""))


def _text(runs: doc.Line) -> Text:
    return Text.assemble(*((doc.plain((r,)) if r.kind != "command" else f"`{r.text}`", _style(r)) for r in runs))


def _shown(blocks: Iterable[doc.Block], console: Console) -> Iterator[RenderableType]:
    """The blocks as what rich prints."""
    for block in doc.simple(blocks):
        if isinstance(block, doc.Table):
            yield from _tables(block, console)
        elif isinstance(block, doc.Items):
            for i, runs in enumerate(block.lines):
                grid = Grid.grid(padding=(0, 1, 0, 0))
                grid.add_column(no_wrap=True)
                grid.add_column(overflow="fold")
                grid.add_row(_text(block.marks[i : i + 1]) if block.marks else Text("·"), _text(runs))
                yield grid
        else:
            text = _text(block.runs)
            text.stylize({"lead": "dim", "note": "dim", "heading": "bold", "command": "bold"}.get(block.kind, ""))
            yield from [Text()] * (block.kind == "heading")
            yield Padding(text, (0, 0, 0, 2)) if block.kind in ("inset", "command") else text


def _tables(block: doc.Table, console: Console) -> Iterator[RenderableType]:
    for i, grid in enumerate(_laid_out(block, console)):
        yield from [Text()] * (i > 0)
        yield grid
    below = [*[block.meaning()] * bool(block.meaning()), *(f"{text}." for text in block.legend)]
    yield from (Text(text, style="dim") for text in below)


def _laid_out(block: doc.Table, console: Console) -> list[Grid]:
    """The first way that fits; where none does, several tables, or columns that break what is too long for them."""
    labels = _LABELS[: 2 if block.split else 3]
    grids = [_grid(block, labels[0], beside=True), *(_grid(block, width) for width in labels)]
    fitting = next((grid for grid in grids if _width(grid, console) <= console.width), None)
    if fitting is None and all(c.kind in ("number", "state") for c in block.columns[1:]):
        return _split(block, labels[-1], console)
    return [fitting or grids[-1]]


def _split(block: doc.Table, label: int, console: Console) -> list[Grid]:
    """As few tables as it takes for each to fit, with about as many of the columns each."""
    count = len(block.columns) - 1
    grids: list[Grid] = []
    for size in dict.fromkeys(-(-count // parts) for parts in range(1, count + 1)):
        starts = range(1, count + 1, size)
        grids = [_grid(_only(block, [0, *range(s, min(s + size, count + 1))]), label) for s in starts]
        if all(_width(grid, console) <= console.width for grid in grids):
            break
    return grids


def _only(block: doc.Table, places: Sequence[int]) -> doc.Table:
    """The columns at these places of the table."""
    rows = tuple(tuple(row[i] for i in places) for row in block.rows)
    return replace(block, columns=tuple(block.columns[i] for i in places), rows=rows)


def _width(grid: Grid, console: Console) -> int:
    return Measurement.get(console, console.options.update(max_width=10_000), grid).maximum


def _grid(block: doc.Table, label: int, *, beside: bool = False) -> Grid:
    """The table, with names of ``label`` columns at most, and asides beside their values or below."""
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in block.columns:
        grid.add_column(Text(column.head.text), overflow="fold", no_wrap=column.kind == "state")
        grid.columns[-1].justify = "right" if column.kind == "number" else "left"
    marks = max((len(c.marks) for row in block.rows for c in row), default=0)
    for first, *others in block.rows:
        name = _label(first, label) if block.columns[0].kind != "mark" else _value(first, marks, beside)
        kinds = [column.kind for column in block.columns[1:]]
        cells = [_value(c, marks * (kind == "number"), beside) for c, kind in zip(others, kinds, strict=True)]
        grid.add_row(name, *cells)
    return grid


def _label(cell: doc.TableCell, width: int) -> Text:
    """A row's name, broken after its own separators, else anywhere, and what goes with it, below where it is too long."""
    *before, name = cell.runs or (doc.Span(""),)
    text = _text(tuple(before)) + Text(_broken(name.text, width), style=_style(name))
    aside = f"({doc.plain(cell.aside)})" if cell.aside else ""
    below = cell_len(f"{text.plain} {aside}") > width
    return text + Text(("\n" if below else " ") + aside) if aside else text


def _broken(name: str, width: int) -> str:
    lines = [""]
    for piece in re.findall(r"[^\s_\-./:+]*[\s_\-./:+]|[^\s_\-./:+]+", name):
        if lines[-1] and cell_len(lines[-1]) + cell_len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(part for text in lines for part in chop_cells(text.rstrip(), width))


def _value(cell: doc.TableCell, marks: int, beside: bool) -> Text:
    """A value with room for marks behind it, so that numbers stay in line, and its aside."""
    text = _text(cell.runs) + Text(cell.marks)
    text = Text("\n").join(part + Text(" " * (marks - len(cell.marks))) for part in text.split("\n")) if marks else text
    aside = doc.plain(cell.aside)
    if not aside:
        return text
    return text + Text(" " if beside else "\n") + _text(cell.aside) + Text("" if beside else " " * marks)
