"""S1, Table 5: in which order the surviving modalities teach."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from collapsekit.reproduce.item import Point, Trial, item, rows_in_order
from collapsekit.reproduce.methods import CONTROL, ROWS, VANILLA
from collapsekit.reproduce.studies.subjects import Bench, Repaired, make_subject
from collapsekit.stats.metrics import macro_auroc, macro_average_precision

VIEWS = ("depth", "skeleton", "accel", "gyro")
ROC, PRC = "AUC-ROC", "AUC-PRC"
SEQUENCES = {
    "strongest only": "strongest",
    "strongest-to-weakest": "strongest-to-weakest",
    "random": "random",
    "simultaneous": "simultaneous",
    "weakest-to-strongest": "weakest-to-strongest",
}
RISING = ("strongest-to-weakest", "random", "simultaneous", "strongest only", "weakest-to-strongest")


@item(
    "s1.table5",
    title="KD by the order in which the surviving modalities teach",
    claim="From the weakest to the strongest is best, strongest to weakest worst.",
    here="UTD-MHAD, four sensors, 27 actions of subjects who are in training or in test, 431 clips for training. The "
    "student is the skeleton, which has the least credit on held-out examples; the other three teach, in the order of their "
    "credit. Both metrics are means over classes, one against the rest. The paper has MIMIC-IV, mortality.",
    state="other data",
    data=("utd_mhad",),
    rows=(VANILLA, CONTROL, *SEQUENCES),
    columns=(ROC, PRC),
    column_label="metric",
    measured="area, mean over classes",
    printed={
        "strongest only": (0.9196, 0.4875),
        "strongest-to-weakest": (0.8651, 0.4130),
        "random": (0.9005, 0.4685),
        "simultaneous": (0.9102, 0.4786),
        "weakest-to-strongest": (0.9350, 0.4993),
    },
    orders=(
        *(rows_in_order(f"{name}: rises in the paper's order", RISING, (name,), rises=True) for name in (ROC, PRC)),
        *(
            rows_in_order(
                f"{name}: the best is ahead of fine-tuning (our control)", (CONTROL, RISING[-1]), (name,), rises=True
            )
            for name in (ROC, PRC)
        ),
    ),
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield both metrics for every order."""
    bench = Bench(trial, make_subject(trial, "utd_mhad", VIEWS, "skeleton", examples=431))
    yield from areas_of(bench, bench.vanilla())
    yield from areas_of(bench, bench.repaired(CONTROL, *ROWS[CONTROL]))
    for row, sequence in SEQUENCES.items():
        yield from areas_of(bench, bench.repaired(row, "kd", {"sequence": sequence}))


def areas_of(bench: Bench, repaired: Repaired) -> Iterator[Point]:
    """Yield both metrics of a network on the test split, of its probabilities, one class against the rest."""
    arrays = bench.subject.arrays
    with torch.no_grad():
        logits = repaired.adapter.model(**{m: arrays[f"test/{m}"] for m in bench.subject.modalities})
    scores, truth = logits.double().softmax(1), F.one_hot(arrays["test/label"], logits.shape[1])
    yield Point(repaired.row, ROC, macro_auroc(scores, truth))
    yield Point(repaired.row, PRC, macro_average_precision(scores, truth))
