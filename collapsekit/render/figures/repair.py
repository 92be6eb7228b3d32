"""Figures of a repair: losses of each stage, and curves before, after and with plain fine-tuning."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from collapsekit.comparison.delta import Pair, RepairDelta
from collapsekit.measures import lookup
from collapsekit.render.figures import marks
from collapsekit.render.figures.style import DASHES, MUTED, SERIES, panels, short_labels, theme
from collapsekit.report.diagnosis import Result
from collapsekit.report.repair import LossCurve, RepairReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[..., "Figure"]
_MOST_PANELS = 9
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
    """Name, title, the result that explains it, and ``draw(wide=True)`` of each figure there are numbers for."""
    losses = [c for c in report.losses if c.held and marks.fits(c.held, (v for v in c.training if v is not None))]
    if losses:
        yield "losses", "Losses of each stage", None, functools.partial(_losses, losses[:_MOST_PANELS])
    pairs = [p for found in delta.curves.values() for p in found if _drawable(p)]
    pairs.sort(key=lambda p: p.before.modality not in report.repaired)
    for name in DRAWN:
        own = [p for p in pairs if _draws(p.before, name)]
        if own:
            title = getattr(lookup(own[0].before.name), "title", None) or name
            file = name.removesuffix(".{fill}").replace(".", "-")
            yield file, title, own[0].before, functools.partial(_curves, own[:_MOST_PANELS])


def _draws(r: Result, name: str) -> bool:
    """Whether it is what the measure of that name says of a modality or the whole model."""
    return getattr(lookup(r.name), "name", None) == name and r.versus in (None, r.modality)


def _drawable(pair: Pair) -> bool:
    curves = [r.curve for r in (pair.before, pair.after, pair.control) if r is not None and r.curve is not None]
    return all(c.y and marks.curve_fits(c) and not any(isinstance(x, str) for x in c.x) for c in curves)


@theme()
def _losses(curves: Sequence[LossCurve], wide: bool) -> Figure:
    from matplotlib.ticker import MaxNLocator

    fig, axes = panels(len(curves), wide=wide, height=1.7)
    titles = [f"{c.method}: {c.stage}" for c in curves]
    names = short_labels(titles, 34)
    for ax, c, title in zip(axes, curves, titles, strict=True):
        training = [(e, v) for e, v in zip(c.epochs, c.training, strict=True) if v is not None]
        ax.plot([e for e, _ in training], [v for _, v in training], color=MUTED, linestyle=DASHES[1], label="training")
        marks.marked(ax, c.epochs, c.held, label="held out")
        ax.axvline(c.kept, color=SERIES[1], linestyle=DASHES[2], linewidth=0.9, label="epoch kept")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(title=names[title], xlabel="epoch", ylabel="loss")
    marks.legend(fig)
    return fig


@theme()
def _curves(pairs: Sequence[Pair], wide: bool) -> Figure:
    fig, axes = panels(len(pairs), wide=wide, height=1.7)
    titles = [p.before.modality or p.before.name.rpartition(".")[2] for p in pairs]
    names = short_labels(list(dict.fromkeys(titles)), 30)
    for ax, pair, title in zip(axes, pairs, titles, strict=True):
        for i, key in enumerate(("before", "after", "control")):
            if (result := getattr(pair, key)) is not None:
                marks.line(ax, result, i, key)
        curve = pair.before.curve
        labels = [short_labels([t], 34)[t] for t in ((curve.x_label, curve.y_label) if curve is not None else ("", ""))]
        ax.set(title=names[title], xlabel=labels[0], ylabel=labels[1])
    marks.legend(fig)
    return fig
