"""Models whose weights are known, and one probe run on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from collapsekit import registry
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.context import Settings
from collapsekit.data.arrays import ArraySource
from collapsekit.diagnosis import check_options
from collapsekit.errors import NumericsError
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.probes.runner import measure
from collapsekit.report.diagnosis import Result
from collapsekit.session.session import Session

torch.set_num_threads(1)
registry.load_builtins()

Key = tuple[str, str | None, str | None]


class Planted(nn.Module):
    """Encoders by modality, their features side by side into ``fusion``, then ``head``."""

    def __init__(self, encoders: Mapping[str, nn.Module], fusion: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.fusion = fusion
        self.head = head if head is not None else nn.Identity()

    def forward(self, **x: Tensor) -> Tensor:
        return self.head(self.fusion(torch.cat([e(x[m]) for m, e in self.encoders.items()], 1)))


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def plain(modalities: Sequence[str]) -> dict[str, nn.Module]:
    """Encoders that hand their input on."""
    return {m: nn.Identity() for m in modalities}


def linear(weight: Any, bias: Any = None) -> nn.Linear:
    """A Linear layer with these weights (outputs, inputs)."""
    w = torch.as_tensor(weight, dtype=torch.float32)
    layer = nn.Linear(w.shape[1], w.shape[0])
    with torch.no_grad():
        layer.weight.copy_(w)
        layer.bias.copy_(torch.zeros(w.shape[0]) if bias is None else torch.as_tensor(bias, dtype=torch.float32))
    return layer


@dataclass
class Study:
    """A model over data: what a probe is given."""

    adapter: ModuleAdapter
    features: Features

    def run(self, probe: str, *, profile: str = "quick", **options: Any) -> dict[Key, Result]:
        """The probe's results by name (without the probe's), modality and counterpart. Raises NumericsError."""
        found = self.results(probe, {probe: options}, profile=profile)
        return {(r.name.removeprefix(f"{probe}."), r.modality, r.versus): r for r in found}

    def results(
        self, probe: str, options: Mapping[str, Mapping[str, Any]], profile: str = "quick", seed: int = 0
    ) -> list[Result]:
        """The probe's results in order, under options of several probes."""
        checked = check_options(options)
        settings = Settings(profile=profile, others=checked, seed=seed)
        session = Session.of(self.adapter, self.features, settings)
        found = list(measure(registry.get_probe(probe), session))
        for r in found:
            assert r.definition
            assert r.source
            if r.interval is not None and r.name != "rank_sweep.critical_beta":
                assert r.interval[0] <= r.value + 1e-12
                assert r.value - 1e-12 <= r.interval[1]
            if r.curve is not None and r.curve.lower is not None:
                assert all(a <= y + 1e-12 for a, y in zip(r.curve.lower, r.curve.y, strict=True))
                assert all(y - 1e-12 <= b for y, b in zip(r.curve.y, r.curve.upper, strict=True))
        return found


def study(
    model: nn.Module,
    arrays: Mapping[str, Mapping[str, Any]],
    *,
    split: str = "test",
    task: str = "classification",
    factory: str | None = None,
    base: Path = Path(),
    **config: Any,
) -> Study:
    """The model over arrays by split and name; modalities are the model's own."""
    raw: dict[str, Any] = {
        "modalities": {m: f"encoders.{m}" for m in model.encoders},
        "fusion": "fusion",
        "task": task,
        "data": {"path": "unused.npz"},
        "model": {"factory": factory},
        **config,
    }
    tensors = {
        s: {k: torch.as_tensor(np.asarray(v)) if not isinstance(v, Tensor) else v for k, v in a.items()}
        for s, a in arrays.items()
    }
    source = ArraySource(tensors, "memory")
    adapter = ModuleAdapter(check_config(raw, base=base), model=model, source=source)
    return Study(adapter, extract(adapter, split))


def refusal(s: Study, probe: str, **options: Any) -> str:
    """Why the probe as a whole could not run."""
    try:
        s.run(probe, **options)
    except NumericsError as e:
        return str(e)
    raise AssertionError(f"{probe} ran")


def noise(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
