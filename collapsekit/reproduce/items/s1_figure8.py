"""S1, Figure 8: noise on audio in training."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.reproduce.item import Point, Trial, item
from collapsekit.reproduce.studies.subjects import AVMNIST
from collapsekit.reproduce.studies.training_noise import HOW, accuracy_by_noise, facts_of

RATES = ("5", "25", "50")


@item(
    "s1.figure8",
    title="Accuracy with noise on audio in training",
    **AVMNIST.facts(HOW),
    **facts_of(RATES),
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield accuracy by method and rate."""
    yield from accuracy_by_noise(trial, AVMNIST.subject(trial), RATES)
