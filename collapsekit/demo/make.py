"""The embedded example, made as a user would have it: data, model, weights and config in a folder."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.adapters.build import preserve_rng_state, seed_everything
from collapsekit.context import Progress
from collapsekit.data.base import SPLITS
from collapsekit.demo.model import WIDTHS, build
from collapsekit.errors import RefusedError
from collapsekit.io.files import write_atomic

SHA256 = "cbf82ae60e5c9bbe69fd3d5dcc30ba18a7281e86c367e98dd20494a35c38671f"
EPOCHS = 40
CONFIG = """\
# What collapsekit needs to know of the model beside this file.
model:
  factory: model:build          # "module:callable" that returns the torch.nn.Module
  checkpoint: ckpt.pt           # used when the command line names none
modalities:                     # each: the submodule whose output is its features
  pix: {encoder: encoders.pix}  # pixel averages
  fou: {encoder: encoders.fou}  # Fourier coefficients
  zer: {encoder: encoders.zer}  # Zernike moments
  kar: {encoder: encoders.kar}  # Karhunen-Loève coefficients
fusion: fusion                  # the first learned mixture
head: head
call: kwargs                    # forward(pix=..., fou=..., zer=..., kar=...)
task: classification
data:
  path: data.safetensors        # keys SPLIT/NAME: train/pix, ..., test/label
  label: label
"""


def load_mfeat() -> dict[str, np.ndarray[Any, Any]]:
    """Load all six views (n, d), ``label`` and ``split`` (n,) of UCI Multiple Features.

    Raises:
        RefusedError: where their checksum is wrong.
    """
    raw = (files("collapsekit.demo") / "mfeat.npz").read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != SHA256:
        raise RefusedError(f"the embedded mfeat.npz has SHA-256 {found}, expected {SHA256}: install collapsekit again.")
    with np.load(BytesIO(raw), allow_pickle=False) as archive:
        return {k: archive[k] for k in archive.files}


def demo_data() -> dict[str, Tensor]:
    """Scale the model's four views, each column by the training split's mean and deviation.

    Returns:
        By SPLIT/NAME, views (n, d) and labels (n,).
    """
    raw = load_mfeat()
    train = raw["split"] == 0
    out: dict[str, Tensor] = {}
    for number, split in enumerate(SPLITS):
        rows = raw["split"] == number
        out[f"{split}/label"] = torch.from_numpy(raw["label"][rows].astype(np.int64))
        for view in WIDTHS:
            x = raw[view].astype(np.float64)
            mean, deviation = x[train].mean(0), x[train].std(0)
            scaled = (x[rows] - mean) / np.where(deviation > 0, deviation, 1.0)
            out[f"{split}/{view}"] = torch.from_numpy(scaled.astype(np.float32))
    return out


def make_demo(folder: Path, seed: int, progress: Progress) -> Path:
    """Write the example as a user would have it: data.safetensors, model.py, collapsekit.yaml and a trained ckpt.pt.

    Args:
        folder: where to.
        seed: of the training.
        progress: told of the epochs.

    Returns:
        The path of the checkpoint.
    """
    from safetensors.torch import save

    data = demo_data()
    model = train_demo(data, seed, progress)
    buffer = BytesIO()
    torch.save(model.state_dict(), buffer)
    write_atomic(folder / "data.safetensors", save(data))
    write_atomic(folder / "model.py", (files("collapsekit.demo") / "model.py").read_bytes())
    write_atomic(folder / "collapsekit.yaml", CONFIG)
    return write_atomic(folder / "ckpt.pt", buffer.getvalue())


def train_demo(data: dict[str, Tensor], seed: int, progress: Progress) -> nn.Module:
    """Train the example by plain SGD with momentum and weight decay: nothing here is told to ignore a view.

    Args:
        data: views (n, d) and labels (n,) by SPLIT/NAME.
        seed: of weights and batches.
        progress: told of the epochs.

    Returns:
        The model, in training mode.
    """
    x = {view: data[f"train/{view}"] for view in WIDTHS}
    y = data["train/label"]
    with preserve_rng_state():
        seed_everything(seed)
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-3)
        for epoch in range(EPOCHS):
            for rows in torch.randperm(len(y)).split(64):
                loss = F.cross_entropy(model(**{view: v[rows] for view, v in x.items()}), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            progress.step("training the example", epoch + 1, EPOCHS)
    return model
