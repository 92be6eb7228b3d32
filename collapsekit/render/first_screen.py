"""A diagnosis in at most 27 lines of a terminal: with what a command says beside it, at most 8 lines, it fits in 35."""

from __future__ import annotations

from bisect import bisect_left
from functools import partial

from rich.console import Console
from rich.text import Text

from collapsekit.render.views._screen import Fold, NextStep, Screen, cut, headline, list_folds, view_screen
from collapsekit.render.writers.terminal import MAX_WIDTH, MIN_WIDTH, write
from collapsekit.report.diagnosis import Report
from collapsekit.report.names import cleaned

LINES, COLUMNS = 27, 80


def write_screen(
    report: Report, steps: tuple[NextStep, ...], ends: tuple[str, ...], *, width: int = COLUMNS, color: bool = False
) -> str:
    """Write the first screen of a diagnosis: what does not fit is counted, and what is worst is always there.

    Args:
        report: The diagnosis.
        steps: What can be done next.
        ends: Sentences on where the files are.
        width: Columns, from 40 to 120 of which are used; under 80 there are more lines in the same proportion.
        color: Whether to colour it.

    Returns:
        The text.
    """
    columns = max(MIN_WIDTH, min(width, MAX_WIDTH))
    most = max(LINES, LINES * COLUMNS // columns)
    screen = Screen(cleaned(report), steps, ends)
    write_fold = partial(_write_fold, screen, columns=columns, color=color)
    folds = list(list_folds(report))  # each of fewer lines than the one before
    first = bisect_left(folds, True, key=lambda fold: write_fold(fold).count("\n") <= most)
    return write_fold(folds[min(first, len(folds) - 1)])


def _write_fold(screen: Screen, fold: Fold, *, columns: int, color: bool) -> str:
    return write(view_screen(screen, fold, columns), width=columns, color=color)


def write_headline(report: Report) -> str:
    """Write the verdict of the whole and its sentence in one line, whatever names the report holds."""
    return f"{headline(cleaned(report))}\n"


def wrap(text: str, most: int, columns: int) -> list[str]:
    """Break a sentence into lines; where it is longer, it is cut.

    Args:
        text: The sentence.
        most: Lines.
        columns: Of a line.

    Returns:
        The lines.
    """
    console, room = Console(width=columns), most * columns
    lines = Text(text).wrap(console, columns)
    while len(lines) > most:
        room -= columns // 8
        lines = Text(cut(text, room)).wrap(console, columns)
    return [line.plain.rstrip() for line in lines]
