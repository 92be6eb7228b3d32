"""Untrained networks of many shapes on data that has something to say; trained ones whose labels were shuffled."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.planted.models import Model
from benchmarks.planted.subjects import Subject, draw, make

KINDS = ("untrained", "permuted", "fitted to permuted")
TASKS = ("as it is", "custom")
MIXTURES = tuple(i / 20 for i in range(21))  # of a model's own probabilities and the prior
GAINS = (1.0, 1.0, 2.0, 4.0)  # of the initial weights: default, and larger ones, as other initialisations have


@dataclass(frozen=True)
class Null:
    """One subject: a planted subject's data, and what was done to its model or labels."""

    name: str
    kind: str  # of KINDS
    subject: Subject
    task: str  # of TASKS
    gain: float
    norm: bool  # batch norm before the head
    seed: int


class Normed(nn.Module):
    """A model with batch norm on its outputs, as large an untrained answer as any."""

    def __init__(self, model: Model, outputs: int) -> None:
        super().__init__()
        self.encoders, self.fusion, self.head, self.inner = model.encoders, model.fusion, model.head, [model]
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, **x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.inner[0](**x))
        return out


def draw_nulls(kind: str, count: int, seed: int) -> list[Null]:
    """Draw subjects of a kind.

    Args:
        kind: Of KINDS.
        count: How many.
        seed: Of the draw.

    Returns:
        The subjects, named by number.
    """
    pick = random.Random(f"{kind} {seed}")
    planted = draw(count, seed + 5000)
    return [
        Null(
            f"{kind} {i:04d}",
            kind,
            subject,
            pick.choice(TASKS) if kind == "untrained" else "as it is",
            pick.choice(GAINS),
            pick.random() < 0.25 and kind == "untrained",
            pick.randrange(10**6),
        )
        for i, subject in enumerate(planted)
    ]


@dataclass(frozen=True)
class Built:
    """What a diagnosis takes."""

    model: nn.Module
    kwargs: dict[str, Any]
    data: dict[str, dict[str, Tensor]]
    modalities: tuple[str, ...]
    task: str


def build(null: Null) -> Built:
    """Make the subject's model and data."""
    subject = null.subject
    if null.kind == "untrained":
        world = subject.make_world()
        sizes = {"train": subject.n, "val": max(100, subject.n // 3), "test": max(150, subject.n // 2)}
        data = {s: world.sample(k, 1000 * subject.seed + i) for i, (s, k) in enumerate(sizes.items())}
        kwargs = {
            "dims": {m: data["train"][m].shape[1] for m in world.modalities},
            "outputs": world.outputs,
            "fusion": subject.fusion,
        }
        return Built(_untrained(null, kwargs, data), kwargs, data, tuple(world.modalities), _task(null, world.task))
    if null.kind == "fitted to permuted":
        made = make_permuted(subject, null.seed)
    else:
        made = make(subject)
        made.data = {s: _shuffled(part, null.seed + i) for i, (s, part) in enumerate(made.data.items())}
    return Built(made.model, made.kwargs, made.data, tuple(made.world.modalities), made.world.task)


def gain_at_most(built: Built) -> float:
    """Compute which share of the prior loss a model gains at most on the test split.

    Probabilities are drawn toward the prior as far as helps on the test split itself, which is more than a diagnosis does.

    Args:
        built: A subject.

    Returns:
        The share; of values as they are.
    """
    part = built.data["test"]
    y = part["label"]
    with torch.no_grad():
        answers = built.model(**{m: part[m] for m in built.modalities}).double()
    if not y.is_floating_point():
        prior = torch.bincount(y, minlength=answers.shape[1]).double() / len(y)
        return _best_gain(answers.softmax(1), prior, F.one_hot(y, answers.shape[1]).double())
    if bool(((y == 0) | (y == 1)).all()):
        sides = torch.stack([answers.sigmoid(), 1 - answers.sigmoid()], -1)
        prior = torch.stack([y.double().mean(0), 1 - y.double().mean(0)], -1)
        return _best_gain(sides, prior, torch.stack([y, 1 - y], -1).double())
    y = y.double().reshape(answers.shape)
    return float(1 - F.mse_loss(answers, y) / F.mse_loss(y.mean(0).expand_as(y), y))


def _best_gain(found: Tensor, prior: Tensor, truth: Tensor) -> float:
    """The best share of the prior loss over mixtures of probabilities (n, ..., C) and the prior (..., C)."""

    def loss(p: Tensor) -> Tensor:
        return -(p.clamp_min(1e-12).log() * truth).sum()

    return max(float(1 - loss(t * found + (1 - t) * prior) / loss(prior.expand_as(found))) for t in MIXTURES)


def make_permuted(subject: Subject, seed: int) -> Any:
    """Train a subject on labels that were shuffled in every split."""
    from benchmarks.planted.subjects import train

    world = subject.make_world()
    sizes = {"train": subject.n, "val": max(100, subject.n // 3), "test": max(150, subject.n // 2)}
    data = {s: world.sample(k, 1000 * subject.seed + i) for i, (s, k) in enumerate(sizes.items())}
    return train(subject, world, {s: _shuffled(part, seed + i) for i, (s, part) in enumerate(data.items())})


def _shuffled(part: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    order = torch.randperm(len(part["label"]), generator=torch.Generator().manual_seed(seed))
    return {**part, "label": part["label"][order]}


def _untrained(null: Null, kwargs: dict[str, Any], data: dict[str, dict[str, Tensor]]) -> nn.Module:
    torch.manual_seed(null.seed)
    model: nn.Module = Model(**kwargs)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(null.gain)
    if null.norm:
        model = Normed(model, kwargs["outputs"])  # type: ignore[arg-type]
        model.train()
        with torch.no_grad():  # statistics of the data, as one pass of training would leave them
            model.norm.momentum = None  # type: ignore[union-attr,assignment]
            model(**{m: data["train"][m] for m in kwargs["dims"]})
    return model.eval()


def _task(null: Null, task: str) -> str:
    return f"benchmarks.nulls.subjects:{_LOSSES[task].__name__}" if null.task == "custom" else task


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss as a user may write it, (n,)."""
    return F.cross_entropy(outputs, targets.long(), reduction="none")


def binary(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss as a user may write it, (n,)."""
    return F.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype), reduction="none").mean(1)


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss as a user may write it, (n,)."""
    return (outputs.reshape(len(outputs), -1) - targets.reshape(len(targets), -1)).square().mean(1)


_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "classification": cross_entropy,
    "multilabel": binary,
    "regression": squared,
}
