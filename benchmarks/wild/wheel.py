"""A checkpoint from a public wheel, fetched by name and version: examples/public_checkpoint, its branches as lists.

The wheel's own network keeps each branch as a list of layers; the last layer of each is named as its encoder.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.wild.counting import counted_work
from benchmarks.wild.zoo import STRANGERS
from collapsekit import diagnose

EXAMPLE = Path(__file__).parents[2] / "examples" / "public_checkpoint"
NAME = "peptides, branches as lists"
WAIT = 600  # seconds for the download


@dataclass(frozen=True)
class Measured:
    """Plain passes over what was read, and CPU seconds of the diagnosis and of a plain pass over it."""

    passes: float
    ours: float
    plain: float


def fetch() -> tuple[Path, Path] | str:
    """Checkpoint and data, downloaded where they are not there; or why they cannot be had."""
    checkpoint, data = EXAMPLE / "IM2DeepUni.ckpt", EXAMPLE / "data.safetensors"
    if not (checkpoint.is_file() and data.is_file()):
        try:
            done = subprocess.run([sys.executable, "fetch.py"], cwd=EXAMPLE, capture_output=True, timeout=WAIT)
        except subprocess.TimeoutExpired:
            return f"its wheel did not come within {WAIT} s"
        if done.returncode:
            return "its wheel could not be downloaded"
    return checkpoint, data


def measure(files: tuple[Path, Path], examples: int) -> Measured:
    """Diagnose it by reliance and utilisation on so many examples of each split."""
    checkpoint, path = files
    model, _, config = STRANGERS[NAME].make(2)
    model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
    arrays = {name: values[:examples] for name, values in load_file(path).items()}
    splits = {
        s: {k.partition("/")[2]: v for k, v in arrays.items() if k.startswith(f"{s}/")}
        for s in ("train", "val", "test")
    }
    config["data"] = {**config["data"], "label": "ccs"}
    with counted_work(model) as once, torch.no_grad():
        began = time.process_time()
        for part in splits.values():
            for rows in torch.arange(len(part["ccs"])).split(64):
                model(**{k: v[rows] for k, v in part.items() if k != "ccs"})
        plain = time.process_time() - began
    with tempfile.TemporaryDirectory() as cache, counted_work(model) as work:
        began = time.process_time()
        probes = ["reliance", "utilisation"]
        diagnose(model=model, data=splits, config=config, probes=probes, profile="quick", cache=Path(cache))
        ours = time.process_time() - began
    return Measured(work.total / once.total, ours, plain)
