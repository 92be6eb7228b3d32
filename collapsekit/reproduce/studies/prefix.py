"""An encoder within a multimodal network: how well its features can be read out, with and without a loss of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.adapters.build import seed_everything
from collapsekit.data.base import SPLITS
from collapsekit.readouts.linear import L2_GRID
from collapsekit.reproduce.models.encoders import WIDTH
from collapsekit.reproduce.studies.datasets import Arrays
from collapsekit.reproduce.studies.networks import FusionNetwork, build
from collapsekit.reproduce.studies.subjects import BATCH, DECAY, RATE, StudySubject
from collapsekit.stats.linear import fit_softmax, fitted_roughly

CLOSE = 1e-5  # the gradient to which a readout is fitted


def train_along(
    subject: StudySubject, marks: Collection[int], *, unimodal: float = 0.0
) -> Iterator[tuple[int, FusionNetwork]]:
    """Train a network on the labels, where asked with a loss of the weak modality's encoder alone beside.

    Weights and batches begin alike whatever ``unimodal`` is. The network that is yielded goes on being trained.

    Args:
        subject: What is trained on, its weak modality, seed and epochs.
        marks: Epochs after which it is yielded, of those that there are; after the last it always is.
        unimodal: The weight of the cross-entropy of a linear head on the weak modality's features; 0: none.

    Yields:
        The epoch and the network in eval mode.
    """
    seed_everything(subject.seed)
    model = build(**subject.kwargs)
    head = nn.Linear(WIDTH, subject.kwargs["outputs"])  # drawn in either case
    order = torch.Generator().manual_seed(subject.seed)
    x, y = {m: subject.arrays[f"train/{m}"] for m in subject.modalities}, subject.arrays["train/label"]
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=RATE, weight_decay=DECAY)
    for epoch in range(1, subject.epochs + 1):
        model.train()
        for rows in torch.randperm(len(y), generator=order).split(BATCH):
            loss = F.cross_entropy(model(**{m: v[rows] for m, v in x.items()}), y[rows])
            if unimodal:
                features = model.encoders[subject.weak](x[subject.weak][rows])
                loss = loss + unimodal * F.cross_entropy(head(features), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        if epoch in marks or epoch == subject.epochs:
            yield epoch, model


def read_out(encoder: nn.Module, arrays: Arrays, modality: str) -> float:
    """Read an encoder's features out linearly: softmax regression, its penalty chosen on the val split.

    Args:
        encoder: From (n, ...) to features (n, d).
        arrays: By SPLIT/NAME.
        modality: What the encoder reads.

    Returns:
        The mean cross-entropy on the test split, in nats.
    """
    with torch.no_grad():
        features: dict[str, Tensor] = {s: encoder(arrays[f"{s}/{modality}"]).double() for s in SPLITS}
    labels: dict[str, Tensor] = {s: arrays[f"{s}/label"] for s in SPLITS}
    best, least = float("inf"), float("inf")
    for l2 in L2_GRID:
        with fitted_roughly(CLOSE):
            readout = fit_softmax(features["train"], labels["train"], int(labels["train"].max()) + 1, l2)
        val, test = (float(F.cross_entropy(readout.predict(features[s]), labels[s])) for s in ("val", "test"))
        if val < least:
            least, best = val, test
    return best
