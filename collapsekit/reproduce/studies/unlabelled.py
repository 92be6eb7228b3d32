"""Networks that are joined without labels: trained, and repaired by S1's recipes on their own objective."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.adapters.build import seed_everything
from collapsekit.repairs.ingredients.alignment import contrast_modalities
from collapsekit.reproduce.methods import CONTROL, EBR, HEADS, KD, VANILLA
from collapsekit.reproduce.models.encoders import WIDTH, make_encoder
from collapsekit.reproduce.models.encoding import JointEncoding
from collapsekit.reproduce.studies.subjects import BATCH, DECAY, RATE, StudySubject
from collapsekit.stats.linalg.moments import Moments
from collapsekit.stats.linalg.spectrum import effective_rank, singular_values

Shapes = Mapping[str, Sequence[int]]
PROJECTED = 128  # width of what is compared in distillation
TEMPERATURE = 0.1  # of that
WEIGHT = 1.0  # of the alignment beside the objective


def inputs_of(subject: StudySubject, split: str) -> dict[str, Tensor]:
    """Give a subject's inputs of a split, (n, ...) by modality."""
    return {m: subject.arrays[f"{split}/{m}"] for m in subject.modalities}


def train_on(
    subject: StudySubject, parameters: Sequence[nn.Parameter], loss: Callable[[Tensor], Tensor], epochs: int
) -> Iterator[int]:
    """Train by AdamW on batches of the training split.

    Args:
        subject: Whose examples.
        parameters: What is trained.
        loss: Of the rows of a batch, (n,): a scalar.
        epochs: How many.

    Yields:
        The epoch that is done, from 0.
    """
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=DECAY)
    for epoch in range(epochs):
        for rows in torch.randperm(len(subject.arrays["train/label"])).split(BATCH):
            optimizer.zero_grad()
            loss(rows).backward()
            optimizer.step()
        yield epoch


def train_jointly(subject: StudySubject, network: JointEncoding, *, aligned: bool = False) -> JointEncoding:
    """Train a network on its own objective, in place.

    Args:
        subject: On whose examples, by whose seed, for whose epochs.
        network: Which.
        aligned: Whether the latent encodings of an example are brought together too, by contrast.

    Returns:
        The network, in eval mode.
    """
    seed_everything(subject.seed)
    x = inputs_of(subject, "train")

    def loss(rows: Tensor) -> Tensor:
        batch = {m: v[rows] for m, v in x.items()}
        features, latents = network.encode(batch)
        lost = network.objective(batch, features)
        return lost + WEIGHT * contrast_modalities(latents, None) if aligned else lost

    network.train()
    for _ in train_on(subject, list(network.parameters()), loss, subject.epochs):
        pass
    return network.eval()


def distil(subject: StudySubject, network: JointEncoding, teacher: str) -> None:
    """Train the weak modality's encoder to tell examples apart as a teacher's does, in place.

    The contrast is between projections of the features of both, among the examples of a batch (Tian et al. 2020, without
    its memory): the teacher's encoder stays as it is.

    Args:
        subject: With the weak modality, the seed and the epochs.
        network: Whose encoders they are.
        teacher: The modality that teaches.
    """
    seed_everything(subject.seed)
    student, x = subject.weak, inputs_of(subject, "train")
    maps = nn.ModuleList([nn.Linear(WIDTH, PROJECTED), nn.Linear(WIDTH, PROJECTED)])
    with torch.no_grad():
        aim = network.encoders[teacher](x[teacher])

    def loss(rows: Tensor) -> Tensor:
        pair = [maps[0](network.encoders[student](x[student][rows])), maps[1](aim[rows])]
        a, b = (F.normalize(p, dim=1) for p in pair)
        near, own = a @ b.T / TEMPERATURE, torch.arange(len(rows))
        return (F.cross_entropy(near, own) + F.cross_entropy(near.T, own)) / 2

    parameters = [*network.encoders[student].parameters(), *maps.parameters()]
    for _ in train_on(subject, parameters, loss, subject.epochs):
        pass


def joined_rows(
    subject: StudySubject, make: Callable[[Shapes], JointEncoding], teachers: Sequence[str]
) -> Iterator[tuple[str, JointEncoding]]:
    """Train a network, and repair it.

    Args:
        subject: On what.
        make: Makes one with fresh weights, by the shapes of the modalities.
        teachers: Modalities that teach the weak one, in the order of their turns.

    Yields:
        The row and the network: as it was trained; trained once more as long; with heads; its weak encoder distilled and all
        but the encoders new; with heads and their latent encodings aligned.
    """

    def fresh() -> JointEncoding:
        seed_everything(subject.seed)
        return make(subject.kwargs["shapes"])

    vanilla = train_jointly(subject, fresh())
    yield VANILLA, vanilla
    yield CONTROL, train_jointly(subject, copy.deepcopy(vanilla))
    for row in (HEADS, EBR):
        network = copy.deepcopy(vanilla)
        seed_everything(subject.seed)
        network.add_heads()
        yield row, train_jointly(subject, network, aligned=row == EBR)
    network = fresh()
    network.encoders.load_state_dict(vanilla.encoders.state_dict())
    for teacher in teachers:
        distil(subject, network, teacher)
    yield KD, train_jointly(subject, network)


def train_alone(subject: StudySubject) -> nn.Module:
    """Train the weak modality's encoder alone, with a linear head on the labels.

    Args:
        subject: On what.

    Returns:
        The encoder, in eval mode.
    """
    seed_everything(subject.seed)
    x, y = subject.arrays[f"train/{subject.weak}"], subject.arrays["train/label"]
    encoder, head = make_encoder(x.shape[1:]), nn.Linear(WIDTH, subject.kwargs["outputs"])

    def loss(rows: Tensor) -> Tensor:
        return F.cross_entropy(head(encoder(x[rows])), y[rows])

    for _ in train_on(subject, [*encoder.parameters(), *head.parameters()], loss, subject.epochs):
        pass
    return encoder.eval()


def rank_of(values: Tensor) -> float:
    """Compute the effective rank of a representation (n, d)."""
    return effective_rank(singular_values(Moments.of(values)))


def rank_at(network: JointEncoding, subject: StudySubject, strength: float) -> float:
    """Compute the effective rank of the joint representation of test examples.

    Args:
        network: Which.
        subject: Whose test split.
        strength: By which the weak modality is multiplied before it is joined.

    Returns:
        The rank.
    """
    with torch.no_grad():
        features, _ = network.encode(inputs_of(subject, "test"))
        return rank_of(network.represent(features, {subject.weak: strength}))
