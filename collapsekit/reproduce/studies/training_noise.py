"""Uniform noise on the weak modality of the training examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from collapsekit.reproduce.item import Point, Trial, columns_in_order, rows_in_order
from collapsekit.reproduce.methods import CONTROL, KD, KEPT, METHODS, VANILLA, ahead_of_controls, over_repairs
from collapsekit.reproduce.studies.subjects import Bench, StudySubject, accuracy
from collapsekit.stats.noise import spread

HOW = (
    "Uniform noise between -a and a is added to it in the training examples alone, drawn once; a is so many % of its range, "
    "which is the largest of any entry (the paper does not say what its rates are of). Epochs are chosen on clean held-out "
    "examples, and accuracy is of clean test examples."
)


def facts_of(rates: Sequence[str]) -> dict[str, Any]:
    """Make what the items have in common.

    Args:
        rates: The columns.

    Returns:
        Fields of an item.
    """
    return {
        "claim": "With noise of 5 to 50 % in training, accuracy falls; KD and more so EBR are ahead, and lose less.",
        "rows": METHODS,
        "columns": tuple(rates),
        "column_label": "noise in training, % of the range",
        "measured": "accuracy on test, %",
        "orders": (
            over_repairs("accuracy", rates, rises=True),
            *ahead_of_controls(rates),
            rows_in_order("KD is ahead of fine-tuning (our control)", (CONTROL, KD), rates, rises=True),
            columns_in_order("the vanilla network's accuracy falls with noise", rates, (VANILLA,), rises=False),
        ),
        "notes": (KEPT,),
        "drawn": "lines",
    }


def add_uniform(values: Tensor, level: float, seed: int) -> Tensor:
    """Add uniform noise between -a and a, where a is ``level`` times the range.

    Args:
        values: (n, ...).
        level: Part of the largest range that an entry has over the examples.
        seed: Of the noise.

    Returns:
        (n, ...).
    """
    noise = 2 * torch.rand(values.shape, generator=torch.Generator().manual_seed(seed)) - 1
    return values + level * spread(values, "range") * noise


def accuracy_by_noise(trial: Trial, subject: StudySubject, rates: Sequence[str]) -> Iterator[Point]:
    """Yield accuracy of every row at every rate, in %.

    Args:
        trial: Which seed.
        subject: Without noise.
        rates: In %.

    Yields:
        Points.
    """
    key = f"train/{subject.weak}"
    for place, rate in enumerate(rates if not trial.quick else rates[:1]):
        noisy = add_uniform(subject.arrays[key], float(rate) / 100, 1000 * (place + 1) + trial.seed)
        bench = Bench(trial, replace(subject, arrays={**subject.arrays, key: noisy}))
        for repaired in bench.rows():
            yield Point(repaired.row, rate, 100 * accuracy(repaired.adapter.model, subject.arrays))
