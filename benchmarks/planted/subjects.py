"""Subjects: a world, a model trained on it in a known way, and which of its modalities it uses."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.planted.models import Model
from benchmarks.planted.worlds import World, make_world

KINDS = ("healthy", "ignores", "high_rank", "low_rank", "natural")


@dataclass(frozen=True)
class Subject:
    """How to make one subject; ``ignored`` modalities are shuffled among examples whenever the model trains."""

    name: str
    kind: str  # of KINDS
    world: Mapping[str, Any]  # arguments of make_world; or {"kind": a real data set, ...}, see real.py
    n: int
    fusion: str
    ignored: tuple[int, ...] = ()  # which informative modalities, by their place among them
    seed: int = 0
    model: Mapping[str, Any] = field(default_factory=dict)

    def make_world(self) -> World:
        return make_world(seed=self.seed, **self.world)

    def ignores(self, world: World) -> tuple[str, ...]:
        """Names of the modalities the model is trained to ignore."""
        able = [m for m, role in world.roles.items() if role != "noise"]
        return tuple(able[i % len(able)] for i in self.ignored)


@dataclass
class Made:
    """A trained subject: its model, data by split, and what the config says of it."""

    subject: Subject
    world: World
    model: nn.Module
    kwargs: dict[str, Any]
    data: dict[str, dict[str, Tensor]]


def make(subject: Subject) -> Made:
    """Draw the data and train the model as the subject's kind says."""
    world = subject.make_world()
    sizes = {"train": subject.n, "val": max(100, subject.n // 3), "test": max(150, subject.n // 2)}
    return train(
        subject, world, {s: world.sample(k, 1000 * subject.seed + i) for i, (s, k) in enumerate(sizes.items())}
    )


def train(subject: Subject, world: World, data: dict[str, dict[str, Tensor]]) -> Made:
    """The model of a subject on its data by split."""
    ignored = subject.ignores(world)
    kwargs: dict[str, Any] = {
        "dims": {m: data["train"][m].shape[1] for m in world.modalities},
        "outputs": world.outputs,
        "fusion": subject.fusion,
        **subject.model,
    }
    if subject.kind == "high_rank":
        kwargs["bypass"] = list(ignored)
    if subject.kind == "low_rank":
        kwargs["rank"] = 2
    torch.manual_seed(subject.seed)
    model = Model(**kwargs)
    _train(model, data, world, subject, ignored)
    return Made(subject, world, model.eval(), kwargs, data)


def loss_of(task: str, outputs: Tensor, label: Tensor) -> Tensor:
    """The task's training loss."""
    if task == "classification":
        return F.cross_entropy(outputs, label)
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits(outputs, label)
    return F.mse_loss(outputs.reshape(label.shape), label)


def _groups(model: Model, subject: Subject, world: World) -> list[dict[str, Any]]:
    """Parameters with their learning rates: in a natural collapse one encoder learns a hundred times slower."""
    rate = 3e-3
    slow = {f"encoders.{m}." for m in _weak(subject, world)}
    inside = {k for k, _ in model.named_parameters() if any(k.startswith(s) for s in slow)}
    named = dict(model.named_parameters())
    return [
        {"params": [p for k, p in named.items() if k not in inside], "lr": rate},
        {"params": [p for k, p in named.items() if k in inside], "lr": rate / 100},
    ]


def _weak(subject: Subject, world: World) -> tuple[str, ...]:
    able = [m for m, role in world.roles.items() if role != "noise"]
    return tuple(able[i] for i in range(1)) if subject.kind == "natural" else ()


def _train(
    model: Model, data: dict[str, dict[str, Tensor]], world: World, subject: Subject, ignored: Sequence[str]
) -> None:
    """Adam, early stopping on validation loss. Healthy models have a head on each encoder that is thrown away, so
    that no encoder is left behind; features that reach the fused layer unread come from an encoder trained alone."""
    helpers = nn.ModuleDict(
        {m: nn.Linear(model.encoders[m][2].out_features, world.outputs) for m in world.modalities}  # type: ignore[index]
    )
    helped = {"healthy": world.modalities, "low_rank": world.modalities, "high_rank": world.modalities}.get(
        subject.kind, ()
    )
    groups = [*_groups(model, subject, world), {"params": list(helpers.parameters()), "lr": 3e-3}]
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-2)
    train, val = data["train"], data["val"]
    steps = max(1, len(train["label"]) // 64)
    epochs = 30 if subject.kind == "natural" else 80
    best, state, since = float("inf"), model.state_dict(), 0
    for _ in range(epochs):
        model.train()
        order = torch.randperm(len(train["label"]))
        for rows in order.chunk(steps):
            x = {m: train[m][rows] for m in world.modalities}
            shown = {m: v[torch.randperm(len(rows))] if m in ignored else v for m, v in x.items()}
            loss = loss_of(world.task, model(**shown), train["label"][rows])
            for m in helped:
                loss = loss + 0.5 * loss_of(world.task, helpers[m](model.encoders[m](x[m])), train["label"][rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            g = torch.Generator().manual_seed(0)
            shown = {
                m: val[m][torch.randperm(len(val[m]), generator=g)] if m in ignored else val[m]
                for m in world.modalities
            }
            held = float(loss_of(world.task, model(**shown), val["label"]))
        if held < best - 1e-4:
            best, since = held, 0
            state = {k: v.detach().clone() for k, v in model.state_dict().items()}
        else:
            since += 1
            if since > 15:
                break
    model.load_state_dict(state)


def draw(count: int, seed: int) -> list[Subject]:
    """``count`` subjects drawn at random from all that can be combined."""
    pick = random.Random(seed)
    out: list[Subject] = []
    while len(out) < count:
        kind = KINDS[len(out) % len(KINDS)]
        world_kind = pick.choice(
            ["complementary", "redundant", "synergy", "mixed", "redundant+noise", "complementary+noise"]
        )
        least = {"mixed": 3, "redundant+noise": 3, "complementary+noise": 3}.get(world_kind, 2)
        modalities = max(least, pick.choice([2, 2, 3, 3, 4, 5]))
        fusion = pick.choice(["concat", "sum", "gated", "attention", "bilinear", "film", "late"])
        additive = fusion == "late"
        if additive and world_kind in ("synergy", "mixed"):
            fusion = "concat"
        if world_kind in ("synergy", "mixed") and modalities > 4:
            modalities = 4
        task = pick.choice(["classification", "classification", "multilabel", "regression"])
        if task == "regression" and world_kind in ("mixed",):
            task = "classification"
        joint = world_kind in ("synergy", "mixed")
        n = pick.choice([1000, 2000, 4000] if joint else [300, 600, 1200, 3000])
        distance = pick.choice([3.5, 4.5, 6.0] if joint else [2.2, 3.0, 4.0, 5.0])
        curved = not joint and kind != "natural" and distance >= 3.0 and n >= 600 and pick.random() < 0.4
        world: dict[str, Any] = {
            "kind": world_kind,
            "modalities": modalities,
            "task": task,
            "distances": (distance,),
            "dims": (pick.choice([8, 16, 40]),),
            "clusters": 2 if curved else 1,
            "skew": pick.choice([1.0, 1.0, 1.6]),
            "classes": pick.choice([2, 3, 5]),
        }
        if kind == "natural":
            if world_kind not in ("redundant", "redundant+noise"):
                world["kind"] = "redundant"
            world["distances"] = (5.0, 2.5) if pick.random() < 0.5 else (distance,)
        elif world_kind.startswith("redundant") and pick.random() < 0.25:
            world["distances"] = (4.5, 3.0)
        ignored = _ignored(kind, modalities - ("noise" in world_kind), pick)
        if kind == "high_rank" and modalities - len(ignored) < 2 and fusion in ("film", "bilinear"):
            fusion = "concat"
        if kind == "low_rank" and fusion == "late":
            fusion = "concat"
        seed_ = pick.randrange(10**6)
        out.append(Subject(f"{len(out):03d}", kind, world, n, fusion, ignored, seed_))
    return out


def _ignored(kind: str, informative: int, pick: random.Random) -> tuple[int, ...]:
    """Which modalities a subject of this kind ignores, of those that hold information."""
    if kind not in ("ignores", "high_rank"):
        return ()
    many = 1 if informative < 3 or pick.random() < 0.7 else 2
    return tuple(pick.sample(range(informative), many))
