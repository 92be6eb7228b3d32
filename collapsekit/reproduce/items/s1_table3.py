"""S1, Table 3: accuracy with audio missing."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.reproduce.item import Point, Trial, item
from collapsekit.reproduce.methods import EBR, KD, METHODS, VANILLA, ahead_of_controls, over_repairs
from collapsekit.reproduce.studies.subjects import AVMNIST, Bench

RATES = {"95 %": 0.95, "90 %": 0.9, "85 %": 0.85, "80 %": 0.8}


@item(
    "s1.table3",
    title="Accuracy as audio goes missing",
    claim="EBR is ahead of MUSE, which it is built on, at each rate.",
    here="avMNIST, 1,050 pairs for training; image and audio through small convolutions, one fused layer. Audio is "
    "absent from so many test examples and filled in the way that is best on held-out examples. The paper's rows "
    "of MUSE and EBR stand at vanilla and EBR, its rows of KD (Table 4, MUSE) at KD.",
    data=("avmnist1500",),
    rows=METHODS,
    columns=tuple(RATES),
    column_label="audio missing",
    measured="accuracy, %",
    printed={
        VANILLA: (94.21, 94.36, 94.82, 94.93),
        KD: (94.98, 95.02, 95.40, 95.55),
        EBR: (95.30, 95.57, 95.89, 95.93),
    },
    orders=(
        over_repairs("accuracy", tuple(RATES), rises=True),
        *ahead_of_controls(tuple(RATES)),
    ),
    notes=("The text builds EBR on MUSE; the row's four numbers are those of ShaSpec with EBR in Table 4.",),
    drawn="lines",
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield accuracy of every row at each rate."""
    bench = Bench(trial, AVMNIST.subject(trial))
    for repaired in bench.rows():
        report = bench.diagnose(repaired, ["missing"], missing={"rates": tuple(sorted(RATES.values()))})
        drop = report.find("missing.drop", "audio")
        if drop is None or drop.curve is None:
            continue
        by_rate = dict(zip(drop.curve.x, drop.curve.y, strict=True))
        for column, rate in RATES.items():
            yield Point(repaired.row, column, 100 * by_rate[rate])
