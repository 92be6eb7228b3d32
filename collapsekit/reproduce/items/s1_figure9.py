"""S1, Figure 9: loss over training from scratch, avMNIST."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.reproduce.item import Point, Trial, item
from collapsekit.reproduce.studies.scratch import FACTS, HOW, losses_from_scratch
from collapsekit.reproduce.studies.subjects import make_subject


@item(
    "s1.figure9",
    title="Semantic loss over training from scratch, avMNIST",
    here="avMNIST, 500 pairs for training; image and audio through small convolutions, one fused layer. The weakest is "
    f"audio, as in the paper's tables; here neither is weak. {HOW} The paper trains on all 1,050 pairs.",
    data=("avmnist1500",),
    **FACTS,
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield losses by method and epoch."""
    subject = make_subject(trial, "avmnist1500", ("image", "audio"), "audio", examples=500, epochs=15)
    yield from losses_from_scratch(trial, subject)
