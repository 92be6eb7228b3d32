"""The folder of results: the weights of models."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from benchmarks.natural.data import Data
from benchmarks.natural.models import Natural
from benchmarks.natural.settings import Setting
from benchmarks.natural.training import arguments


def weights(out: Path, setting: Setting, seed: int) -> Path:
    """Where a model's weights lie."""
    return out / "weights" / f"{setting.name}-{seed}.safetensors"


def trained(setting: Setting, data: Data, out: Path, seed: int) -> Natural:
    """A model that was trained before."""
    model = Natural(**arguments(setting, data))
    model.load_state_dict(load_file(weights(out, setting, seed)))
    return model.eval()
