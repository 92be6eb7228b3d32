"""Trained baselines on disk, named by the content they were made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from collapsekit.adapter.base import Adapter
from collapsekit.adapter.build import random_state_kept, seed_everything
from collapsekit.errors import ConfigError
from collapsekit.files import is_file, write_atomic
from collapsekit.readout import Fold
from collapsekit.training import rows_of

LAYOUT = 2  # raise when the training recipe changes


def cache_folder() -> Path:
    """``$COLLAPSEKIT_CACHE``, else ``$XDG_CACHE_HOME/collapsekit``, else ``~/.cache/collapsekit``."""
    own = os.environ.get("COLLAPSEKIT_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "collapsekit"


def baseline_key(adapter: Adapter, modality: str, at: Fold, rates: Sequence[float], epochs: int, seed: int) -> str:
    """SHA-256 over the starting weights, what the encoder does with real inputs, the data and the recipe.

    The encoder's outputs and gradients, in training and in evaluation, stand in for its code: a changed forward
    gives others, so another key.
    """
    digest = hashlib.sha256()
    recipe = [LAYOUT, torch.__version__, adapter.config.task, list(rates), epochs, seed, str(adapter.device)]
    digest.update(json.dumps(recipe).encode())
    digest.update(f"{at.train.digest} {at.held.digest} {len(at.fit)} {len(at.choose)} {at.width}".encode())
    begin = {k: v.detach().clone() for k, v in adapter.model.state_dict().items() if isinstance(v, Tensor)}
    digest.update(state_digest(begin).encode())
    parameters = [p for p in adapter.model.parameters() if p.requires_grad]
    rows = rows_of(at.train, torch.arange(min(8, len(at.train))), full=True)
    with random_state_kept():
        for training in (False, True):
            seed_everything(seed)
            adapter.model.train(training)
            out = adapter.live(modality, *rows).float()
            # Squared, so that the gradient depends on the features too.
            grads = torch.autograd.grad(out.square().sum(), parameters, allow_unused=True) if out.requires_grad else ()
            for value in (out, *(g for g in grads if g is not None)):
                digest.update(_bytes(value))
    adapter.model.eval()
    own = adapter.model.state_dict()  # batch norms moved in training mode
    with torch.no_grad():
        for key, value in begin.items():
            own[key].copy_(value)
    return digest.hexdigest()


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over values in the order of the state, whatever their names."""
    digest = hashlib.sha256()
    for value in state.values():
        digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


def load_baseline(folder: Path | None, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Weights and what is known of them from the cache, or None; a damaged file counts as absent."""
    from safetensors import SafetensorError, safe_open

    path = folder / f"{key}.safetensors" if folder is not None else None
    if path is None or not is_file(path):
        return None
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            state = {k: file.get_tensor(k) for k in sorted(file.keys())}
            known = file.metadata()
            about = json.loads(known["about"])
        if known["sha256"] != state_digest(state) or not {"rate", "epochs", "loss"} <= about.keys():
            return None
        return state, {**about, "loss": math.inf if about["loss"] is None else about["loss"]}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return None


def store_baseline(folder: Path | None, key: str, state: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Keep weights under ``key``; several processes may do so at once. A full or read-only disk is no error."""
    if folder is None:
        return
    from filelock import FileLock
    from safetensors import SafetensorError
    from safetensors.torch import save

    ordered = {k: state[k].contiguous() for k in sorted(state)}
    kept = {**about, "loss": about["loss"] if math.isfinite(about["loss"]) else None}  # JSON has no infinity
    metadata = {"about": json.dumps(kept, allow_nan=False), "sha256": state_digest(ordered)}
    with contextlib.suppress(OSError, ConfigError, SafetensorError):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(str(folder / f"{key}.lock"), timeout=60):
            write_atomic(folder / f"{key}.safetensors", save(ordered, metadata=metadata))
