"""S1, Table 9: cross-entropy of a classifier that tells which modality a neuron's weights are of."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.reproduce.item import Point, Trial, item, rows_in_order
from collapsekit.reproduce.methods import EBR, HEADS, KD, KEPT, METHODS, VANILLA, over_repairs
from collapsekit.reproduce.studies.subjects import Bench, make_subject, value_of

CE = "cross-entropy"
TEACHERS, EPOCHS = 12, 100  # with fewer its check is above ln 2, on held-out examples of a seed apart
RESULTS = {CE: "cross_entropy", "entropy": "entropy", "check": "check", "ln 2": "uniform"}


@item(
    "s1.table9",
    title="Cross-entropy of a modality classifier on the fusion's weights",
    claim="It falls sharply from the vanilla network over KD to EBR: fused neurons become monosemantic.",
    here="Two views of MFeat, kar and pix, 300 training examples. A two-layer classifier learns from weights of unimodal "
    "networks, twelve a view, which modality they are of, in principal coordinates of the features, and is asked of 64 "
    "fused neurons. Check is its cross-entropy on unimodal networks that it has not seen, ln 2 that of an even answer; "
    "entropy alone is spread mass. The paper has MIMIC-IV, and does not say how weights of different networks come into one "
    "space.",
    state="other data",
    data=("mfeat",),
    rows=METHODS,
    columns=tuple(RESULTS),
    column_label="of the classifier",
    measured="nats",
    printed={VANILLA: (5.66,), KD: (2.09,), EBR: (0.59,)},
    orders=(
        over_repairs("cross-entropy", (CE,), rises=False),
        rows_in_order("EBR's is under that of heads alone (our control)", (HEADS, EBR), (CE,), rises=False),
        over_repairs("entropy", ("entropy",), rises=False),
    ),
    notes=(
        "The paper's 5.66 for two modalities is far above ln 2 = 0.69: such a number is confident error, not probability "
        "spread over modalities, as which it is read there.",
        KEPT,
    ),
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield the classifier's numbers for every row."""
    bench = Bench(trial, make_subject(trial, "mfeat", ("kar", "pix"), "kar", examples=300))
    classifier = {"seeds": trial.pick(TEACHERS, 3), "epochs": trial.pick(EPOCHS, 2)}
    for repaired in bench.rows():
        # Profile quick trains no unimodal networks.
        report = bench.diagnose(repaired, ["polysemanticity"], profile="standard", polysemanticity=classifier)
        for column, name in RESULTS.items():
            yield Point(repaired.row, column, value_of(report, f"polysemanticity.{name}"))
