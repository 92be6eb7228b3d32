"""The encoder of a modality within a contrastive network, and how well its label can be read from it during training."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.adapters.build import seed_everything
from collapsekit.reproduce.models.contrastive import ContrastiveNetwork
from collapsekit.reproduce.models.encoders import WIDTH
from collapsekit.reproduce.studies.subjects import StudySubject
from collapsekit.reproduce.studies.unlabelled import inputs_of, train_on


class ReadOut(NamedTuple):
    """Cross-entropies of a linear head on a modality's encoder, in nats."""

    train: float  # the least over epochs
    test: float  # at the epoch of the least on validation examples


def contrastive_prefix(subject: StudySubject, *, unimodal: bool) -> ReadOut:
    """Train by GMC's contrast and the joint representation's loss on the labels, and read the weak modality's encoder out.

    The linear head on that encoder is trained beside the rest, by its own loss.

    Args:
        subject: On what, and the weak modality.
        unimodal: Whether that loss trains the encoder too (the unimodal baseline), or the head alone (the prefix).

    Returns:
        What the head achieves.
    """
    seed_everything(subject.seed)
    network, classes = ContrastiveNetwork(subject.kwargs["shapes"]), subject.kwargs["outputs"]
    of_all, of_weak = nn.Linear(WIDTH, classes), nn.Linear(WIDTH, classes)
    x, y = inputs_of(subject, "train"), subject.arrays["train/label"]

    def loss(rows: Tensor) -> Tensor:
        batch = {m: v[rows] for m, v in x.items()}
        features, _ = network.encode(batch)
        joint = F.cross_entropy(of_all(network.represent(features, {})), y[rows])
        weak = features[subject.weak] if unimodal else features[subject.weak].detach()
        return network.objective(batch, features) + joint + F.cross_entropy(of_weak(weak), y[rows])

    def read(split: str) -> float:
        with torch.no_grad():
            features = network.encoders[subject.weak](subject.arrays[f"{split}/{subject.weak}"])
            return float(F.cross_entropy(of_weak(features).double(), subject.arrays[f"{split}/label"]))

    parameters = [p for part in (network, of_all, of_weak) for p in part.parameters()]
    seen = [(read("val"), read("train"), read("test")) for _ in train_on(subject, parameters, loss, subject.epochs)]
    return ReadOut(min(train for _, train, _ in seen), min(seen)[2])
