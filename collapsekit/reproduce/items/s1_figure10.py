"""S1, Figure 10: rank and likeness as audio is upweighted."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.reproduce.item import Point, Trial, item
from collapsekit.reproduce.studies.subjects import make_subject
from collapsekit.reproduce.studies.upweighting import FACTS, HOW, follow_beta


@item(
    "s1.figure10",
    title="Rank of the fused features as audio is upweighted",
    here="avMNIST, 1,050 pairs for training; image and audio through small convolutions, one fused layer. The weakest is "
    f"audio, as in the paper's tables; here neither is weak. {HOW}",
    data=("avmnist1500",),
    **FACTS,
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield rank and likeness over β."""
    subject = make_subject(trial, "avmnist1500", ("image", "audio"), "audio", examples=1050, epochs=15)
    yield from follow_beta(trial, subject, "image")
