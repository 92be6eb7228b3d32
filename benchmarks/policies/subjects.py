"""The planted policies: a world, a network, what was done to training; each trained from a seed; the truth of each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.policies.models import KINDS, Policy, build
from benchmarks.policies.worlds import ACTION, STATE, TASK, TOP, WORLDS, WRIST, World

BATCH, STEPS, RATE = 128, 400, 3e-3
# What exchanging an input costs of what exchanging all costs: from here on it is used, up to here it is not.
LEAST, MOST = 0.1, 0.02
Batch = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """One policy."""

    world: str
    kind: str  # of network
    training: str  # "plain", "without KEY" (another example's), "black KEY" (nothing), "untrained"
    seed: int

    @property
    def name(self) -> str:
        """What it is called in records."""
        return f"{self.world}, {self.kind}, {self.training}, {self.seed}"


# Of each world, what is done to training.
TRAININGS = (
    ("reach", "plain"),
    ("reach", f"without {WRIST}"),
    ("leak", f"black {TOP}"),
    ("language", "plain"),
    ("reach", f"without {STATE}"),
    ("camera", "plain"),
    ("language", f"without {TASK}"),
    ("leak", "plain"),
    ("reach", f"black {TOP}"),
    ("reach", "untrained"),
)


def list_subjects(seeds: int) -> list[Subject]:
    """List the subjects, all kinds of one seed before the next seed; two backbones only where there are two cameras."""
    every = itertools.product(range(seeds), KINDS, TRAININGS)
    return [
        Subject(world, kind, training, seed)
        for seed, kind, (world, training) in every
        if "two" not in kind or WRIST in WORLDS[world].inputs
    ]


def train(subject: Subject, data: Batch) -> Policy:
    """Train a policy from its seed on all examples of train, in seconds."""
    torch.manual_seed(1000 + subject.seed)
    policy = build(subject.world, subject.kind)
    policy.mean.copy_(data[ACTION].flatten(0, 1).mean(0))
    policy.std.copy_(data[ACTION].flatten(0, 1).std(0))
    if subject.training == "untrained":
        return policy.eval()
    how, _, key = subject.training.partition(" ")
    optimizer = torch.optim.Adam(policy.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        batch = take(data, torch.randint(0, len(data[ACTION]), (BATCH,)))
        if how == "without":
            batch = exchange(batch, [key], torch.randperm(BATCH))
        elif how == "black":
            batch = {**batch, key: torch.zeros_like(batch[key])}
        optimizer.zero_grad()
        policy.loss(batch).backward()
        optimizer.step()
        schedule.step()
    return policy.eval()


def take(data: Batch, rows: Tensor) -> Batch:
    """Some examples."""
    return {k: v[rows] if isinstance(v, Tensor) else [v[i] for i in rows.tolist()] for k, v in data.items()}


def exchange(data: Batch, keys: list[str], order: Tensor) -> Batch:
    """Examples with some inputs of others."""
    return {**data, **take({k: data[k] for k in keys}, order)}


def measure_costs(policy: Policy, data: Batch, seed: int) -> dict[str, float]:
    """Measure what exchanging each input adds to the squared error, in parts of what exchanging all adds: a bare loop.

    Each error is the mean over four orders, and of policies that sample that of the mean of eight answers.
    """
    inputs = list(policy.world.inputs)

    def error(keys: list[str]) -> float:
        total = 0.0
        for turn in range(4):
            draw = torch.Generator().manual_seed(100 * seed + turn)
            changed = exchange(data, keys, torch.randperm(len(data[ACTION]), generator=draw))
            torch.manual_seed(turn)
            draws = 1 if policy.kind.startswith("act") else 8
            answer = torch.stack([policy(changed) for _ in range(draws)]).mean(0)
            total += float((answer - data[ACTION]).pow(2).mean()) / 4
        return total

    with torch.no_grad():
        plain, everything = error([]), error(inputs)
        scale = max(everything - plain, 1e-9)
        return {key: round((error([key]) - plain) / scale, 4) for key in inputs}


def truths(subject: Subject | Mapping[str, Any], costs: Mapping[str, float]) -> dict[str, str | None]:
    """Say what is right of each input: "used", "ignored", "nothing" to be had in it, "untrained"; None where it is neither.

    ``costs``: as ``measure_costs`` gives them. An input that says nothing of the actions is so by the world's making, where
    the policy also shows that it does not follow it.
    """
    about = vars(subject) if isinstance(subject, Subject) else dict(subject)
    world: World = WORLDS[about["world"]]
    out: dict[str, str | None] = {}
    for key in world.inputs:
        if about["training"] == "untrained":
            out[key] = "untrained"
        elif costs[key] <= MOST:
            out[key] = "ignored" if key in world.needed else "nothing"
        else:
            out[key] = "used" if costs[key] >= LEAST and key in world.needed else None
    return out
