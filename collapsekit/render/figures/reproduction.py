"""The figure of an item: lines over its columns, or bars; ours with deviations, and the paper's numbers where it has any."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from collapsekit.io.safe_text import clean
from collapsekit.render.figures.marks import marked
from collapsekit.render.figures.style import MUTED, SERIES, panels, say, short_labels, theme
from collapsekit.render.numbers import fmt
from collapsekit.report.reproduction import ItemCell, Reproduction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_LABEL = 34  # characters of a line beside an axis
_WIDE, _NARROW, _KEY = 100, 50, 6  # of a legend over a page's width or a column's, and of an entry's sign
_LINE = 0.17  # inches of one of its lines


@theme()
def draw(report: Reproduction) -> Figure:
    """Draw an item.

    Args:
        report: Whose numbers.

    Returns:
        A figure of one panel, or of two where the paper prints numbers: ours, and the paper's. Lines are at most as many
        as there are colours: rows beyond stand in the table alone.
    """
    rows = report.rows[: len(SERIES)] if report.drawn == "lines" else report.rows
    printed = any(cell.paper is not None for cell in report.cells)
    figure, axes = panels(1 + printed, height=2.4)
    labels = short_labels([clean(row) for row in rows])
    for ax, paper in zip(axes, (False, True), strict=False):
        ax.set_title("paper" if paper else "here")
        for place, row in enumerate(rows):
            cells = [c for c in report.cells if c.row == row and _value(c, paper=paper) is not None]
            _draw_row(ax, report, place, labels[clean(row)], cells, paper=paper)
        ax.set_xticks(range(len(report.columns)), [clean(c) for c in report.columns])
        if max(map(len, report.columns)) * len(report.columns) > 40:
            ax.tick_params(axis="x", rotation=30)
        ax.set_xlabel(clean(report.column_label))
    axes[0].set_ylabel(textwrap.fill(clean(report.measure), _LABEL))
    across = max(1, (_WIDE if printed else _NARROW) // (max(map(len, labels.values())) + _KEY))
    figure.set_figheight(figure.get_figheight() + _LINE * -(-len(labels) // across))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=across)
    return figure


def _value(cell: ItemCell, *, paper: bool) -> float | None:
    return cell.paper if paper else cell.here


def _draw_row(ax: Axes, report: Reproduction, place: int, label: str, cells: list[ItemCell], *, paper: bool) -> None:
    """A row's numbers: a line over columns, or one bar in each column's group."""
    index = place % len(SERIES)
    at = [report.columns.index(c.column) for c in cells]
    values = [_value(c, paper=paper) or 0.0 for c in cells]
    spread = [0.0 if paper else c.sd or 0.0 for c in cells]
    if report.drawn == "lines":
        marked(ax, at, values, index, label)
        low, high = ([v + sign * s for v, s in zip(values, spread, strict=True)] for sign in (-1, 1))
        ax.fill_between(at, low, high, color=SERIES[index], alpha=0.12, linewidth=0)
        return
    width = 0.8 / len(report.rows)
    middle = [x + (place - (len(report.rows) - 1) / 2) * width for x in at]
    hatch = "" if place < len(SERIES) else "//"
    bars = ax.bar(middle, values, width * 0.9, color=SERIES[index], hatch=hatch, label=label)
    for bar, cell, value in zip(bars, cells, values, strict=True):
        say(bar, f"{label}, {clean(cell.column)}: {fmt(value)}")
    ax.errorbar(middle, values, spread, fmt="none", ecolor=MUTED, elinewidth=0.7)
