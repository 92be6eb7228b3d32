"""What figures are drawn with: lines with bands, grouped bars with intervals, legends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from collapsekit.render.figures.style import COLUMN, DASHES, INK, MARKERS, MUTED, SERIES, panels, short_labels
from collapsekit.render.numbers import power_of_ten
from collapsekit.report.diagnosis import Curve, Report, Result
from collapsekit.report.names import modality_names

_LARGEST = 1e100
_MOST_MARKERS = 40

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def palette_index(report: Report, modality: str | None) -> int:
    """Find the modality's place in the palette, the same in every figure of a report."""
    names = modality_names(report)
    return names.index(modality) % len(SERIES) if modality in names else 0


def color(report: Report, modality: str | None) -> str:
    """Find the modality's colour."""
    return SERIES[palette_index(report, modality)]


def names(report: Report, fig: Figure) -> dict[str, str]:
    """Shorten the modalities' names for a legend."""
    return short_labels(modality_names(report), 30 if fig.get_figwidth() > COLUMN else 22)


def line(ax: Axes, result: Result, index: int, label: str = "") -> None:
    """Draw a curve with its band.

    Args:
        ax: Where.
        result: Whose curve; one over names is left out.
        index: Of its colour, marker and dash.
        label: Its name in the legend.
    """
    curve = result.curve
    if curve is None or any(isinstance(x, str) for x in curve.x):
        return
    if curve.lower is not None and curve.upper is not None:
        ax.fill_between(curve.x, curve.lower, curve.upper, color=SERIES[index], alpha=0.15, linewidth=0)
    marked(ax, curve.x, curve.y, index, label)


def marked(ax: Axes, xs: Sequence[Any], ys: Sequence[float], index: int = 0, label: str = "") -> None:
    """Draw a line through points, each with a marker where they are few.

    Args:
        ax: Where.
        xs: Numbers along the axis.
        ys: One for each of them.
        index: Of its colour, marker and dash.
        label: Its name in the legend.
    """
    marker = MARKERS[index] if len(xs) <= _MOST_MARKERS else ""
    ax.plot(xs, ys, color=SERIES[index], linestyle=DASHES[index], marker=marker, label=label)


def fits(*numbers: Iterable[float | str] | None) -> bool:
    """Tell whether axes can show all the numbers; they work with sums and differences of them. Names take no room."""
    return all(isinstance(v, str) or abs(v) <= _LARGEST for part in numbers for v in part or ())


def curve_fits(curve: Curve) -> bool:
    """Tell whether axes can show a curve with its band."""
    return fits(curve.x, curve.y, curve.lower, curve.upper)


def log_scale(ax: Axes) -> None:
    """Make the y axis one of powers of ten, written as text: labels of Matplotlib's own would need maths markup."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    def text(value: float, _position: int) -> str:
        power = round(math.log10(value)) if value > 0 else 0
        return f"10{power_of_ten(power)}" if not 0 <= power <= 3 else f"{10**power}"

    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(FuncFormatter(text))
    ax.yaxis.set_minor_formatter(NullFormatter())


def legend(fig: Figure) -> None:
    """Put one legend above all panels, of what has a label in them; the figure grows by what it takes."""
    found = {label: h for ax in fig.axes for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if found:
        room = 110 if fig.get_figwidth() > COLUMN else 50
        across = min(len(found), max(1, room // (max(map(len, found)) + 7)))
        fig.set_figheight(fig.get_figheight() + 0.16 * -(-len(found) // across))
        fig.legend([*found.values()], [*found], loc="outside upper left", ncols=across, handlelength=2.4)


def bars(ax: Axes, labels: Sequence[str], series: Mapping[str, Sequence[Result | None]]) -> None:
    """Draw horizontal bars, the first label on top, one bar a series and label, intervals as whiskers.

    Args:
        ax: Where.
        labels: Down the side.
        series: Name in the legend to a result a label, or None.
    """
    thick = 0.72 / len(series)
    for k, (name, results) in enumerate(series.items()):
        first = (k - (len(series) - 1) / 2) * thick
        shown = [
            (i + first, r.value, r.interval) for i, r in enumerate(results) if r is not None and r.value is not None
        ]
        color, alpha = (SERIES[0], 1.0) if k == 0 else (MUTED, 0.5)
        how: dict[str, Any] = {"color": color, "alpha": alpha, "label": name if len(series) > 1 else ""}
        ax.barh([x[0] for x in shown], [x[1] for x in shown], thick * 0.9, **how)
        for y, _, interval in shown:
            if interval is not None:
                ax.plot(interval, (y, y), color=INK, linewidth=0.9, marker="|", markersize=3)
    ax.axvline(0, color=MUTED, linewidth=0.6)
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0, labelcolor=INK)


def bar_figure(report: Report, wide: bool, parts: Mapping[str, Mapping[str, str]]) -> Figure | None:
    """Draw a panel for each of ``parts``, modalities down the side.

    Args:
        report: Of a diagnosis, with clean names.
        wide: Whether panels stand abreast.
        parts: Axis label to series, each of which names a result; where a modality has none of its own, the one for the
            whole model stands for it.

    Returns:
        The figure; None where no part has values.
    """
    modalities = modality_names(report)
    every = {axis: _measured(report, modalities, series) for axis, series in parts.items()}
    shown = {axis: rows for axis, rows in every.items() if rows}
    if not shown:
        return None
    count = max(map(len, shown.values()))
    fig, axes = panels(len(shown), wide=wide, height=0.55 + len(modalities) * (0.16 + 0.1 * count))
    names = short_labels(modalities)
    for ax, (axis, rows) in zip(axes, shown.items(), strict=True):
        bars(ax, [names[m] for m in modalities], rows)
        label = axis.replace("{metric}", report.subject.metric)
        ax.set_xlabel(in_unit(label, (row for series in rows.values() for row in series)))
        if ax is not axes[0] and fig.get_figwidth() > COLUMN:
            ax.tick_params(labelleft=False)
    legend(fig)
    return fig


def in_unit(label: str, results: Iterable[Result | None]) -> str:
    """Fill ``{unit}`` in an axis's label.

    Args:
        label: may end in " ({unit})".
        results: that stand on the axis.

    Returns:
        The label with what their unit has in brackets at its end, such as nats, else what it begins with; without brackets
        where they have none.
    """
    unit = next((r.unit for r in results if r is not None and r.unit), "")
    _, opened, inside = unit.removesuffix(")").rpartition("(")
    short = inside.rpartition("; ")[2] if opened and unit.endswith(")") else unit.partition(",")[0]
    return label.replace("{unit}", short) if short else label.removesuffix(" ({unit})")


def _measured(report: Report, modalities: Sequence[str], series: Mapping[str, str]) -> dict[str, list[Result | None]]:
    """The series that have a value, a result a modality."""
    rows = {text: [_value(report, name, m) for m in modalities] for text, name in series.items()}
    return {text: row for text, row in rows.items() if any(row)}


def _value(report: Report, name: str, modality: str) -> Result | None:
    both = (report.find(name, modality), report.find(name))
    return next((r for r in both if r is not None and r.value is not None), None)
