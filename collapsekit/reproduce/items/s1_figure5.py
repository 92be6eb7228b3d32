"""S1, Figure 5: rank and likeness as the weakest modality is upweighted."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.reproduce.item import Point, Trial, item
from collapsekit.reproduce.studies.subjects import make_subject
from collapsekit.reproduce.studies.upweighting import FACTS, HOW, follow_beta


@item(
    "s1.figure5",
    title="Rank of the fused features as the weakest modality is upweighted",
    here="Four views of MFeat, 300 training examples; the weakest is kar, which has the least credit on held-out examples, "
    f"the strongest pix. {HOW} The paper has MIMIC-IV.",
    state="other data",
    data=("mfeat",),
    **FACTS,
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield rank and likeness over β."""
    yield from follow_beta(
        trial, make_subject(trial, "mfeat", ("kar", "fou", "zer", "pix"), "kar", examples=300), "pix"
    )
