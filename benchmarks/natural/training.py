"""One loop that trains a model, with what recipes add to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.natural.data import Data, Split
from benchmarks.natural.models import Natural
from benchmarks.natural.settings import Setting

BATCH = 64


@dataclass(frozen=True)
class Fit:
    """How to train. ``drop``: how often a modality's features are set to zero for an example; ``helped``: the weight of a
    loss of each encoder's own head, which is thrown away; ``start``: weights of encoders to begin with."""

    rate: float = 1e-3
    rates: Mapping[str, float] = field(default_factory=dict)
    weight_decay: float = 0.0
    epochs: int = 40
    patience: int | None = 6
    noise: float = 0.0
    drop: float = 0.0
    helped: float = 0.0
    start: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


def fit_of(setting: Setting) -> Fit:
    """The setting's own way."""
    return Fit(setting.rate, setting.rates, setting.weight_decay, setting.epochs, setting.patience, setting.noise)


def arguments(setting: Setting, data: Data) -> dict[str, Any]:
    """Arguments of the setting's model on these modalities."""
    train = data.splits["train"]
    return {
        "shapes": {m: tuple(train[m].shape[1:]) for m in data.modalities},
        "outputs": data.outputs,
        "fusion": setting.fusion,
        "width": setting.width,
        "hidden": setting.hidden,
        "dropout": setting.dropout,
    }


def loss_of(task: str, outputs: Tensor, label: Tensor) -> Tensor:
    """The mean loss that is trained on."""
    return F.cross_entropy(outputs, label) if task == "classification" else F.mse_loss(outputs, label)


def fit(setting: Setting, data: Data, how: Fit, seed: int) -> tuple[Natural, int]:
    """Train one model; the same seed gives the same model. Returns it, and the epochs it took."""
    torch.manual_seed(seed)
    model = Natural(**arguments(setting, data))
    for m, state in how.start.items():
        model.encoders[m].load_state_dict(dict(state))
    heads = nn.ModuleDict({m: nn.Linear(setting.width, data.outputs) for m in data.modalities})
    optimizer = torch.optim.AdamW(_groups(model, heads, how), weight_decay=how.weight_decay)
    spread = {m: data.splits["train"][m].std() for m in data.modalities}
    best, state, since, spent = float("inf"), model.state_dict(), 0, 0
    while spent < how.epochs:
        spent += 1
        _epoch(model, heads, optimizer, data, how, spread)
        held = _held(model, data.task, data.splits["val"])
        since += 1
        if held < best or how.patience is None:
            best, since = held, 0
            state = {k: v.detach().clone() for k, v in model.state_dict().items()}
        if how.patience is not None and since >= how.patience:
            break
    model.load_state_dict(state)
    return model.eval(), spent


def _groups(model: Natural, heads: nn.Module, how: Fit) -> list[dict[str, Any]]:
    groups = [{"params": module.parameters(), "lr": how.rates.get(m, how.rate)} for m, module in model.encoders.items()]
    rest = [*model.fusion.parameters(), *model.head.parameters(), *heads.parameters()]
    return [*groups, {"params": rest, "lr": how.rate}]


def _epoch(
    model: Natural, heads: nn.ModuleDict, optimizer: torch.optim.Optimizer, data: Data, how: Fit, spread: Split
) -> None:
    train = data.splits["train"]
    model.train()
    for rows in torch.randperm(len(train["label"])).split(BATCH):
        x = {m: train[m][rows] for m in data.modalities}
        if how.noise:
            x = {m: v + how.noise * spread[m] * torch.randn_like(v) for m, v in x.items()}
        label, features = train["label"][rows], model.encode(x)
        helped = [loss_of(data.task, heads[m](v), label) for m, v in features.items()] if how.helped else []
        loss = loss_of(data.task, model.answer(_dropped(features, how.drop)), label) + how.helped * sum(helped)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _dropped(features: Split, share: float) -> Split:
    """Features with some set to zero, never all of an example's."""
    if not share or len(features) == 1:
        return features
    count = len(next(iter(features.values())))
    kept = torch.rand(count, len(features)) >= share
    kept[torch.arange(count), torch.randint(len(features), (count,))] = True
    return {m: v * kept[:, i, None] for i, (m, v) in enumerate(features.items())}


def _held(model: Natural, task: str, val: Split) -> float:
    model.eval()
    with torch.no_grad():
        return float(loss_of(task, model(**{m: val[m] for m in model.encoders}), val["label"]))
