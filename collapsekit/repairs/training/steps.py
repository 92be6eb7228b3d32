"""Where a stage is in its training, and the losses of its steps, which stay on their device until many are read at once:
each look at one waits for it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from collapsekit.distributed.process_group import current
from collapsekit.io.transfer import to_cpu
from collapsekit.repairs.training.data_parallel import Whole
from collapsekit.repairs.training.job import Job


@dataclass
class TrainingState:
    """Where a stage is, beside weights and optimiser."""

    epoch: int = 0  # epochs done
    step: int = 0  # optimiser steps done of the next one
    halved: int = 0
    total: float = 0.0  # training loss of the epoch so far, times examples
    seen: int = 0
    best: int = 0
    history: list[tuple[int, float | None, float]] = field(default_factory=list)

    @property
    def best_loss(self) -> float:
        """The held-out loss of the best epoch."""
        return next(held for epoch, _, held in self.history if epoch == self.best)

    def copy(self, **changes: Any) -> TrainingState:
        """Copy it, with other values of some fields."""
        return TrainingState(**{**vars(self), "history": list(self.history), **changes})

    def at_best(self) -> TrainingState:
        """Make the state behind the best epoch."""
        known = [entry for entry in self.history if entry[0] <= self.best]
        return TrainingState(epoch=self.best, best=self.best, history=known)

    def add(self, total: float, count: float) -> None:
        """Add the losses of a step, times examples, and how many examples these were."""
        self.total += total
        self.seen += round(count)


@dataclass(frozen=True)
class StepLosses:
    """What a step gave: the losses of its parts, how many examples each counts for, and the gradient's norm, scalars."""

    step: int
    losses: list[Tensor]
    counts: list[float]
    norm: Tensor


class LossLog:
    """Takes in what steps gave: at once, or ``later``, where that would wait for a device, when it is asked to look."""

    def __init__(self, lay: Whole, job: Job) -> None:
        self.lay = lay
        self.most = math.inf if job.training.clip is None else job.training.clip  # of a gradient's norm
        # Several processes tell one another at each step as it is.
        self.later = job.adapter.device.type != "cpu" and current().size == 1
        self._unread: list[StepLosses] = []

    def take(self, state: TrainingState, failed: bool, losses: list[Tensor], counts: list[float]) -> bool:
        """Clip the gradients of a step and take its losses in.

        Args:
            state: Where training is; the losses are added to it now or later.
            failed: Whether a part of the step was given up.
            losses: Of the step's parts, scalars.
            counts: How many examples each counts for.

        Returns:
            False where something is known not to be finite; gradients and sums are those of all processes.
        """
        if self.later:
            self._unread.append(StepLosses(state.step, losses, counts, self.lay.clip(self.most)))
            return True
        given_up, total, count = self.lay.summed((float(failed), _weigh(map(float, losses), counts), sum(counts)))
        if given_up:
            return False
        state.add(total, count)
        return math.isfinite(float(self.lay.clip(self.most)))

    def look(self, state: TrainingState) -> bool:
        """Add what was not read yet to ``state``, by one copy; False where it is not finite, back at the first such step."""
        unread, self._unread = self._unread, []
        values = iter(to_cpu(x for one in unread for x in (*one.losses, one.norm)))
        for one in unread:
            losses = [float(next(values)) for _ in one.losses]
            if not all(map(math.isfinite, (*losses, float(next(values))))):
                state.step = one.step
                return False
            state.add(_weigh(losses, one.counts), sum(one.counts))
        return True


def _weigh(losses: Iterable[float], counts: Iterable[float]) -> float:
    total = 0.0
    for loss, count in zip(losses, counts, strict=True):
        total += loss * count
    return total
