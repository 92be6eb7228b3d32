"""Which of several sets of features of a modality a linear readout does best with, on held-out examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from collapsekit.features.features import Features
from collapsekit.readouts.linear import L2_GRID, FitSplit, FittedReadout, UnimodalReadout, fit_readout
from collapsekit.stats.linear import fitted_roughly
from collapsekit.stats.random_features import evenly
from collapsekit.tasks.base import Task

SCREENED = 600  # examples at most that are fitted on, and that choose, where sets are only compared
PENALTIES, ROUGH = (1e-1, 1e-3), 2e-5  # with which penalties, and to what gradient
FINALISTS = 2  # sets that are fitted on all examples
NUMBERS = 2**25  # numbers at most that are fitted on; of more examples every second, third ... is
AT_PLACES = 2**22  # likewise, of features of places


@dataclass(frozen=True)
class FeatureSet:
    """Features of one modality: what they are in words, and a function that gives them, (n, d), of a split's examples."""

    described: str
    of: Callable[[Features], Tensor]
    places: int = 1  # whose features lie side by side, each read out by the same model; 1: features are of the whole


@dataclass(frozen=True)
class ChosenReadout:
    """The set of features that did best, and its readout; nothing of the diagnosed examples is in it."""

    features: FeatureSet
    width: int  # numbers an example
    fitted: FittedReadout
    training: Tensor  # expectations of every row of the train split, (t, ...)

    def read(self, task: Task, features: Features) -> UnimodalReadout:
        """Read n examples to diagnose out: expectations (n, ...), beside those of training and held-out examples."""
        here = task.expect(self.fitted.readout.predict(self.features.of(features).double()))
        return UnimodalReadout(here, self.fitted.held, self.training, self.fitted.loss, self.fitted.l2)

    @property
    def described(self) -> str:
        """What is read, and how many numbers that are."""
        width, places = self.width // self.features.places, self.features.places
        numbers = f"{width} {'number' if width == 1 else 'numbers'}"
        return f"{self.features.described}, {numbers}{f' at each of {places} places' if places > 1 else ''}"


def choose_features(task: Task, at: FitSplit, sets: Sequence[FeatureSet], finalists: int = FINALISTS) -> ChosenReadout:
    """Fit a linear readout of each set of features, and keep the one of the least held-out loss.

    Where there are several, all are fitted on some of the examples first, and only those that do best there on all.

    Args:
        task: what is read out.
        at: which examples are fitted on, and which choose.
        sets: at least one; of equal ones the first is kept.
        finalists: how many of them are fitted on all examples.

    Returns:
        The set and its readout.
    """
    remaining = list(sets)
    if len(remaining) > finalists:
        small = replace(at, fit=evenly(at.fit, SCREENED), choose=evenly(at.choose, SCREENED))
        losses = [_screened(task, small, one) for one in remaining]
        best = sorted(range(len(remaining)), key=lambda i: (losses[i], i))[:finalists]
        remaining = [remaining[i] for i in sorted(best)]
    return min((_fitted(task, at, one) for one in remaining), key=lambda one: one.fitted.loss)


def _screened(task: Task, small: FitSplit, one: FeatureSet) -> float:
    x, held = one.of(small.train), one.of(small.held)
    if one.places > 1:
        small = replace(small, fit=evenly(small.fit, max(2, AT_PLACES // x.shape[1])))
    with fitted_roughly(ROUGH):
        return fit_readout(task, small, x, held, PENALTIES, one.places).loss


def _fitted(task: Task, at: FitSplit, one: FeatureSet) -> ChosenReadout:
    x = one.of(at.train)
    held = x if at.held is at.train else one.of(at.held)
    width = x.shape[1]
    most = max(SCREENED, NUMBERS // max(1, width)) if one.places == 1 else max(2, AT_PLACES // width)
    some = replace(at, fit=evenly(at.fit, most))
    fitted = fit_readout(task, some, x, held, L2_GRID, one.places)
    return ChosenReadout(one, width, fitted, task.expect(fitted.readout.predict(x.double())))
