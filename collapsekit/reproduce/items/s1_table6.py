"""S1, Table 6: ways to fill in what is missing."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import torch
from torch.nn.functional import one_hot

from collapsekit.reproduce.item import Point, Trial, item, rows_in_order
from collapsekit.reproduce.methods import EBR, ROWS
from collapsekit.reproduce.studies.subjects import (
    Bench,
    StudySubject,
    make_subject,
    take_modalities,
    train_ordinarily,
    value_of,
)
from collapsekit.stats.metrics import macro_auroc

VIEWS = ("depth", "skeleton", "accel", "gyro")
FILLS = {
    "zeros": "zeros",
    "random": "sample",
    "nearest neighbour": "neighbour",
    "late fusion": "late",
    "mean": "mean",
    "mean of the class": "class_mean",
}
TARGET, COLUMN = "target", "AUC-ROC"


@item(
    "s1.table6",
    title="AUC-ROC over every set of missing modalities, by how they are filled",
    claim="Substitution by EBR is ahead of every other way, and just under the target.",
    here="UTD-MHAD, four sensors. Every way but EBR's is of the network as it was trained, EBR's of the repaired one. "
    "Means over the 14 sets that leave something present and something absent (the paper says 15). The target is "
    "trained on the present ones alone, for every set. The paper has MIMIC-IV, mortality.",
    state="other data",
    data=("utd_mhad",),
    rows=(*FILLS, EBR, TARGET),
    columns=(COLUMN,),
    column_label="filled by",
    measured="AUC-ROC, mean over classes and sets",
    printed={
        "zeros": (0.5110,),
        "random": (0.6139,),
        "nearest neighbour": (0.7150,),
        "late fusion": (0.6990,),
        "mean": (0.5312,),
        "mean of the class": (0.7396,),
        EBR: (0.7829,),
        TARGET: (0.7844,),
    },
    orders=(
        *(rows_in_order(f"EBR is ahead of {row}", (row, EBR), (COLUMN,), rises=True) for row in FILLS),
        rows_in_order("zeros are the worst: random is ahead of them", ("zeros", "random"), (COLUMN,), rises=True),
        rows_in_order("the target is ahead of EBR", (EBR, TARGET), (COLUMN,), rises=True),
    ),
    notes=("The mean of the class reads the label that is asked for: an oracle, and no rival.",),
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield a score for every way to fill, and for networks that need none."""
    subject = make_subject(trial, "utd_mhad", VIEWS, "gyro", examples=431)
    bench = Bench(trial, subject)
    report = bench.diagnose(bench.vanilla(), ["missing"], metric="auroc", missing={"fills": tuple(FILLS.values())})
    for row, fill in FILLS.items():
        yield Point(row, COLUMN, value_of(report, f"missing.patterns.{fill}"))
    repaired = bench.repaired(EBR, *ROWS[EBR])
    report = bench.diagnose(repaired, ["missing"], metric="auroc", missing={"fills": ("substitution",)})
    yield Point(EBR, COLUMN, value_of(report, "missing.patterns.substitution"))
    present = [names for size in range(1, len(VIEWS)) for names in combinations(VIEWS, size)]
    scores = [_score(subject, names) for names in (present[-2:] if trial.quick else present)]
    yield Point(TARGET, COLUMN, statistics.fmean(scores))


def _score(subject: StudySubject, names: tuple[str, ...]) -> float:
    """AUC-ROC of a network that was trained on these modalities alone."""
    alone = replace(subject, arrays=take_modalities(subject.arrays, names))
    network = train_ordinarily(alone)
    with torch.no_grad():
        logits = network(**{m: alone.arrays[f"test/{m}"] for m in names})
    return macro_auroc(logits.double().softmax(1), one_hot(alone.arrays["test/label"], logits.shape[1]))
