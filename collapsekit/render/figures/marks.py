"""What figures are drawn with: lines with bands, grouped bars with intervals, legends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from collapsekit.render.figures.style import DASHES, INK, MARKERS, MUTED, PAPER, SERIES, say, short_labels
from collapsekit.render.numbers import fmt, fmt_estimate, power_of_ten
from collapsekit.report.diagnosis import Curve, Report, Result
from collapsekit.report.names import modality_names

_LARGEST = 1e100
_MOST_MARKERS = 40

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def palette_index(report: Report, modality: str | None) -> int:
    """Find the modality's place among all, by which it looks, the same in every figure of a report."""
    names = modality_names(report)
    return names.index(modality) if modality in names else 0


def color(report: Report, modality: str | None) -> str:
    """Find the modality's colour."""
    return SERIES[palette_index(report, modality) % len(SERIES)]


def names(report: Report, wide: bool) -> dict[str, str]:
    """Shorten the modalities' names for a legend."""
    return short_labels(modality_names(report), 30 if wide else 22)


def line(ax: Axes, result: Result, index: int | None, label: str = "", places: Mapping[str, int] | None = None) -> None:
    """Draw a curve with its band.

    Args:
        ax: Where.
        result: Whose curve; one over names without places is left out.
        index: Of its colour, marker and dash; None: that of the whole model, in ink.
        label: Its name in the legend.
        places: Where the names that a curve is over stand along the axis.
    """
    curve = result.curve
    if curve is None or any(isinstance(x, str) and x not in (places or {}) for x in curve.x):
        return
    xs = [(places or {})[x] if isinstance(x, str) else x for x in curve.x]
    if curve.lower is not None and curve.upper is not None:
        color = INK if index is None else SERIES[index % len(SERIES)]
        ax.fill_between(xs, curve.lower, curve.upper, color=color, alpha=0.15, linewidth=0)
    marked(ax, xs, curve.y, index, label, texts=describe_points(curve, label))


def describe_points(curve: Curve, label: str) -> list[str]:
    """Write what is said of each point of a curve where it is pointed at; ``label``: the curve's own name."""
    ends = zip(curve.lower, curve.upper, strict=True) if curve.lower is not None and curve.upper is not None else ()
    intervals = [*ends] or [None] * len(curve.y)
    points = zip(curve.x, curve.y, intervals, strict=True)
    return [
        _join_words(
            label, x if isinstance(x, str) else f"{curve.x_label} {x:.4g}", f"{curve.y_label} {fmt_estimate(y, i)}"
        )
        for x, y, i in points
    ]


def _join_words(*parts: str) -> str:
    """What it is of, and behind a colon the number."""
    return ": ".join(filter(None, (", ".join(filter(None, parts[:-1])), parts[-1])))


def marked(
    ax: Axes,
    xs: Sequence[Any],
    ys: Sequence[float],
    index: int | None = 0,
    label: str = "",
    *,
    texts: Sequence[str] = (),
) -> None:
    """Draw a line through points, each with a marker where they are few.

    Args:
        ax: Where.
        xs: Numbers along the axis.
        ys: One for each of them.
        index: Of its colour, marker and dash; None: ink.
        label: Its name in the legend.
        texts: What a page says of each point where it is pointed at; default: the label and the number.
    """
    marker: dict[str, Any] = _look(index)
    few = len(xs) <= _MOST_MARKERS
    if not few:
        marker["marker"] = ""
    (drawn,) = ax.plot(xs, ys, label=label, **marker)
    say(drawn, *(texts or [_join_words(label, fmt(y)) for y in ys] if few else filter(None, [label])))


def dots(ax: Axes, curve: Curve, places: Mapping[str, int], index: int, label: str = "") -> None:
    """Draw the points of a curve over names, a row a name, intervals as whiskers.

    Args:
        ax: Where.
        curve: Over names; one without a place is left out.
        places: Which row each name has.
        index: Of its colour and marker.
        label: Its name in the legend.
    """
    rows = [(places[x], i) for i, x in enumerate(curve.x) if isinstance(x, str) and x in places]
    look = _look(index) | {"linestyle": "none"}
    if curve.lower is not None and curve.upper is not None:
        for row, i in rows:
            ax.plot((curve.lower[i], curve.upper[i]), (row, row), color=look["color"], alpha=0.45, linewidth=0.9)
    (drawn,) = ax.plot([curve.y[i] for _, i in rows], [row for row, _ in rows], label=label, **look)
    said = describe_points(curve, label)
    say(drawn, *(said[i] for _, i in rows))


def _look(index: int | None) -> dict[str, Any]:
    """Colour, marker and dash of a line. Colours that come again have hollow markers and another dash."""
    if index is None:
        return {"color": INK, "linestyle": "-", "marker": "x"}
    again, place = divmod(index, len(SERIES))
    look: dict[str, Any] = {"color": SERIES[place], "marker": MARKERS[place]}
    look["linestyle"] = DASHES[(place + again) % len(DASHES)]
    return look | ({"markerfacecolor": PAPER, "markeredgewidth": 0.8} if again % 2 else {})


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
        across = next(n for n in range(len(found), 0, -1) if n == 1 or _legend_width([*found], n) < fig.get_figwidth())
        fig.set_figheight(fig.get_figheight() + 0.16 * -(-len(found) // across))
        fig.legend([*found.values()], [*found], loc="outside upper left", ncols=across, handlelength=2.4)


def _legend_width(labels: Sequence[str], columns: int) -> float:
    """Inches that a legend takes in so many columns: a sign, the widest name and the space around for each."""
    rows = -(-len(labels) // columns)
    widest = [max(map(cell_len, labels[i : i + rows])) for i in range(0, len(labels), rows)]
    return 0.1 + sum(0.5 + 0.06 * n for n in widest)


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
            (i + first, r.value, r.interval, _join_words(labels[i], name, write_number(r)))
            for i, r in enumerate(results)
            if r is not None and r.value is not None
        ]
        color, alpha = (SERIES[0], 1.0) if k == 0 else (MUTED, 0.5)
        how: dict[str, Any] = {"color": color, "alpha": alpha, "label": name if len(series) > 1 else ""}
        drawn = ax.barh([x[0] for x in shown], [x[1] for x in shown], thick * 0.9, **how)
        for bar, (y, _, interval, said) in zip(drawn, shown, strict=True):
            say(bar, said)
            if interval is not None:
                ax.plot(interval, (y, y), color=INK, linewidth=0.9, marker="|", markersize=3)
    ax.axvline(0, color=MUTED, linewidth=0.6)
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0, labelcolor=INK)


def write_number(r: Result) -> str:
    """Write a result's number with its interval and unit."""
    return " ".join(filter(None, (fmt_estimate(r.value, r.interval), _short_unit(r.unit or ""))))


def in_unit(label: str, results: Iterable[Result | None]) -> str:
    """Fill ``{unit}`` in an axis's label.

    Args:
        label: may end in " ({unit})".
        results: that stand on the axis.

    Returns:
        The label with what their unit has in brackets at its end, such as nats, else what it begins with; without brackets
        where they have none.
    """
    short = _short_unit(next((r.unit for r in results if r is not None and r.unit), ""))
    return label.replace("{unit}", short) if short else label.removesuffix(" ({unit})")


def _short_unit(unit: str) -> str:
    """What stands in its brackets, such as nats, else what it begins with."""
    _, opened, inside = unit.removesuffix(")").rpartition("(")
    return inside.rpartition("; ")[2] if opened and unit.endswith(")") else unit.partition(",")[0]
