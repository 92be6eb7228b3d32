"""S1, Figure 6: loss over training from scratch."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.reproduce.item import Point, Trial, item
from collapsekit.reproduce.studies.scratch import FACTS, HOW, losses_from_scratch
from collapsekit.reproduce.studies.subjects import FOUR_VIEWS


@item(
    "s1.figure6",
    title="Semantic loss over training from scratch",
    **FOUR_VIEWS.facts(f"{HOW} The paper has MIMIC-IV."),
    **FACTS,
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield losses by method and epoch."""
    yield from losses_from_scratch(trial, FOUR_VIEWS.subject(trial))
