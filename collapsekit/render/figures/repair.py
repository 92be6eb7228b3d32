"""Figures of a repair: losses of each stage, and curves before, after and with plain fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from collapsekit.comparison.delta import Pair, RepairDelta
from collapsekit.measures import lookup
from collapsekit.render.figures.marks import line, line_legend
from collapsekit.render.figures.style import DASHES, MARKERS, MUTED, SERIES, panels, short_labels, theme
from collapsekit.report.diagnosis import Result
from collapsekit.report.repair import LossCurve, RepairReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw = Callable[[bool], "Figure"]
_MOST_PANELS = 9
_LARGEST = 1e100  # axes reckon with sums and differences of what is on them
_KEYS = ("before", "after", "control")
# What is drawn of the curves, in this order; all of them are in the tables.
DRAWN = (
    "rank_sweep.numerical_rank",
    "rank_sweep.effective_rank",
    "rank_sweep.metric",
    "noise.input",
    "noise.feature",
    "missing.rates.{fill}",
)


def figures(report: RepairReport, delta: RepairDelta) -> Iterator[tuple[str, str, Result | None, Draw]]:
    """Name, title, the result that explains it, and ``draw(wide)`` of each figure there are numbers for."""
    losses = [c for c in report.losses if c.held and all(abs(v) <= _LARGEST for v in (*c.held, *_training(c)))]
    if losses:
        yield "losses", "Losses of each stage", None, lambda wide: _losses(losses[:_MOST_PANELS], wide)
    pairs = [p for found in delta.curves.values() for p in found if _drawable(p)]
    pairs.sort(key=lambda p: p.before.modality not in report.repaired)
    for name in DRAWN:
        own = [p for p in pairs if _measure(p) == name and p.before.versus in (None, p.before.modality)]
        if own:
            title = getattr(lookup(own[0].before.name), "title", None) or name
            file = name.removesuffix(".{fill}").replace(".", "-")
            yield file, title, own[0].before, _later(own[:_MOST_PANELS], report.control is not None)


def _later(pairs: Sequence[Pair], control: bool) -> Draw:
    return lambda wide: _curves(pairs, control, wide)


def _measure(pair: Pair) -> str | None:
    made = lookup(pair.before.name)
    return None if made is None else made.name


def _drawable(pair: Pair) -> bool:
    for r in (pair.before, pair.after, pair.control):
        if r is not None and r.curve is not None:
            c = r.curve
            numbers = [*c.x, *c.y, *(c.lower or ()), *(c.upper or ())]
            if not c.y or any(isinstance(v, str) or abs(v) > _LARGEST for v in numbers):
                return False
    return True


def _training(curve: LossCurve) -> list[float]:
    return [v for v in curve.training if v is not None]


def _losses(curves: Sequence[LossCurve], wide: bool) -> Figure:
    from matplotlib.ticker import MaxNLocator

    with theme():
        fig, axes = panels(len(curves), wide=wide, height=1.7)
        titles = [f"{c.method}: {c.stage}" for c in curves]
        names = short_labels(titles, 34)
        for i, (ax, c) in enumerate(zip(axes, curves, strict=True)):
            had = [(e, v) for e, v in zip(c.epochs, c.training, strict=True) if v is not None]
            ax.plot([e for e, _ in had], [v for _, v in had], color=MUTED, linestyle=DASHES[1])
            ax.plot(
                c.epochs, c.held, color=SERIES[0], linestyle=DASHES[0], marker=MARKERS[0] if len(c.held) < 40 else ""
            )
            ax.axvline(c.kept, color=SERIES[1], linestyle=DASHES[2], linewidth=0.9)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.set_title(names[titles[i]])
            ax.set_xlabel("epoch")
            ax.set_ylabel("loss")
        keys: list[tuple[str, str, Any]] = [("training", MUTED, DASHES[1]), ("held out", SERIES[0], DASHES[0])]
        line_legend(fig, [*keys, ("epoch kept", SERIES[1], DASHES[2])])
    return fig


def _curves(pairs: Sequence[Pair], control: bool, wide: bool) -> Figure:
    with theme():
        fig, axes = panels(len(pairs), wide=wide, height=1.7)
        titles = [p.before.modality or p.before.name.rpartition(".")[2] for p in pairs]
        names = short_labels(list(dict.fromkeys(titles)), 30)
        for ax, pair, title in zip(axes, pairs, titles, strict=True):
            _panel(ax, pair)
            ax.set_title(names[title])
        keys = [(key, SERIES[i], DASHES[i]) for i, key in enumerate(_KEYS[: 2 + control])]
        line_legend(fig, keys)
    return fig


def _panel(ax: Axes, pair: Pair) -> None:
    for i, result in enumerate((pair.before, pair.after, pair.control)):
        if result is not None:
            line(ax, result, i)
    curve = pair.before.curve
    if curve is not None:
        ax.set_xlabel(_short(curve.x_label))
        ax.set_ylabel(_short(curve.y_label))


def _short(text: str) -> str:
    return short_labels([text], 34)[text]
