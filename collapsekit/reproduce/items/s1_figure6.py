"""S1, Figure 6: loss over training from scratch."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.reproduce.item import Point, Trial, item
from collapsekit.reproduce.studies.scratch import FACTS, HOW, losses_from_scratch
from collapsekit.reproduce.studies.subjects import make_subject


@item(
    "s1.figure6",
    title="Semantic loss over training from scratch",
    here="Four views of MFeat, 300 training examples; the weakest is kar, which has the least credit on held-out examples. "
    f"{HOW} The paper has MIMIC-IV.",
    state="other data",
    data=("mfeat",),
    **FACTS,
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield losses by method and epoch."""
    subject = make_subject(trial, "mfeat", ("kar", "fou", "zer", "pix"), "kar", examples=300)
    yield from losses_from_scratch(trial, subject)
