"""Outputs that are probabilities already, where a loss is taken of logits."""

from __future__ import annotations

from copy import copy
from typing import Self

import torch
from torch import Tensor

from collapsekit.errors import ConfigError
from collapsekit.tasks.base import FLOOR, Task

LOGITS, PROBABILITIES = "logits", "probabilities"  # what `task_options: {outputs: ...}` may say
ROUNDING = 1e-3  # by which probabilities may miss a sum of 1, in half precision


class TaskOfLogits(Task):
    """A task of classes or labels: its outputs are logits, or probabilities that are turned into these as they are read."""

    outputs: str | None = None  # LOGITS or PROBABILITIES; None: to be told from what the model answers
    told = False  # whether that was told from what the model answers, and not by the config

    def reading_probabilities(self) -> Self:
        """Return the same task, as told from what the model answers."""
        twin = copy(self)
        twin.outputs, twin.told = PROBABILITIES, True
        return twin

    def are_distributions(self, outputs: Tensor) -> bool:
        """Tell whether outputs (n, ...), read as logits, are distributions over two classes or more."""
        del outputs
        return False

    def logits_of(self, prediction: Tensor, *, alone: bool) -> Tensor:
        """Turn a prediction into logits, where the task reads probabilities.

        Args:
            prediction: the model's, (n, ...).
            alone: whether each number is the probability of a label, or of the second of two classes, by itself; else
                classes share 1.

        Returns:
            Logits (n, ...), as far as the prediction's precision tells them, NaN for numbers that are no probabilities; of a
            task that reads logits the prediction.
        """
        if self.outputs != PROBABILITIES:
            return prediction
        p, kind = prediction.double(), torch.promote_types(prediction.dtype, torch.float32)
        p = torch.where((p < 0) | (p > 1 + ROUNDING), torch.nan, p)
        if not alone:
            return p.clamp_min(FLOOR).log().to(kind)
        least = torch.finfo(prediction.dtype).eps / 2
        p = p.clamp(least, 1 - least)
        return (p.log() - (1 - p).log()).to(kind)


def are_shares(outputs: Tensor) -> bool:
    """Tell whether all outputs (n, ...) lie within 0 and 1, but for rounding."""
    return bool(outputs.numel()) and bool(((outputs >= 0) & (outputs <= 1 + ROUNDING)).all())


def sum_to_1(outputs: Tensor, axis: int) -> bool:
    """Tell whether outputs (n, ...) lie within 0 and 1 and sum to 1 along an axis of two or more."""
    if outputs.shape[axis] < 2 or not are_shares(outputs):
        return False
    return bool(((outputs.double().sum(axis) - 1).abs() <= ROUNDING).all())


def read_outputs(value: object) -> str | None:
    """Read the option ``outputs`` of a config. Raises ConfigError where it is neither LOGITS nor PROBABILITIES."""
    if value is None or value in (LOGITS, PROBABILITIES):
        return value
    raise ConfigError(f"task_options outputs is {value!r}, expected {LOGITS} or {PROBABILITIES}.")
