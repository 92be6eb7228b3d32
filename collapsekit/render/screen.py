"""What the reports for a terminal share: a console that holds its text, headings, tables and names."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable, Iterable

from rich import box
from rich.cells import cell_len, chop_cells
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

STYLES = {
    "collapsed": "bold red",
    "underused": "yellow",
    "inconclusive": "magenta",
    "uninformative": "cyan",
    "used": "green",
    "healthy": "bold green",
}
_MIN_WIDTH, _MAX_WIDTH = 40, 120
LABEL_WIDTH = 24


def printed(blocks: Callable[[Console], Iterable[RenderableType]], width: int | None, color: bool) -> str:
    """``blocks`` as text no wider than ``width`` columns (default: the terminal's, from 40 to 120).

    Without ``color`` there is no escape sequence in it.
    """
    columns = width if width is not None else shutil.get_terminal_size((80, 24)).columns
    columns = max(_MIN_WIDTH, min(columns, _MAX_WIDTH))
    console = Console(
        file=io.StringIO(),
        width=columns,
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
        for block in blocks(console):
            console.print(block)
    lines = captured.get().splitlines()
    return "\n".join(line if color else line.rstrip() for line in lines) + "\n"


def heading(text: str, beside: str = "") -> Iterable[RenderableType]:
    """A line apart, with something dim behind it."""
    yield Text()
    yield Text.assemble((text, "bold underline"), (beside, "dim"))


def letter(index: int) -> str:
    """A, B, … for the first 26, then m27, m28, …"""
    return chr(ord("A") + index) if index < 26 else f"m{index + 1}"


def plain_table(*headers: str) -> Table:
    """A table with a rule under its header only; a header that starts with ``>`` is right-aligned."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for header in headers:
        right = header.startswith(">")
        table.add_column(Text(header.removeprefix(">")), justify="right" if right else "left", overflow="fold")
    return table


def broken_name(name: str, width: int = LABEL_WIDTH) -> Text:
    """``name`` broken after its own separators where it is wider than ``width``, else anywhere."""
    lines = [""]
    for piece in re.findall(r"[^\s_\-./:+]*[\s_\-./:+]|[^\s_\-./:+]+", name):
        if lines[-1] and cell_len(lines[-1]) + cell_len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return Text("\n".join(part for line in lines for part in chop_cells(line.rstrip(), width)))
