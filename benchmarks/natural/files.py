"""The folder of results: one result a line, and the weights of models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from benchmarks.natural.data import Data
from benchmarks.natural.models import Natural
from benchmarks.natural.settings import Setting
from benchmarks.natural.training import arguments


def records(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of results; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def add(path: Path, record: dict[str, Any]) -> None:
    """Write one more line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def weights(out: Path, setting: Setting, seed: int) -> Path:
    """Where a model's weights lie."""
    return out / "weights" / f"{setting.name}-{seed}.safetensors"


def trained(setting: Setting, data: Data, out: Path, seed: int) -> Natural:
    """A model that was trained before."""
    model = Natural(**arguments(setting, data))
    model.load_state_dict(load_file(weights(out, setting, seed)))
    return model.eval()
