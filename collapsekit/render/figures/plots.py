"""How each kind of panel is drawn: what a report holds for it, and the axes that show it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from collapsekit.measures import Panel, lookup
from collapsekit.measures.measure import Figure as Kind
from collapsekit.render.figures import marks
from collapsekit.render.figures.style import (
    COLUMN,
    DASHES,
    INK,
    MUTED,
    PAGE,
    SERIES,
    across,
    say,
    short_labels,
    wrapped,
)
from collapsekit.render.numbers import fmt
from collapsekit.report.diagnosis import Curve, Report, Result
from collapsekit.report.names import modality_names, subset_members

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WHOLE = "fused"  # the column of a matrix that is about the fused representation
_DOTS: dict[str, Any] = {"linestyle": (0, (1, 2)), "linewidth": 0.9}
_LETTER = 0.06  # inches of a character in a field of a matrix
_NARROW = 0.17  # inches of a column of a matrix, below which its head is small
_ROOM = 1.15  # inches that axes need beside their labels
_FEW = 6  # columns that have room for short names
_MOST_ROWS = 26  # names down the side of a plot
_SHORT = 5  # characters of a name that fits over a column of a matrix


@dataclass(frozen=True)
class Plot:
    """One pair of axes that there are numbers for.

    ``height`` in inches; ``draw`` is given the axes and their width in inches; ``rows``: the labels down its side, which
    the next one beside it need not repeat; ``bars``: whether rows may stand closer than the height allows; ``first``:
    whether only the first column has a label beside its axis; ``shared``: whether its numbers run as far as those of the
    plot before.
    """

    height: float
    draw: Callable[[Axes, float], None]
    rows: tuple[str, ...] = ()
    bars: bool = False
    first: bool = False
    shared: bool = False


def plots_of(report: Report, panel: Panel) -> list[Plot]:
    """Find what there is to draw of a panel.

    Args:
        report: Of a diagnosis, with clean names and without numbers that no axis can show.
        panel: As a probe declares it.

    Returns:
        A plot; several for spectra, which have one a modality; none where the report has no numbers for it.
    """
    if panel.unless and any(_shows(r) for r in results_of(report, panel.unless)):
        return []
    return _PLOTS[kind_of(report, panel)](report, panel)


def kind_of(report: Report, panel: Panel) -> Kind:
    """Tell how a panel is drawn: as its first measure says, else by what its results are."""
    first = next(iter(panel.series.values()))
    made = lookup(first)
    if made is not None and made.figure is not None:
        return made.figure
    results = [r for r in results_of(report, first) if _shows(r)]
    if any(r.versus not in (None, r.modality) and r.value is not None for r in results):
        return "matrix"
    return "bars" if any(r.value is not None for r in results) else "lines"


def results_of(report: Report, name: str) -> list[Result]:
    """List the results of a measure, in the report's order; fields in the measure's name stand for anything."""
    made = lookup(name)
    if made is None or "{" not in made.name:
        return list(report.named(name))
    return [r for r in report.results if made.names(r.name)]


def _shows(r: Result) -> bool:
    return r.value is not None or (r.curve is not None and bool(r.curve.y))


def _label(report: Report, text: str, results: Sequence[Result | None], inches: float) -> str:
    filled = marks.in_unit(text.replace("{metric}", report.subject.metric), results)
    return wrapped(filled, inches)


# --- bars


def _bars(report: Report, panel: Panel) -> list[Plot]:
    """Bars of each modality, or, where no result is about one, of each series."""
    found = {text: [r for r in results_of(report, name) if _plain(r)] for text, name in panel.series.items()}
    found = {text: results for text, results in found.items() if results}
    every = [r for results in found.values() for r in results]
    if not every:
        return []
    modalities = [m for m in modality_names(report) if any(r.modality is not None for r in every)]
    if modalities:
        names = short_labels(modalities)
        series = {text: [_of(results, m) for m in modalities] for text, results in found.items()}
        labels = [names[m] for m in modalities]
    else:
        rows = [(text or r.name, r) for text, results in found.items() for r in results]
        labels, series = [text for text, _ in rows], {"": [r for _, r in rows]}

    def draw(ax: Axes, inches: float) -> None:
        marks.bars(ax, labels, series)
        for limit in panel.limits:
            ax.axvline(limit, color=MUTED, **_DOTS)
        ax.locator_params(axis="x", nbins=5)
        ax.set(xlabel=_label(report, panel.label, every, inches), title=wrapped(panel.title, inches, bold=True))

    return [Plot(0.55 + len(labels) * (0.16 + 0.1 * len(series)), draw, tuple(labels), bars=True)]


def _plain(r: Result) -> bool:
    return r.value is not None and r.versus in (None, r.modality)


def _of(results: Sequence[Result], modality: str) -> Result | None:
    """The modality's own result, else the one of the whole model."""
    found = {r.modality: r for r in results}
    return found.get(modality, found.get(None))


# --- lines


def _lines(report: Report, panel: Panel) -> list[Plot]:
    """A line a modality, or a line a series where no curve is about one."""
    order = modality_names(report)
    rows = [
        (_name_line(text, name, r), r, r.versus if panel.by == "versus" else r.modality)
        for text, name in panel.series.items()
        for r in results_of(report, name)
        if r.curve is not None and r.curve.y and (panel.by == "versus" or r.versus in (None, r.modality))
    ]
    rows.sort(key=lambda row: order.index(row[2]) if row[2] is not None else len(order))
    if not rows:
        return []
    split = any(of is not None for _, _, of in rows)

    def draw(ax: Axes, inches: float) -> None:
        names = marks.names(report, _width(ax) > COLUMN)
        places = _named_places([r.curve for _, r, _ in rows if r.curve is not None])
        for k, (said, r, of) in enumerate(rows):
            if of is not None:
                marks.line(ax, r, order.index(of), names[of], places)
            else:
                marks.line(ax, r, None if split else k, "all together" if split else said, places)
        _guide(ax, report, panel)
        if places:
            _name_steps(ax, list(places), inches)
        labels = {
            "xlabel": wrapped(panel.along, inches),
            "title": wrapped(_filled(report, panel.title), inches, bold=True),
        }
        ax.set(ylabel=_label(report, panel.label, [r for _, r, _ in rows], 1.7), **labels)

    return [Plot(1.8, draw, shared=panel.shared)]


def _name_line(text: str, measure: str, r: Result) -> str:
    """What a line without a modality is called: the series, and what stands in the name's field."""
    return " ".join(filter(None, (text, r.name.removeprefix(measure.partition("{")[0]) if "{" in measure else "")))


def _filled(report: Report, text: str) -> str:
    return text.replace("{metric}", report.subject.metric)


def _guide(ax: Axes, report: Report, panel: Panel) -> None:
    for limit in panel.limits:
        ax.axhline(limit, color=MUTED, **_DOTS)
        ax.annotate(f" {fmt(limit)}", (1, limit), xycoords=("axes fraction", "data"), va="center", color=MUTED, size=7)
    for name, axis in panel.guides.items():
        for r in results_of(report, name):
            if r.value is not None:
                draw = ax.axvline if axis == "x" else ax.axhline
                draw(r.value, color=marks.color(report, r.modality), **_DOTS)


def _named_places(curves: Sequence[Curve]) -> dict[str, int]:
    """Where names along an axis stand, in the order in which the longest curve has them; none where it has numbers."""
    ordered = sorted(curves, key=lambda c: -len(c.x))
    names = dict.fromkeys(x for c in ordered for x in c.x if isinstance(x, str))
    return {name: i for i, name in enumerate(names)}


def _name_steps(ax: Axes, names: list[str], inches: float) -> str:
    """Name the places along the axis: of a name that goes on from the one before only what it adds; where names have no
    room, how many they are of. What has to be said of that."""
    said = [names[0], *(_added(a, b) for a, b in pairwise(names))]
    if sum(map(cell_len, said)) * _LETTER + 0.1 * len(said) <= inches:
        ax.set_xticks(range(len(names)), said)
        return ""
    counts = [name.count("+") + 1 for name in names]
    if all(a < b for a, b in pairwise(counts)):
        ax.set_xticks(range(len(names)), list(map(str, counts)))
        return "number of modalities"
    shown = short_labels(said, 12)
    ax.set_xticks(range(len(names)), [shown[s] for s in said], rotation=30, ha="right", rotation_mode="anchor")
    return ""


def _added(before: str, name: str) -> str:
    return "+" + name.removeprefix(before + "+") if name.startswith(before + "+") else name


# --- matrices


def _matrix(report: Report, panel: Panel) -> list[Plot]:
    """Fields of pairs, a row a modality; a column of the fused representation where results are about it."""
    found = {
        (r.modality, r.versus): r
        for name in panel.series.values()
        for r in results_of(report, name)
        if r.value is not None and r.modality is not None
    }
    if not any(versus is not None for _, versus in found):
        found = {}
    order = modality_names(report)
    rows = [m for m in order if any(m == a for a, _ in found)]
    columns: list[str | None] = [m for m in order if any(m == b for _, b in found)]
    columns += [None] * any(b is None for _, b in found)
    if not found:
        return []
    names = short_labels(rows)
    numbered = (
        len(rows) > _FEW
        or max(map(len, names.values())) > _SHORT
        or any(c is not None and c not in rows for c in columns)
    )
    labels = tuple(f"{i + 1} {names[m]}" if numbered else names[m] for i, m in enumerate(rows))
    heads = [_head(c, rows, numbered) for c in columns]
    largest = max(abs(r.value or 0.0) for r in found.values())
    most = panel.most or largest or 1.0
    least = 0.05 + _LETTER * max(len(_short_number(r.value or 0.0)) for r in found.values())

    def draw(ax: Axes, inches: float) -> None:
        room = inches / len(columns)
        fields = [(rows.index(a), columns.index(b), r) for (a, b), r in found.items() if a is not None]
        about = _write_fields(ax, fields, most) if room >= least else _size_fields(ax, fields, largest)
        ax.set_xlim(-0.5, len(columns) - 0.5)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_yticks(range(len(rows)), labels)
        ax.set_xticks(range(len(columns)), heads, rotation=90 if room < 0.3 and None in columns else 0)
        ax.tick_params(length=0, labelcolor=INK)
        ax.tick_params(axis="x", labelsize=7 if room > _NARROW else 5.5)
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
        below = "\n".join(filter(None, (wrapped(panel.along, inches), wrapped(about, inches))))
        ax.set(title=_label(report, panel.title or panel.label, [*found.values()], inches * 0.85), xlabel=below)

    return [Plot(0.62 + 0.2 * max(4, len(rows)), draw, labels)]


def _head(column: str | None, rows: Sequence[str], numbered: bool) -> str:
    if column is None:
        return WHOLE
    if not numbered:
        return column
    return str(rows.index(column) + 1) if column in rows else short_labels([column], 8)[column]


Field = tuple[int, int, Result]


def _write_fields(ax: Axes, fields: Sequence[Field], most: float) -> str:
    """Fields with their numbers, the larger the darker, bold where the interval leaves 0 out; what needs a word."""
    from matplotlib.patches import Rectangle

    clear = [r.interval is not None and (r.interval[0] > 0 or r.interval[1] < 0) for _, _, r in fields]
    mixed = any(clear) and not all(clear)
    for (i, j, r), sure in zip(fields, clear, strict=True):
        value = r.value or 0.0
        shade = 0.06 + 0.42 * min(1.0, abs(value) / most)
        field = Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, color=SERIES[value < 0], alpha=shade, linewidth=0)
        said = _said_of_pair(r)
        say(ax.add_patch(field), said)
        text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}".replace("-0.00", "0.00")
        weight = "bold" if sure and mixed else "normal"
        say(ax.text(j, i, text, ha="center", va="center", size=6.5, color=INK, weight=weight), said)
    return "bold: interval without 0" if mixed else ""


def _said_of_pair(r: Result) -> str:
    """What a page says of a field where it is pointed at."""
    return f"{r.modality}, {r.versus or WHOLE}: {marks.write_number(r)}"


def _short_number(value: float) -> str:
    if abs(value) >= 1e4:
        return fmt(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}".replace("-0.00", "0.00")


def _size_fields(ax: Axes, fields: Sequence[Field], largest: float) -> str:
    """Squares whose area is the number, hollow below 0, where there is no room for numbers; what they mean."""
    from matplotlib.patches import Rectangle

    for i, j, r in fields:
        value = r.value or 0.0
        side = 0.9 * (abs(value) / largest) ** 0.5 if largest else 0.0
        low = value < 0
        look: dict[str, Any] = {"facecolor": "none" if low else SERIES[0], "edgecolor": SERIES[low], "linewidth": 0.9}
        say(ax.add_patch(Rectangle((j - side / 2, i - side / 2), side, side, **look)), _said_of_pair(r))
    hollow = "; hollow: below 0" if any((r.value or 0.0) < 0 for _, _, r in fields) else ""
    return f"area: size, at most {fmt(largest)}{hollow}"


# --- spectra, profiles


def _spectra(report: Report, panel: Panel) -> list[Plot]:
    """A plot a modality: its curve, and that of the fused representation; values of further series in the corner."""
    first, *others = panel.series.items()
    curves = {r.modality: r.curve for r in results_of(report, first[1]) if r.curve is not None and r.versus is None}
    before = [m for m in modality_names(report) if m in curves]
    shown: list[str | None] = [*before] if before else [None] * (None in curves)
    names = short_labels(modality_names(report), 22 if len(before) > 2 else 34)

    def plot(modality: str | None) -> Plot:
        def draw(ax: Axes, inches: float) -> None:
            if modality is not None:
                ax.set_title(names[modality])
                key = "before fusion (in the modality's colour)"
                _spectrum(ax, curves[modality], marks.color(report, modality), DASHES[0], key)
            _spectrum(ax, curves.get(None), INK, DASHES[1], "after fusion")
            _corner(ax, report, dict(others), modality)
            marks.log_scale(ax)
            ax.set(xlabel=wrapped(panel.along, inches), ylabel=panel.label)

        return Plot(1.9, draw, first=True, shared=modality != shown[0])

    return [plot(m) for m in shown]


def _spectrum(ax: Axes, curve: Curve | None, color: str, dash: Any, label: str) -> None:
    if curve is not None:
        points = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if y > 0]  # a zero has no place on a log axis
        ax.plot([p[0] for p in points], [p[1] for p in points], color=color, linestyle=dash, label=label)


def _corner(ax: Axes, report: Report, series: dict[str, str], modality: str | None) -> None:
    y = 0.97
    for text, name in series.items():
        found = [report.find(name, m) for m in dict.fromkeys((modality, None))]
        texts = [fmt(r.value) for r in found if r is not None and r.value is not None]
        # A call a line: lines of one text are placed by the drawing font's widths, not by the page's.
        for line in (text, " → ".join(texts)) if texts else ():
            ax.text(0.98, y, line, transform=ax.transAxes, ha="right", va="top", color=MUTED, size=7)
            y -= 0.1


def _profile(report: Report, panel: Panel) -> list[Plot]:
    """A curve's values, the largest first: one of the whole model, else one a modality. A 0 has no place on a log axis."""
    found = [
        (r, sorted((y for y in r.curve.y if y > 0 or not panel.log), reverse=True))
        for name in panel.series.values()
        for r in results_of(report, name)
        if r.curve is not None
    ]
    rows = [(r, heights) for r, heights in found if heights]
    if not rows:
        return []

    def draw(ax: Axes, inches: float) -> None:
        names = marks.names(report, _width(ax) > COLUMN)
        for r, heights in rows:
            label = names[r.modality] if r.modality is not None else ""
            marks.marked(ax, range(1, len(heights) + 1), heights, marks.palette_index(report, r.modality), label)
        _guide(ax, report, panel)
        if panel.log:
            marks.log_scale(ax)
        ax.set(xlabel=wrapped(panel.along, inches), ylabel=_label(report, panel.label, [r for r, _ in rows], 1.7))

    return [Plot(1.9, draw)]


# --- rows


def _rows(report: Report, panel: Panel) -> list[Plot]:
    """A row a name that curves are over, such as a set of modalities, with a point a series."""
    found = [
        (_name_line(text, name, r), r.curve)
        for text, name in panel.series.items()
        for r in results_of(report, name)
        if r.curve is not None and r.curve.y and r.versus is None and r.modality is None
    ]
    names = list(_named_places([curve for _, curve in found]))
    if not names:
        return []
    shown = _picked(report, names)
    labels = tuple(_short_sets(report, shown))
    places = {name: i for i, name in enumerate(shown)}
    left = f"; {len(names) - len(shown)} more are not drawn" if len(shown) < len(names) else ""

    def draw(ax: Axes, inches: float) -> None:
        for k, (said, curve) in enumerate(found):
            marks.dots(ax, curve, places, k, said)
        ax.set_yticks(range(len(labels)), labels)
        ax.set_ylim(len(labels) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0, labelcolor=INK)
        ax.locator_params(axis="x", nbins=5)
        unit = [r for name in panel.series.values() for r in results_of(report, name)]
        ax.set(xlabel=_label(report, panel.label, unit, inches), title=wrapped(panel.along + left, inches, bold=True))

    return [Plot(0.6 + 0.17 * max(3, len(labels)), draw, labels)]


def _picked(report: Report, names: Sequence[str]) -> list[str]:
    """The names that have room: all, or of sets of modalities the smallest and the largest, which say the most."""
    if len(names) <= _MOST_ROWS:
        return list(names)
    every = report.subject.modalities
    sizes = {name: len(m) for name in names if (m := subset_members(every, name)) is not None}
    ends = [name for name in names if name in sizes and sizes[name] in (0, 1, len(every) - 1, len(every))]
    return (ends or list(names))[:_MOST_ROWS]


def _short_sets(report: Report, names: Sequence[str]) -> list[str]:
    """Sets of modalities in few words, other names with both ends."""
    every = report.subject.modalities
    short = short_labels(every, 12)
    said = []
    for name in names:
        members = subset_members(every, name)
        absent = [m for m in every if members is not None and m not in members]
        if members is None or len(members) == 1:
            said.append(short.get(name, name))
        elif not members or not absent:
            said.append("all" if members else "none")
        elif len(absent) == 1 and len(every) > 2:
            said.append(f"all but {short[absent[0]]}")
        else:
            said.append("+".join(short[m] for m in every if m in members))
    distinct = short_labels(list(dict.fromkeys(said)), 24)
    return [distinct[text] for text in said]


_PLOTS: dict[Kind, Callable[[Report, Panel], list[Plot]]] = {
    "bars": _bars,
    "lines": _lines,
    "matrix": _matrix,
    "spectrum": _spectra,
    "profile": _profile,
    "rows": _rows,
}


def columns_for(plots: Sequence[Plot], *, wide: bool) -> int:
    """Tell how many plots stand abreast: as many as leave each of them room beside its labels."""
    most = across(len(plots), wide=wide)
    return next((n for n in range(most, 1, -1) if PAGE / n - max(map(_margin, plots)) >= _ROOM), 1)


def arrange(plots: Sequence[Plot], axes: Sequence[Axes], beside: int) -> None:
    """Draw plots on their axes; labels that the neighbour at the left has are left out.

    Args:
        plots: What is drawn.
        axes: One for each of them.
        beside: How many stand in a row.
    """
    margins = [max(_margin(plot) for plot in plots[column::beside]) for column in range(beside)]
    for i, (ax, plot) in enumerate(zip(axes, plots, strict=True)):
        plot.draw(ax, (_width(ax) - sum(margins)) / beside - 0.1)
        _space_bars(ax, plot, plots[i - i % beside : i - i % beside + beside])
        later = i % beside > 0
        if later and plot.rows and plot.rows == plots[i - 1].rows:
            ax.tick_params(labelleft=False)
        if later and plot.first:
            ax.set_ylabel("")
        if i and plot.shared:
            ax.sharey(axes[i - 1])


def _width(ax: Axes) -> float:
    """Inches of the whole figure."""
    figure = ax.get_figure(root=True)
    return figure.get_figwidth() if figure is not None else COLUMN


def _margin(plot: Plot) -> float:
    """Inches that stand beside the axes: the labels of its rows, or an axis of numbers with its name."""
    return 0.1 + 0.062 * max(map(cell_len, plot.rows)) if plot.rows else 0.5


def _space_bars(ax: Axes, plot: Plot, plots: Sequence[Plot]) -> None:
    """Keep few bars as thick as the many beside them, where no other plot has the same rows to stand in line with."""
    if plot.bars and sum(other.rows == plot.rows for other in plots) == 1:
        tallest = max(other.height for other in plots)
        spare = len(plot.rows) * ((tallest - 0.55) / (plot.height - 0.55) - 1) / 2
        ax.set_ylim(len(plot.rows) - 0.5 + spare, -0.5 - spare)
