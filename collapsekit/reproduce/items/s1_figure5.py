"""S1, Figure 5: rank and likeness as the weakest modality is upweighted."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.reproduce.item import Point, Trial, item
from collapsekit.reproduce.studies.subjects import FOUR_VIEWS
from collapsekit.reproduce.studies.upweighting import FACTS, HOW, follow_beta


@item(
    "s1.figure5",
    title="Rank of the fused features as the weakest modality is upweighted",
    **FOUR_VIEWS.facts(f"{HOW} The paper has MIMIC-IV.", ", the strongest pix"),
    **FACTS,
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield rank and likeness over β."""
    yield from follow_beta(trial, FOUR_VIEWS.subject(trial), "pix")
