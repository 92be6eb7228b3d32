"""S1, Table 4: repaired encoders under several fusions, where audio is missing."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.reproduce.item import Point, Trial, item
from collapsekit.reproduce.studies.fusion_rows import answer, orders_of, printed_for, repaired_fusions, rows_of
from collapsekit.reproduce.studies.subjects import make_subject

MODELS = {"SMIL": "meta-learned", "ShaSpec": "shared-specific", "MUSE": "consistent"}
RATES = {"95 %": 0.95, "90 %": 0.90, "85 %": 0.85, "80 %": 0.80}
PRINTED = {
    "SMIL": ((92.89, 93.11, 93.33, 94.44), (92.95, 93.97, 94.06, 94.70), (93.77, 94.02, 94.51, 94.96)),
    "ShaSpec": ((93.33, 93.56, 93.78, 94.67), (95.02, 95.16, 95.30, 95.45), (95.30, 95.57, 95.89, 95.93)),
    "MUSE": ((94.21, 94.36, 94.82, 94.93), (94.98, 95.02, 95.40, 95.55), (95.02, 95.26, 95.61, 95.70)),
}


@item(
    "s1.table4",
    title="Accuracy on avMNIST with audio missing, by fusion and repair",
    claim="Whatever the fusion, accuracy with audio missing rises by KD, and more by EBR.",
    here="1,050 training pairs, two small convolutional encoders, and three fusions after those of the paper's models "
    "(collapsekit/reproduce/models says what each has of its model). All take a modality of an example away in training, in "
    "one of four. Audio is missing in a share of test examples; the number is what is to be expected over all draws of that "
    "share. Without heads the fusion deals with it in its own way; with heads the image's encoding stands in.",
    state="runs",
    data=("avmnist1500",),
    rows=rows_of(MODELS),
    columns=tuple(RATES),
    column_label="share of test examples without audio",
    measured="accuracy, %",
    printed=printed_for(PRINTED),
    orders=orders_of(MODELS, tuple(RATES), "accuracy"),
    notes=("The paper's row ShaSpec + EBR is its Table 3's row EBR, which its text says is of MUSE.",),
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield the accuracy of every row at every rate."""
    subject = make_subject(trial, "avmnist1500", ("image", "audio"), "image", examples=1050, epochs=25)
    labels = subject.arrays["test/label"]
    for row, repaired, _ in repaired_fusions(trial, subject, MODELS):
        there, gone = (
            float((answer(repaired, subject.arrays, "test", absent).argmax(1) == labels).double().mean())
            for absent in ((), ("audio",))
        )
        for column, rate in RATES.items():
            yield Point(row, column, 100 * (rate * gone + (1 - rate) * there))
