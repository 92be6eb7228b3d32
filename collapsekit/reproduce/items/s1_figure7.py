"""S1, Figure 7: noise on the weakest modality in training."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.reproduce.item import Point, Trial, item
from collapsekit.reproduce.studies.subjects import FOUR_VIEWS
from collapsekit.reproduce.studies.training_noise import HOW, accuracy_by_noise, facts_of

RATES = ("5", "20", "35", "50")


@item(
    "s1.figure7",
    title="Accuracy with noise on the weakest modality in training",
    **FOUR_VIEWS.facts(f"{HOW} The paper has MIMIC-IV."),
    **facts_of(RATES),
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield accuracy by method and rate."""
    yield from accuracy_by_noise(trial, FOUR_VIEWS.subject(trial), RATES)
