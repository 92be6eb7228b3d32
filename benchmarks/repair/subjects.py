"""Models of real data with one weak modality, which is noisy in one of two ways.

*exchange*: it is another example's in a share of all examples, in every split. *uniform*: uniform noise is added to it in
the training split alone, where a level is a part of its range (Chaudhuri et al. 2025, Figures 7 and 8). It is drawn once,
so that repairs train on the same noisy examples; val, where epochs are chosen, and test are clean.

Each subject draws training examples, noise and weights of its own, also from one kind or level of noise to the next.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.repair.data_sets import DATA_SETS, DataSet
from collapsekit.adapters.build import preserve_rng_state, seed_everything
from collapsekit.data.base import SPLITS

KINDS = ("exchange", "uniform")


@dataclass(frozen=True)
class Subject:
    """Which data, how noisy the weak modality is, in which way, and the number of the draw."""

    data: str
    noise: float
    seed: int
    kind: str = "exchange"

    @property
    def data_set(self) -> DataSet:
        """What is trained on what."""
        return DATA_SETS[self.data]

    @property
    def stream(self) -> int:
        """The seed of all that is drawn, of this subject alone."""
        digest = hashlib.sha256(repr(sorted(asdict(self).items())).encode()).digest()
        return int.from_bytes(digest[:4], "little") >> 1


def build(data: str) -> nn.Module:
    """What the configs name as model.factory."""
    return DATA_SETS[data].build()


def arrays_of(subject: Subject) -> dict[str, Tensor]:
    """Arrays by SPLIT/NAME, with the training examples that are drawn and the weak modality as noisy as is said."""
    of = subject.data_set
    arrays, g = of.load(subject.data), torch.Generator().manual_seed(subject.stream)
    rows = torch.randperm(len(arrays["train/label"]), generator=g)[: of.drawn].sort().values
    arrays |= {k: v[rows] for k, v in arrays.items() if k.startswith("train/")}
    if subject.kind == "exchange":
        for split in SPLITS:
            key = f"{split}/{of.weak}"
            arrays[key] = _exchanged(arrays[key], subject.noise, g)
    else:
        key = f"train/{of.weak}"
        arrays[key] = add_uniform(arrays[key], subject.noise, g)
    return {k: v.contiguous() for k, v in arrays.items()}


def _exchanged(values: Tensor, share: float, g: torch.Generator) -> Tensor:
    swap = torch.rand(len(values), generator=g) < share
    other = torch.randperm(len(values), generator=g)
    return torch.where(swap.reshape(-1, *[1] * (values.ndim - 1)), values[other], values)


def add_uniform(values: Tensor, level: float, g: torch.Generator) -> Tensor:
    """Add uniform noise between -a and a to values (n, ...): a is ``level`` times the range, which is the largest minus the
    smallest value over examples of the entry where that is largest (as the probe ``noise`` has it)."""
    spread = (values.amax(0) - values.amin(0)).max()
    return values + level * spread * (2 * torch.rand(values.shape, generator=g) - 1)


def trained(subject: Subject, arrays: dict[str, Tensor]) -> nn.Module:
    """An ordinarily trained model."""
    of = subject.data_set
    x, y = {m: arrays[f"train/{m}"] for m in of.modalities}, arrays["train/label"]
    with preserve_rng_state():
        seed_everything(subject.stream)
        model = build(subject.data)
        optimizer = of.optimizer(model)
        for _ in range(of.epochs):
            for rows in torch.randperm(len(y)).split(64):
                if len(rows) < 2:
                    continue
                loss = F.cross_entropy(model(**{m: v[rows] for m, v in x.items()}), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.eval()


def config_of(subject: Subject, path: Path) -> dict[str, Any]:
    """The config of a subject whose data lie at ``path``."""
    return {
        "model": {"factory": "benchmarks.repair.subjects:build", "kwargs": {"data": subject.data}},
        "modalities": {m: {"encoder": f"encoders.{m}"} for m in subject.data_set.modalities},
        "fusion": "fusion",
        "head": "head",
        "data": {"path": str(path)},
    }
