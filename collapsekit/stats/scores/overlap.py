"""Overlap of predicted and true classes over places: accuracy, intersection over union, Dice; by way of confusion tables."""

from __future__ import annotations

import torch
from torch import Tensor

from collapsekit.errors import NumericsError


def confusion_tables(answers: Tensor, y: Tensor, groups: Tensor, classes: int) -> Tensor:
    """Count places by group, true class and answer.

    Args:
        answers: class numbers, int64 (n, P).
        y: true ones, (n, P); below 0 where a place does not count.
        groups: of each example, int64 (n,), 0 to G - 1.
        classes: how many classes there are, C.

    Returns:
        float64 (G, C, C).
    """
    there = y >= 0
    size = int(groups.max()) + 1
    cell = (groups[:, None] * classes + y.clamp_min(0)) * classes + answers
    return torch.bincount(cell[there], minlength=size * classes**2).double().reshape(size, classes, classes)


def place_accuracy(table: Tensor) -> float:
    """Compute the share of places of a table (C, C) that are right; equals ``sklearn.metrics.accuracy_score``."""
    return float(table.diagonal().sum() / _some(table).sum())


def mean_iou(table: Tensor) -> float:
    """Compute right answers over answers or truths of each class, mean over the classes that a table (C, C) has.

    Equals ``sklearn.metrics.jaccard_score(average="macro")`` over the true classes.
    """
    right, true, said = _sums(table)
    return float((right / (true + said - right))[true > 0].mean())


def mean_dice(table: Tensor) -> float:
    """Compute twice the right answers over answers and truths of each class, mean over the true classes of a table (C, C).

    Dice 1945; equals ``sklearn.metrics.f1_score(average="macro")`` over the true classes.
    """
    right, true, said = _sums(table)
    return float((2 * right / (true + said))[true > 0].mean())


def _sums(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    table = _some(table)
    return table.diagonal(), table.sum(1), table.sum(0)


def _some(table: Tensor) -> Tensor:
    if not bool(table.sum() > 0):
        raise NumericsError("overlap needs places with a class, found none: use more examples.")
    return table
