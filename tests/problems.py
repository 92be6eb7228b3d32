"""Small synthetic multimodal problems, shared by the tests of everything between the user and the probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit import diagnose
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.data.arrays import ArraySource
from collapsekit.report.diagnosis import Report

SIZES = {"train": 240, "val": 120, "test": 160}
CHEAP = {"reliance": {"draws": 6}}


class Late(nn.Module):
    """One linear encoder a modality, a mixture, a head; ``ignored`` modalities never reach the mixture."""

    def __init__(
        self, widths: Mapping[str, int], outputs: int = 3, ignored: Sequence[str] = (), width: int = 6, fused: int = 12
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({m: nn.Linear(d, width) for m, d in widths.items()})
        self.fusion = nn.Sequential(nn.Linear(width * len(widths), fused), nn.Tanh())
        self.head = nn.Linear(fused, outputs)
        self.ignored = tuple(ignored)

    def forward(self, **x: Tensor) -> Tensor:
        parts = [encoder(x[m]) * (m not in self.ignored) for m, encoder in self.encoders.items()]
        return self.head(self.fusion(torch.cat(parts, 1)))


@dataclass
class Problem:
    """A model, its data in a file, and the config that describes both."""

    model: nn.Module
    arrays: dict[str, Tensor]
    config: dict[str, Any]
    folder: Path

    def diagnose(self, **options: Any) -> Report:
        """The quick diagnosis of the live model, with few draws."""
        options.setdefault("profile", "quick")
        options.setdefault("options", CHEAP)
        options.setdefault("cache", self.folder / "cache")
        return diagnose(model=options.pop("model", self.model), config=options.pop("config", self.config), **options)

    def saved(self, arrays: Mapping[str, Tensor]) -> None:
        """Write other arrays in the place of these."""
        self.arrays = dict(arrays)
        save_file({k: v.clone().contiguous() for k, v in arrays.items()}, self.config["data"]["path"])


def make_arrays(
    modalities: Mapping[str, int],
    *,
    noise: Sequence[str] = (),
    task: str = "classification",
    outputs: int = 3,
    sizes: Mapping[str, int] = SIZES,
    spread: float = 1.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Arrays by SPLIT/NAME: a hidden state that decides the label, seen by every modality but the ``noise``."""
    g = torch.Generator().manual_seed(seed)
    classes = max(outputs, 2)
    maps = {m: torch.randn(classes, d, generator=g) * 1.5 for m, d in modalities.items()}
    out: dict[str, Tensor] = {}
    for split, n in sizes.items():
        if task in ("classification", "contrastive"):
            label = torch.randint(0, classes, (n,), generator=g)
            hidden = F.one_hot(label, classes).float()
        elif task == "multilabel":
            hidden = label = torch.randint(0, 2, (n, classes), generator=g).float()
        else:
            hidden = torch.randn(n, classes, generator=g)
            label = hidden[:, :outputs].clone() if outputs > 1 else hidden[:, 0].clone()
        if task == "contrastive":
            hidden = torch.randn(n, classes, generator=g)
        for m, d in modalities.items():
            seen = hidden if m not in noise else torch.zeros_like(hidden)
            out[f"{split}/{m}"] = seen @ maps[m] + spread * torch.randn(n, d, generator=g)
        out[f"{split}/label"] = label
    return out


def train(
    model: nn.Module, arrays: Mapping[str, Tensor], modalities: Sequence[str], task: str, steps: int = 120
) -> None:
    """A few full-batch steps; the random state is left alone."""
    x = {m: arrays[f"train/{m}"] for m in modalities}
    y = arrays["train/label"]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        out = model(**x)
        if task == "classification" and out.shape[1] == 1:
            loss = F.binary_cross_entropy_with_logits(out[:, 0], y.float())
        elif task == "classification":
            loss = F.cross_entropy(out, y)
        elif task == "multilabel":
            loss = F.binary_cross_entropy_with_logits(out, y)
        else:
            loss = F.mse_loss(out.reshape(y.shape), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@cache
def _trained(
    widths: tuple[tuple[str, int], ...],
    noise: tuple[str, ...],
    task: str,
    outputs: int,
    sizes: tuple[tuple[str, int], ...],
    spread: float,
    seed: int,
    *,
    ignored: tuple[str, ...],
    steps: int,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The data of a problem, and the weights of its model; trained once for all tests, which get copies."""
    modalities = dict(widths)
    arrays = make_arrays(
        modalities, noise=noise, task=task, outputs=outputs, sizes=dict(sizes), spread=spread, seed=seed
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Late(modalities, outputs, ignored)
        if steps:
            train(model, arrays, list(modalities), task, steps)
    return arrays, model.state_dict()


def make_problem(
    folder: Path,
    modalities: Mapping[str, int] | None = None,
    *,
    ignored: Sequence[str] = (),
    noise: Sequence[str] = (),
    task: str = "classification",
    outputs: int = 3,
    sizes: Mapping[str, int] = SIZES,
    steps: int = 120,
    spread: float = 1.0,
    seed: int = 0,
) -> Problem:
    """A trained ``Late`` model that ignores ``ignored`` modalities, on data in which ``noise`` ones say nothing."""
    widths = dict(modalities or {"image": 5, "audio": 4})
    kind = task if task in ("multilabel", "regression") else "classification"
    parts = (tuple(widths.items()), tuple(noise), kind, outputs, tuple(sizes.items()), spread, seed)
    arrays, weights = _trained(*parts, ignored=tuple(ignored), steps=steps)
    arrays = {k: v.clone() for k, v in arrays.items()}
    with torch.random.fork_rng():
        model = Late(widths, outputs, ignored)
    model.load_state_dict(weights)
    config = {
        "modalities": {m: {"encoder": f"encoders.{m}"} for m in widths},
        "fusion": "fusion",
        "head": "head",
        "task": task,
        "data": {"path": str(folder / "data.safetensors"), "label": "label"},
    }
    problem = Problem(model.eval(), arrays, config, folder)
    folder.mkdir(parents=True, exist_ok=True)
    problem.saved(arrays)
    return problem


def adapt(model: nn.Module, config: Mapping[str, Any], arrays: Mapping[str, Mapping[str, Tensor]]) -> ModuleAdapter:
    """The declarative adapter over arrays by split and name, without files."""
    checked = check_config(config, base=Path.cwd())
    return ModuleAdapter(checked, model=model, source=ArraySource(arrays, "memory"))


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state, to compare with later."""
    return {k: v.detach().clone() for k, v in model.state_dict().items()}
