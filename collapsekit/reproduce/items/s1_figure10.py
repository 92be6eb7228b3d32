"""S1, Figure 10: rank and likeness as audio is upweighted."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.reproduce.item import Point, Trial, item
from collapsekit.reproduce.studies.subjects import AVMNIST
from collapsekit.reproduce.studies.upweighting import FACTS, HOW, follow_beta


@item(
    "s1.figure10",
    title="Rank of the fused features as audio is upweighted",
    **AVMNIST.facts(HOW),
    **FACTS,
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield rank and likeness over β."""
    yield from follow_beta(trial, AVMNIST.subject(trial), "image")
