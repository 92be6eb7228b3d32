"""What figures are drawn with: lines with bands, grouped bars with intervals, legends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from collapsekit.render.figures.style import COLUMN, DASHES, INK, MARKERS, MUTED, SERIES, panels, short_labels, theme
from collapsekit.report.diagnosis import Report, Result
from collapsekit.report.names import cleaned, modality_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def palette_index(report: Report, modality: str | None) -> int:
    """Find the modality's place in the palette, the same in every figure of a report."""
    names = modality_names(report)
    return names.index(modality) % len(SERIES) if modality in names else 0


def line(ax: Axes, result: Result, index: int) -> None:
    """Draw a curve with its band.

    Args:
        ax: Where.
        result: Whose curve; one over names is left out.
        index: Of its colour, marker and dash.
    """
    curve = result.curve
    if curve is None or any(isinstance(x, str) for x in curve.x):
        return
    xs = [float(x) for x in curve.x]
    if curve.lower is not None and curve.upper is not None:
        ax.fill_between(xs, curve.lower, curve.upper, color=SERIES[index], alpha=0.15, linewidth=0)
    marker = MARKERS[index] if len(xs) <= 40 else ""
    ax.plot(xs, curve.y, color=SERIES[index], linestyle=DASHES[index], marker=marker)


def legend(fig: Figure, report: Report, modalities: Iterable[str], *, patches: bool = False) -> None:
    """Put one legend above all panels: the modalities, as lines or as patches.

    Args:
        fig: The figure, which grows by what the legend takes.
        report: Gives each modality its colour.
        modalities: Those that are drawn.
        patches: Whether they are drawn as areas.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    shown = list(modalities)
    wide = fig.get_figwidth() > COLUMN
    names = short_labels(modality_names(report), 30 if wide else 22)
    longest = max((len(names[m]) for m in shown), default=1)
    columns = min(len(shown), max(1, (110 if wide else 50) // (longest + 7)))
    handles: list[Any] = []
    for index in (palette_index(report, m) for m in shown):
        if patches:
            handles.append(Patch(facecolor=SERIES[index]))
        else:
            handles.append(Line2D([], [], color=SERIES[index], linestyle=DASHES[index], marker=MARKERS[index]))
    _above(fig, handles, [names[m] for m in shown], columns)


def line_legend(fig: Figure, keys: Sequence[tuple[str, str, Any]]) -> None:
    """Put a legend above all panels: (label, colour, dash) for each line."""
    from matplotlib.lines import Line2D

    _above(fig, [Line2D([], [], color=c, linestyle=d) for _, c, d in keys], [k[0] for k in keys], len(keys))


def _above(fig: Figure, handles: Sequence[Any], labels: Sequence[str], columns: int) -> None:
    if handles:
        # The figure grows by what the legend takes, so that panels keep their height.
        fig.set_figheight(fig.get_figheight() + 0.16 * -(-len(handles) // columns))
        fig.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=2.4)


def bars(ax: Axes, labels: Sequence[str], series: Mapping[str, Sequence[Result | None]]) -> list[Any]:
    """Draw horizontal bars, the first label on top, one bar a series and label, intervals as whiskers.

    Args:
        ax: Where.
        labels: Down the side.
        series: Name to a result a label, or None.

    Returns:
        A handle a series, for the legend.
    """
    thick = 0.72 / len(series)
    handles = []
    for k, results in enumerate(series.values()):
        middles = [i + (k - (len(series) - 1) / 2) * thick for i in range(len(labels))]
        had = [
            (y, r.value, r.interval)
            for y, r in zip(middles, results, strict=True)
            if r is not None and r.value is not None
        ]
        color, alpha = (SERIES[0], 1.0) if k == 0 else (MUTED, 0.5)
        handles.append(ax.barh([h[0] for h in had], [h[1] for h in had], thick * 0.9, color=color, alpha=alpha))
        for y, _, interval in had:
            if interval is not None:
                ax.plot(interval, (y, y), color=INK, linewidth=0.9, marker="|", markersize=3)
    ax.axvline(0, color=MUTED, linewidth=0.6)
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    return handles


def bar_figure(report: Report, wide: bool, parts: Mapping[str, Mapping[str, str]]) -> Figure | None:
    """Draw a panel for each of ``parts``, modalities down the side.

    Args:
        report: Of a diagnosis.
        wide: Whether panels stand abreast.
        parts: Axis label to series, each of which names a result; where a modality has none of its own, the one for the
            whole model stands for it.

    Returns:
        The figure; None where no part has values.
    """
    report = cleaned(report)
    modalities = modality_names(report)
    found: dict[str, dict[str, list[Result | None]]] = {}
    for axis, series in parts.items():
        rows = {text: [_value(report, name, m) for m in modalities] for text, name in series.items()}
        rows = {text: row for text, row in rows.items() if any(r is not None for r in row)}
        if rows:
            found[axis] = rows
    if not found:
        return None
    with theme():
        count = max(len(rows) for rows in found.values())
        fig, axes = panels(len(found), wide=wide, height=0.55 + len(modalities) * (0.16 + 0.1 * count))
        names = short_labels(modalities)
        keys: dict[str, Any] = {}
        for i, (ax, (axis, rows)) in enumerate(zip(axes, found.items(), strict=True)):
            handles = bars(ax, [names[m] for m in modalities], rows)
            ax.set_xlabel(axis.replace("{metric}", report.subject.metric))
            if i and fig.get_figwidth() > COLUMN:
                ax.tick_params(labelleft=False)
            if len(rows) > 1:
                keys |= dict(zip(rows, handles, strict=True))
        _above(fig, list(keys.values()), list(keys), len(keys))
    return fig


def _value(report: Report, name: str, modality: str) -> Result | None:
    for result in (report.find(name, modality), report.find(name)):
        if result is not None and result.value is not None:
            return result
    return None
