"""How R3D is trained: at every rate of observation at once, the epoch chosen on the validation split."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from collapsekit.reproduce.anticipation.data import ActionSequences, Split, Targets
from collapsekit.reproduce.models.r3d import (
    R3D,
    Anticipated,
    DepthEncoder,
    ExchangedShare,
    R3DSize,
    SkeletonEncoder,
)
from collapsekit.stats.metrics import balanced_accuracy

RATES = (0.2, 0.3, 0.5)
BATCH = 256  # sequences that are asked at once


@dataclass(frozen=True)
class R3DTraining:
    """Chosen on the validation split, by the network without any exchange."""

    epochs: int = 40
    batch: int = 48
    rate: float = 2e-3
    decay: float = 0.05
    turn: float = 0.4  # radians, to either side, by which a training sequence's joints are turned about the vertical
    stretch: float = 0.1  # by which they are made larger or smaller
    shift: int = 1  # pixels, to any side, by which its depth images are moved
    duration: float = 0.2  # weight of the durations' loss


@dataclass(frozen=True)
class TrainedR3D:
    """A network with the weights of the epoch that did best on the validation split."""

    model: R3D
    epoch: int
    score: float  # of that epoch: balanced accuracy of the queries' actions, mean over rates and queries


def make_r3d(data: ActionSequences, size: R3DSize, share: ExchangedShare) -> R3D:
    """Build a network for sequences whose modalities are depth images or joints, its weights drawn by torch's seed.

    Args:
        data: Some of the sequences, for their shapes.
        size: How large it is, and what it answers.
        share: Which channels are exchanged.

    Returns:
        The network, on the CPU.
    """
    encoders: dict[str, torch.nn.Module] = {}
    for name, x in data.inputs.items():
        joints = x.shape[2] == 3
        make = SkeletonEncoder if joints else DepthEncoder
        encoders[name] = make(x.shape[3], size.width, size.dropout)
    return R3D(encoders, size, share)


def train_r3d(
    splits: Mapping[Split, ActionSequences], size: R3DSize, share: ExchangedShare, how: R3DTraining, seed: int
) -> TrainedR3D:
    """Train a network on the training split; a batch is observed at one rate, drawn for it.

    Args:
        splits: The training and validation sequences.
        size: How large the network is.
        share: Which channels are exchanged.
        how: The training.
        seed: Of weights, order, rates and what is done to training sequences.

    Returns:
        The network of the epoch that has the highest validation score; of equal ones the least loss.
    """
    data, val = splits["train"], splits["val"]
    targets = {rate: data.targets(rate, size.queries) for rate in RATES}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_r3d(data, size, share)
        optimizer = torch.optim.AdamW(model.parameters(), lr=how.rate, weight_decay=how.decay)
        steps = how.epochs * math.ceil(len(data) / how.batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, how.rate, total_steps=steps, pct_start=0.1)
        best, kept = (-1.0, 0.0), TrainedR3D(model, 0, 0.0)
        for epoch in range(1, how.epochs + 1):
            model.train()
            for rows in torch.randperm(len(data)).split(how.batch):
                rate = RATES[int(torch.randint(len(RATES), ()))]
                part = data.rows(rows)
                inputs = {name: varied(x, how) for name, x in part.observed(rate).items()}
                loss = r3d_loss(model.anticipate(inputs), rows_of(targets[rate], rows), size, how.duration)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
            score = validated(model, val)
            if score > best:
                best, kept = score, TrainedR3D(copy.deepcopy(model).eval(), epoch, score[0])
    return kept


def rows_of(targets: Targets, at: Tensor) -> Targets:
    """Take the targets of some sequences, by number (k,)."""
    return Targets(targets.segments[at], targets.actions[at], targets.durations[at], targets.future[at])


def r3d_loss(answers: Anticipated, targets: Targets, size: R3DSize, duration: float) -> Tensor:
    """Compute the loss of a batch: cross-entropy of segments and of actions, and the error of durations' logarithms.

    Args:
        answers: What the network says.
        targets: What it was to say.
        size: How many classes there are.
        duration: Weight of the durations' mean squared error, over queries that have an action.

    Returns:
        A scalar.
    """
    segments = F.cross_entropy(answers.segments.flatten(0, 1), targets.segments.flatten())
    actions = F.cross_entropy(answers.actions.flatten(0, 1), targets.actions.flatten(), label_smoothing=0.1)
    there = targets.actions != size.classes
    durations = (answers.durations - targets.durations)[there].square().mean()
    return segments + actions + duration * durations


def varied(x: Tensor, how: R3DTraining) -> Tensor:
    """Change training sequences (n, t, ...) as another camera might: joints are turned about the vertical and stretched,
    depth images are moved; each sequence as a whole."""
    n = len(x)
    if x.shape[2] == 3:
        angle = how.turn * (2 * torch.rand(n) - 1)
        turn = torch.zeros(n, 3, 3)
        turn[:, 0, 0] = turn[:, 2, 2] = angle.cos()
        turn[:, 0, 2], turn[:, 2, 0], turn[:, 1, 1] = angle.sin(), -angle.sin(), 1
        stretch = 1 + how.stretch * (2 * torch.rand(n, 1, 1, 1) - 1)
        return stretch * torch.einsum("nij,ntjk->ntik", turn, x)
    if not how.shift:
        return x
    side, reach = x.shape[-1], how.shift
    padded = F.pad(x, (reach,) * 4)
    down, right = (torch.randint(2 * reach + 1, (n, 1)) + torch.arange(side) for _ in range(2))
    return padded[
        torch.arange(n)[:, None, None, None],
        torch.arange(x.shape[1])[:, None, None],
        down[:, None, :, None],
        right[:, None, None],
    ]


def ask(model: R3D, data: ActionSequences, rate: float, inputs: Mapping[str, Tensor] | None = None) -> Anticipated:
    """Run a network on what is observed of sequences at a rate.

    Args:
        model: The network.
        data: The sequences.
        rate: The share of their time that is observed.
        inputs: What to give it instead of what was recorded, (n, t, ...) by modality.

    Returns:
        What it says of each.
    """
    model.eval()
    seen = data.observed(rate) if inputs is None else dict(inputs)
    with torch.inference_mode():
        parts = [
            model.anticipate({name: x[at : at + BATCH] for name, x in seen.items()})
            for at in range(0, len(data), BATCH)
        ]
    return Anticipated(*(torch.cat(part) for part in zip(*parts, strict=True)))


def validated(model: R3D, data: ActionSequences) -> tuple[float, float]:
    """Score a network on validation sequences: balanced accuracy of the queries' actions, mean over rates and queries,
    and the negative loss of these actions."""
    scores, losses = [], []
    for rate in RATES:
        answers, targets = ask(model, data, rate), data.targets(rate, model.size.queries)
        for query in range(model.size.queries):
            logits, truth = answers.actions[:, query], targets.actions[:, query]
            scores.append(balanced_accuracy(logits, truth))
            losses.append(float(F.cross_entropy(logits.double(), truth)))
    return math.fsum(scores) / len(scores), -math.fsum(losses)
