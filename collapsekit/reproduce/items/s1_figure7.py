"""S1, Figure 7: noise on the weakest modality in training."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.reproduce.item import Point, Trial, item
from collapsekit.reproduce.studies.subjects import make_subject
from collapsekit.reproduce.studies.training_noise import HOW, accuracy_by_noise, facts_of

RATES = ("5", "20", "35", "50")


@item(
    "s1.figure7",
    title="Accuracy with noise on the weakest modality in training",
    here="Four views of MFeat, 300 training examples; the weakest is kar, which has the least credit on held-out examples. "
    f"{HOW} The paper has MIMIC-IV.",
    state="other data",
    data=("mfeat",),
    **facts_of(RATES),
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield accuracy by method and rate."""
    subject = make_subject(trial, "mfeat", ("kar", "fou", "zer", "pix"), "kar", examples=300)
    yield from accuracy_by_noise(trial, subject, RATES)
