"""S1, Table 7: collinearity of the fused features as modalities are added."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.reproduce.item import Point, Trial, columns_in_order, item
from collapsekit.reproduce.methods import EBR, KD, METHODS, OF_PAPER, VANILLA, over_repairs
from collapsekit.reproduce.studies.subjects import Bench, make_subject, value_of

VIEWS = ("kar", "fou", "zer", "pix", "fac")  # in which they are added
COUNTS = ("2", "3", "4", "5")


@item(
    "s1.table7",
    title="VIF of the fused features by number of modalities",
    claim="VIF rises with the number of modalities, and falls from the vanilla network over KD to EBR.",
    here="Two to five views of MFeat, 300 training examples, one layer of 64 fused neurons; VIF is the median over neurons, "
    "as a mean is that of the few that are nearly collinear. The paper has MIMIC-IV, and says neither width nor mean.",
    state="other data",
    data=("mfeat",),
    rows=METHODS,
    columns=COUNTS,
    column_label="modalities",
    measured="VIF, median over neurons",
    printed={VANILLA: (1.15, 2.68, 3.51, 4.70), KD: (1.09, 1.90, 2.30, 2.68), EBR: (1.05, 1.26, 1.32, 1.55)},
    orders=(
        over_repairs("VIF", COUNTS, rises=False),
        *(
            columns_in_order(f"VIF rises with the number of modalities: {m}", COUNTS, (m,), rises=True)
            for m in OF_PAPER
        ),
    ),
    drawn="lines",
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield VIF for every row and number of views."""
    for count in COUNTS if not trial.quick else COUNTS[:2]:
        subject = make_subject(trial, "mfeat", VIEWS[: int(count)], "kar", examples=300)
        bench = Bench(trial, subject)
        for repaired in bench.rows():
            report = bench.diagnose(repaired, ["vif"])
            yield Point(repaired.row, count, value_of(report, "vif.median"))
