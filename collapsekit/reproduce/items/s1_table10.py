"""S1, Table 10: the eliminated modality's encoder in a contrastive network, by number of modalities."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.reproduce.item import Point, Trial, columns_in_order, item, rows_in_order
from collapsekit.reproduce.studies.contrastive_prefix import contrastive_prefix
from collapsekit.reproduce.studies.subjects import make_subject

VIEWS = ("kar", "fou", "zer", "pix", "fac")  # in which they are added
COUNTS = ("2", "3", "4", "5")
PREFIX, BASELINE, GAP = "multimodal prefix", "unimodal baseline", "gap"
HELD_OUT = ", held out"


@item(
    "s1.table10",
    title="Lowest semantic loss of an encoder in a contrastive network, by number of modalities",
    claim="The multimodal prefix's loss, and its gap to the unimodal baseline, rise with the number of modalities.",
    here="Two to five views of MFeat, 300 training examples, 100 epochs of a network after GMC "
    "(collapsekit/reproduce/models/contrastive.py says what it has of it), trained by the contrast and by the joint "
    "representation's loss on the labels. The loss is that of a linear head on the encoder of the view kar, trained along, "
    "in nats; the paper does not say its unit. The baseline's encoder is trained by that loss too. Held out, which the "
    "paper has not: on test examples, at the epoch of the least loss on validation examples.",
    state="other data",
    data=("mfeat",),
    rows=(PREFIX, BASELINE, GAP, PREFIX + HELD_OUT, BASELINE + HELD_OUT, GAP + HELD_OUT),
    columns=COUNTS,
    column_label="modalities",
    measured="cross-entropy, nats",
    printed={PREFIX: (27.68, 52.90, 91.20, 167.30), BASELINE: (7.97, 6.55, 5.33, 9.55)},
    orders=(
        rows_in_order("the baseline's loss is lower than the prefix's", (PREFIX, BASELINE), COUNTS, rises=False),
        columns_in_order("the prefix's loss rises with the number of modalities", COUNTS, (PREFIX,), rises=True),
        columns_in_order("the gap rises with the number of modalities", COUNTS, (GAP,), rises=True),
        columns_in_order(
            "the gap rises with the number of modalities, held out", COUNTS, (GAP + HELD_OUT,), rises=True
        ),
    ),
    notes=(
        "Each number of modalities adds one view to those before, so that how many and which are not told apart: pix is the "
        "fourth, and says much of what kar says.",
    ),
    drawn="lines",
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield the losses of both encoders for every number of views."""
    for count in COUNTS:
        subject = make_subject(trial, "mfeat", VIEWS[: int(count)], "kar", examples=300, epochs=100)
        prefix, baseline = (contrastive_prefix(subject, unimodal=alone) for alone in (False, True))
        for suffix, a, b in (("", prefix.train, baseline.train), (HELD_OUT, prefix.test, baseline.test)):
            yield Point(PREFIX + suffix, count, a)
            yield Point(BASELINE + suffix, count, b)
            yield Point(GAP + suffix, count, a - b)
