"""A report in at most 27 lines of a terminal: with what a command says beside it, at most 8 lines, it fits in 35."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import TypeVar

from rich.console import Console
from rich.text import Text

from collapsekit.render.document import Document
from collapsekit.render.views._comparison_screen import (
    comparison_headline,
    list_comparison_folds,
    view_comparison_screen,
)
from collapsekit.render.views._repair_screen import (
    list_repair_folds,
    repair_headline,
    view_repair_screen,
)
from collapsekit.render.views._screen import NextStep, Screen, cut, headline, list_folds, view_screen
from collapsekit.render.views.comparison import without_ties
from collapsekit.render.writers.terminal import MAX_WIDTH, MIN_WIDTH, write
from collapsekit.report.comparison import Comparison
from collapsekit.report.diagnosis import Report
from collapsekit.report.names import cleaned, cleaned_comparison, cleaned_repair
from collapsekit.report.repair import RepairReport

LINES, COLUMNS = 27, 80
Screened = Report | RepairReport | Comparison
Fold = TypeVar("Fold")


def write_screen(
    report: Screened, steps: tuple[NextStep, ...], ends: tuple[str, ...], *, width: int = COLUMNS, color: bool = False
) -> str:
    """Write the first screen of a report: what does not fit is counted, and what is worst is always there.

    Args:
        report: A diagnosis, a repair or a comparison.
        steps: What can be done next.
        ends: Sentences on where the files are.
        width: Columns, from 40 to 120 of which are used; under 80 there are more lines in the same proportion.
        color: Whether to colour it.

    Returns:
        The text.
    """
    columns = max(MIN_WIDTH, min(width, MAX_WIDTH))
    if isinstance(report, RepairReport):
        repair = Screen(cleaned_repair(report), steps, ends)
        folds = list_repair_folds(repair.report)
        return _write_fitting(folds, lambda fold: view_repair_screen(repair, fold, columns), columns, color=color)
    if isinstance(report, Comparison):
        compared = Screen(without_ties(cleaned_comparison(report)), steps, ends)
        return _write_fitting(
            list_comparison_folds(compared.report),
            lambda fold: view_comparison_screen(compared, fold, columns),
            columns,
            color=color,
        )
    screen = Screen(cleaned(report), steps, ends)
    return _write_fitting(list_folds(report), lambda fold: view_screen(screen, fold, columns), columns, color=color)


def _write_fitting(folds: Iterable[Fold], make: Callable[[Fold], Document], columns: int, *, color: bool) -> str:
    """The first fold that fits, of those that show less and less; where none does, the last."""
    most = max(LINES, LINES * COLUMNS // columns)
    every = list(folds)

    def show(fold: Fold) -> str:
        return write(make(fold), width=columns, color=color)

    first = bisect_left(every, True, key=lambda fold: show(fold).count("\n") <= most)
    return show(every[min(first, len(every) - 1)])


def write_headline(report: Screened) -> str:
    """Write what came out and its sentence in one line, whatever names the report holds."""
    if isinstance(report, RepairReport):
        return f"{repair_headline(cleaned_repair(report))}\n"
    if isinstance(report, Comparison):
        return f"{comparison_headline(cleaned_comparison(report))}\n"
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
