"""The figure of a comparison: from the base to each other column, by modality, of scores, costs and the task metric."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from collapsekit.render.figures import marks
from collapsekit.render.figures.style import INK, MARKERS, MUTED, RULE, SERIES, panels, say, short_labels, theme
from collapsekit.render.numbers import fmt_estimate
from collapsekit.report.comparison import Cell, Comparison, Row
from collapsekit.report.diagnosis import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw = Callable[..., "Figure"]
METRIC = "reliance.full_metric"
_PANELS = {"score": "ignored, 0 to 1", "costs_if_missing": "cost where another is missing", METRIC: ""}
_MOST_ROWS, _MOST_COLUMNS = 12, len(SERIES) + 1
_APART = 0.22  # between the lines of several columns, in rows


@dataclass(frozen=True)
class DumbbellPanel:
    """Rows of one quantity that the base and another column have a value of."""

    title: str
    rows: tuple[Row, ...]


def figures(comparison: Comparison) -> Iterator[tuple[str, str, Result | None, Draw]]:
    """Yield name, title, nothing that explains it, and ``draw(wide=True)``, where there are numbers to draw."""
    names = [column.name for column in comparison.columns]
    if comparison.base not in names or len(names) > _MOST_COLUMNS:
        return
    base = names.index(comparison.base)
    parts = tuple(panel for panel in map(functools.partial(_panel, comparison, base), _PANELS) if panel.rows)
    if parts:
        yield "dumbbells", f"From {comparison.base} to the others", None, functools.partial(_draw, names, base, parts)


def _panel(comparison: Comparison, base: int, name: str) -> DumbbellPanel:
    found = [row for row in comparison.rows if row.name == name and row.versus is None and _drawable(row, base)]
    unit = next((row.unit for row in found if row.unit), None)
    return DumbbellPanel(_PANELS[name] or unit or name, tuple(found[:_MOST_ROWS]))


def _drawable(row: Row, base: int) -> bool:
    values = [cell.value for cell in row.cells if cell.value is not None]
    others = [cell for i, cell in enumerate(row.cells) if i != base and cell.value is not None]
    ends = [end for cell in row.cells for end in cell.interval or ()]
    return row.cells[base].value is not None and bool(others) and marks.fits(values, ends)


@theme()
def _draw(names: Sequence[str], base: int, parts: Sequence[DumbbellPanel], wide: bool) -> Figure:
    others = [i for i in range(len(names)) if i != base]
    tall = max(len(panel.rows) for panel in parts)
    fig, axes = panels(len(parts), wide=wide, height=0.75 + (0.24 + 0.1 * len(others)) * tall)
    shown = short_labels(names, 20)
    for ax, panel in zip(axes, parts, strict=True):
        for at, row in enumerate(panel.rows):
            for nth, i in enumerate(others):
                place = at + _APART * (nth - (len(others) - 1) / 2)
                _dumbbell(ax, place, row.cells[base], row.cells[i], nth, names=(names[base], names[i]))
        labels = [row.modality or "whole model" for row in panel.rows]
        short = short_labels(list(dict.fromkeys(labels)), 16)
        ax.set_yticks(range(len(labels)), [short[label] for label in labels])
        ax.set_ylim(len(labels) - 0.5, -0.5)
        ax.grid(axis="y", visible=False)
        ax.set_title(panel.title)
        if panel.rows[0].name == "score":
            ax.set_xlim(-0.04, 1.04)
    first = axes[0]
    first.plot([], [], "o", color=INK, markerfacecolor="none", label=shown[names[base]])
    for nth, i in enumerate(others):
        first.plot([], [], MARKERS[nth], color=SERIES[nth], label=shown[names[i]])
    marks.legend(fig)
    return fig


def _dumbbell(ax: Axes, y: float, start: Cell, end: Cell, series: int, *, names: tuple[str, str]) -> None:
    """A line from the base's value to another's; dashed where it is not told from noise. ``names``: of both columns."""
    if start.value is None or end.value is None:
        return
    for cell in (start, end):  # which also keeps a difference within noise from filling the axis
        if cell.interval is not None:
            ax.plot(cell.interval, [y, y], color=RULE, linewidth=3, solid_capstyle="butt", zorder=1)
    clear = end.change is not None and end.change.clear
    line = "-" if clear else (0, (2, 1.5))
    ax.plot([start.value, end.value], [y, y], linestyle=line, color=SERIES[series] if clear else MUTED, linewidth=1.4)
    (first,) = ax.plot([start.value], [y], "o", color=INK, markerfacecolor="none", markersize=4)
    (last,) = ax.plot([end.value], [y], MARKERS[series], color=SERIES[series], markersize=4)
    for drawn, name, cell in ((first, names[0], start), (last, names[1], end)):
        say(drawn, f"{name}: {fmt_estimate(cell.value, cell.interval)}")
