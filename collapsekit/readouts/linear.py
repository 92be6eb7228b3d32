"""Linear evaluation: what a modality's features say, read out by a linear model chosen on held-out examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.errors import NumericsError
from collapsekit.features.features import Features
from collapsekit.tasks.base import Task

WIDEST = 4096  # numbers an example that are read out as they are
MIN_FITTED = 4  # examples under which nothing is fitted or chosen
L2_GRID = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
WORSE = 1.05  # times the least held-out loss so far, beyond which weaker penalties, the slow ones to fit, are not tried


@dataclass(frozen=True)
class UnimodalReadout:
    """A linear readout of one modality's features: expectations on the diagnosed, validation and training examples."""

    expected: Tensor  # (n, ...)
    validation: Tensor  # (v, ...)
    training: Tensor  # of every row of the train split
    validation_loss: float
    l2: float


@dataclass(frozen=True)
class FitSplit:
    """Which examples are fitted on and which choose: the train and val splits, or a fifth of train held out."""

    train: Features
    fit: Tensor
    held: Features
    choose: Tensor
    width: int  # outputs of the model, so of every readout

    @property
    def targets(self) -> Tensor:
        """Targets of the examples fitted on, (f, ...)."""
        return self.train.targets[self.fit]

    @property
    def held_targets(self) -> Tensor:
        """Targets of the held-out examples that choose, (v, ...)."""
        return self.held.targets[self.choose]


def make_split(adapter: Adapter, features: Features) -> FitSplit:
    """Choose the examples for whatever is fitted, to train on and to choose by. Raises NumericsError where there are
    none.
    """
    there = adapter.source.splits()
    need_train(adapter, features.split)
    if features.answering:
        raise NumericsError(
            f"it fits readouts, and {', '.join(features.answering)} of the modalities' inputs "
            f"{'holds' if len(features.answering) == 1 else 'hold'} the answers themselves: make a modality of what stands "
            "beside them alone, as of the prompt without its answer"
        )
    if features.leaking:
        raise NumericsError(
            f"it fits readouts, and encoders of {', '.join(features.leaking)} read the answers that stand in the model's "
            "input: leave out `encoder`, so that the prompt alone is exchanged, at the input"
        )
    width = adapter.task.expect(features.outputs[:1])[0].numel()
    train = _varied(adapter.task, features.of("train"))
    if adapter.task.embeddings == 1:
        adapter.task.prior(train.targets, width)  # raises where the task knows no baseline
    if "val" in there and features.split != "val" and adapter.source.count("val") != 0:
        held = _varied(adapter.task, features.of("val"))
        return FitSplit(train, torch.arange(len(train)), held, torch.arange(len(held)), width)
    index = torch.arange(len(train))
    return FitSplit(train, index[~train.fifth], train, index[train.fifth], width)


def need_train(adapter: Adapter, split: str) -> None:
    """Raise NumericsError where nothing can be fitted that is judged on ``split``."""
    if split == "train" or "train" not in adapter.source.splits():
        raise NumericsError(
            "it fits readouts on the train split and judges them on another: "
            + ("diagnose val or test" if split == "train" else "the data has no train split")
        )


def need_enough(split: str, count: int) -> None:
    """Raise NumericsError where ``count`` examples of ``split`` are too few to fit on or to choose by."""
    if count < MIN_FITTED:
        raise NumericsError(f"it fits readouts, and split {split!r} has {count} examples, under {MIN_FITTED}: use more")


def _varied(task: Task, features: Features) -> Features:
    need_enough(features.split, len(features))
    if task.unvarying(features.targets) is not None:
        raise NumericsError(f"it fits readouts, and every label of split {features.split!r} is the same")
    return features


class Predictor(Protocol):
    """What was fitted: features to natural values."""

    def predict(self, x: Tensor) -> Tensor:
        """Compute natural values (n, C), float64, of features (n, d)."""
        ...


@dataclass(frozen=True)
class FittedReadout:
    """A readout whose penalty was chosen: nothing of the diagnosed examples is in it, so that diagnoses of other
    examples share it."""

    loss: float  # on held-out examples
    l2: float
    readout: Predictor
    held: Tensor  # its expectations of held-out examples (v, ...)

    def read(self, task: Task, x_train: Tensor, x: Tensor) -> UnimodalReadout:
        """Read training and diagnosed examples out.

        Args:
            task: what is read out.
            x_train: features of every row of the train split, (t, d).
            x: features of the diagnosed examples, (n, d).

        Returns:
            Expectations (t, ...) and (n, ...), beside those of held-out examples.
        """
        here, fitted = (task.expect(self.readout.predict(v.double())) for v in (x, x_train))
        return UnimodalReadout(here, self.held, fitted, self.loss, self.l2)


def fit_readout(
    task: Task, at: FitSplit, x_train: Tensor, x_held: Tensor, penalties: Sequence[float] = L2_GRID, places: int = 1
) -> FittedReadout:
    """Fit a linear readout, its penalty chosen on held-out examples.

    Args:
        task: what is read out.
        at: which examples are fitted on, and which choose.
        x_train: features of every row of the train split, (t, d).
        x_held: features of every row of the held-out split, (h, d).
        penalties: to choose from, the largest first.
        places: of an example, whose features lie side by side and are read out by one model; 1: features are of the whole.

    Returns:
        The readout of the least held-out loss.
    """
    best: FittedReadout | None = None
    x, chosen_by = x_train[at.fit].double(), x_held[at.choose].double()
    for l2 in penalties:
        readout: Predictor
        if places == 1:
            readout = task.fit_linear(x, at.targets, at.width, l2)
        else:
            readout = task.fit_at_places(x.reshape(len(x), places, -1), at.targets, l2)
        held = task.expect(readout.predict(chosen_by))
        loss = float(task.loss(held, at.held_targets).mean())
        if best is None or loss < best.loss:
            best = FittedReadout(loss, l2, readout, held)
        elif loss > WORSE * best.loss:
            break
    assert best is not None
    return best
