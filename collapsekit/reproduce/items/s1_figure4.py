"""S1, Figure 4: what an encoder's features say, by the number of modalities it is trained beside."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.reproduce.item import Point, Trial, columns_in_order, item, rows_in_order
from collapsekit.reproduce.studies.prefix import read_out, train_along
from collapsekit.reproduce.studies.subjects import make_subject

VIEWS = ("kar", "fou", "zer", "pix", "fac")  # in which they are added
COUNTS = ("2", "3", "4", "5")
PREFIX, BASELINE, GAP = "multimodal prefix", "unimodal baseline", "gap"
EARLY = {f"gap after {epoch} epochs": epoch for epoch in (5, 10, 20)}


@item(
    "s1.figure4",
    title="Semantic loss of the eliminated modality's encoder by number of modalities",
    claim="The loss of the multimodal prefix lies above that of the unimodal baseline, and the gap rises with the number of "
    "modalities.",
    here="Two to five views of MFeat, 300 training examples. The encoder is that of kar, which has the least credit on "
    "held-out examples where all five are there. Prefix: as multimodal training leaves it; baseline: the same encoder from "
    "the same weights and batches, with the loss of a linear head of its own beside. Both are read out by a softmax "
    "regression fitted on training examples. The paper has MIMIC-IV, and draws the loss during training.",
    state="other data",
    data=("mfeat",),
    rows=(PREFIX, BASELINE, GAP, *EARLY),
    columns=COUNTS,
    column_label="modalities",
    measured="cross-entropy on test, nats",
    orders=(
        rows_in_order("the prefix's loss is above the baseline's", (BASELINE, PREFIX), COUNTS, rises=True),
        columns_in_order("the gap rises with the number of modalities", COUNTS, (GAP,), rises=True),
        columns_in_order("the prefix's loss rises with the number of modalities", COUNTS, (PREFIX,), rises=True),
    ),
    notes=(
        "Whatever lowers the loss through other modalities leaves less gradient to this encoder. That alone makes such a "
        "gap, so it is no proof of neurons shared with noise.",
    ),
    drawn="lines",
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield the losses and their gap for every number of views."""
    for count in COUNTS if not trial.quick else COUNTS[:2]:
        subject = make_subject(trial, "mfeat", VIEWS[: int(count)], "kar", examples=300)
        prefix, baseline = (
            {
                epoch: read_out(network.encoders["kar"], subject.arrays, "kar")
                for epoch, network in train_along(subject, EARLY.values(), unimodal=weight)
            }
            for weight in (0.0, 1.0)
        )
        last = subject.epochs
        yield Point(PREFIX, count, prefix[last])
        yield Point(BASELINE, count, baseline[last])
        yield Point(GAP, count, prefix[last] - baseline[last])
        for row, epoch in EARLY.items():
            if epoch in prefix:
                yield Point(row, count, prefix[epoch] - baseline[epoch])
