"""S1, Figure 9: loss over training from scratch, avMNIST."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from collapsekit.reproduce.item import Point, Trial, item
from collapsekit.reproduce.studies.scratch import FACTS, HOW, losses_from_scratch
from collapsekit.reproduce.studies.subjects import AVMNIST

FEWER = replace(AVMNIST, examples=500)


@item(
    "s1.figure9",
    title="Semantic loss over training from scratch, avMNIST",
    **FEWER.facts(f"{HOW} The paper trains on all 1,050 pairs."),
    **FACTS,
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield losses by method and epoch."""
    yield from losses_from_scratch(trial, FEWER.subject(trial))
