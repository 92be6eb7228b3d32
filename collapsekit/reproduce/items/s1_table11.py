"""S1, Table 11: ranks over the strength of the eliminated modality, in a generative and a contrastive model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from collapsekit.adapters.build import seed_everything
from collapsekit.reproduce.item import Order, Point, Trial, columns_in_order, item, rows_in_order
from collapsekit.reproduce.methods import CONTROL, EBR, HEADS, KD, VANILLA
from collapsekit.reproduce.models.contrastive import ContrastiveNetwork
from collapsekit.reproduce.models.encoding import JointEncoding
from collapsekit.reproduce.models.mixture import MixtureAutoencoder
from collapsekit.reproduce.studies.subjects import StudySubject, make_subject, take_modalities
from collapsekit.reproduce.studies.unlabelled import Shapes, joined_rows, rank_at, rank_of, train_alone, train_jointly

STRENGTHS = ("0", "2", "4", "6", "8")
ALONE = "unimodal baseline"
MODELS: dict[str, tuple[Callable[[Shapes], JointEncoding], tuple[str, ...]]] = {
    "MMVAE": (MixtureAutoencoder, ("pix", "fou")),  # the first teaches first
    "GMC": (ContrastiveNetwork, ("zer", "pix", "fou", "kar")),
}
WEAK = {"MMVAE": "fou", "GMC": "kar"}
PRINTED = {
    "MMVAE": ((198,), (477, 421, 398, 110, 96), (482, 465, 390, 298, 270), (485, 477, 431, 405, 395)),
    "GMC": ((1255,), (1877, 1330, 1146, 930, 872), (1905, 1676, 1533, 1427, 1390), (1912, 1825, 1709, 1600, 1588)),
}


def _orders(model: str) -> tuple[Order, ...]:
    of_paper = [f"{model}, {way}" for way in (VANILLA, KD, EBR)]
    return (
        *(columns_in_order(f"the rank of {row} falls with β", STRENGTHS, (row,), rises=False) for row in of_paper),
        rows_in_order(f"the rank of {model} at β = 8 rises from vanilla over KD to EBR", of_paper, ("8",), rises=True),
    )


@item(
    "s1.table11",
    title="Rank of the representation over β, in a generative and a contrastive model",
    claim="The rank falls as the eliminated modality counts for more, less by KD, and least by EBR.",
    here="MFeat, 300 training examples, 100 epochs, no labels. After MMVAE: two views in the place of MNIST and SVHN, the "
    "representation the mean of the experts' means (32 numbers). After GMC: four views in the place of MIMIC-IV, 64 fused "
    "neurons. collapsekit/reproduce/models says what each has of its model. β multiplies what the weak view gives before it "
    "is joined, after training; the rank is the effective rank on test examples. Repairs begin from the trained network and "
    "train as long again on its objective: KD after the weak encoder was distilled by contrast from each other one, all but "
    "the encoders new; EBR with heads and a contrast of their latent encodings. The unimodal baselines are a "
    "variational autoencoder of the weak view, and its encoder trained on the labels.",
    state="other data",
    data=("mfeat",),
    rows=tuple(f"{model}, {way}" for model in MODELS for way in (ALONE, VANILLA, CONTROL, HEADS, KD, EBR)),
    columns=STRENGTHS,
    column_label="β",
    measured="effective rank",
    printed={
        f"{model}, {way}": numbers
        for model, rows in PRINTED.items()
        for way, numbers in zip((ALONE, VANILLA, KD, EBR), rows, strict=True)
    },
    orders=tuple(order for model in MODELS for order in _orders(model)),
    drawn="lines",
)
def measure(trial: Trial) -> Iterator[Point]:
    """Yield the rank of every row at every strength."""
    for model, (make, views) in MODELS.items():
        weak = WEAK[model]
        subject = make_subject(trial, "mfeat", views, weak, examples=300, epochs=100)
        for row, network in joined_rows(subject, make, [v for v in views if v != weak]):
            for strength in STRENGTHS:
                yield Point(f"{model}, {row}", strength, rank_at(network, subject, float(strength)))
        rank = _rank_alone(model, subject)
        for strength in STRENGTHS:
            yield Point(f"{model}, {ALONE}", strength, rank)


def _rank_alone(model: str, subject: StudySubject) -> float:
    """The rank of what represents the weak view alone, on test examples."""
    view = subject.weak
    if model == "GMC":
        encoder = train_alone(subject)
        with torch.no_grad():
            return rank_of(encoder(subject.arrays[f"test/{view}"]))
    alone = replace(subject, arrays=take_modalities(subject.arrays, (view,)))
    seed_everything(alone.seed)
    return rank_at(train_jointly(alone, MixtureAutoencoder(alone.kwargs["shapes"])), alone, 1.0)
