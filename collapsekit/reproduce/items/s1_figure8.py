"""S1, Figure 8: noise on audio in training."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.reproduce.item import Point, Trial, item
from collapsekit.reproduce.studies.subjects import make_subject
from collapsekit.reproduce.studies.training_noise import HOW, accuracy_by_noise, facts_of

RATES = ("5", "25", "50")


@item(
    "s1.figure8",
    title="Accuracy with noise on audio in training",
    here="avMNIST, 1,050 pairs for training; image and audio through small convolutions, one fused layer. The weakest is "
    f"audio, as in the paper's tables; here neither is weak. {HOW}",
    data=("avmnist1500",),
    **facts_of(RATES),
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield accuracy by method and rate."""
    subject = make_subject(trial, "avmnist1500", ("image", "audio"), "audio", examples=1050, epochs=15)
    yield from accuracy_by_noise(trial, subject, RATES)
