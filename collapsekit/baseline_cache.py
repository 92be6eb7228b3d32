"""Trained baselines on disk, named by the content they were made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from collapsekit.adapter.base import Adapter
from collapsekit.readout import Fold
from collapsekit.training import rows_of

LAYOUT = 1  # raise when the training recipe changes


def cache_folder() -> Path:
    """``$COLLAPSEKIT_CACHE``, else ``$XDG_CACHE_HOME/collapsekit``, else ``~/.cache/collapsekit``."""
    own = os.environ.get("COLLAPSEKIT_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "collapsekit"


def baseline_key(adapter: Adapter, modality: str, at: Fold, rates: Sequence[float], epochs: int, seed: int) -> str:
    """SHA-256 over the starting weights, what the encoder does with real inputs, the data and the recipe.

    The encoder's outputs stand in for its code: a changed forward gives other outputs, so another key.
    """
    digest = hashlib.sha256()
    recipe = [LAYOUT, torch.__version__, adapter.config.task, list(rates), epochs, seed, str(adapter.device)]
    digest.update(json.dumps(recipe).encode())
    digest.update(f"{at.train.digest} {at.held.digest} {len(at.fit)} {len(at.choose)}".encode())
    for value in adapter.model.state_dict().values():
        digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    with torch.no_grad():
        out = adapter.live(modality, *rows_of(at.train, torch.arange(min(8, len(at.train)))))
    digest.update(out.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_baseline(folder: Path | None, key: str) -> tuple[dict[str, Tensor], str] | None:
    """Weights and their description from the cache, or None; a damaged file counts as absent."""
    from safetensors import SafetensorError, safe_open

    path = folder / f"{key}.safetensors" if folder is not None else None
    if path is None or not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            state = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a mapping
            return state, file.metadata()["about"]
    except (SafetensorError, OSError, KeyError, TypeError):
        return None


def store_baseline(folder: Path | None, key: str, state: dict[str, Tensor], about: str) -> None:
    """Keep weights under ``key``; several processes may do so at once. A full or read-only disk is no error."""
    if folder is None:
        return
    from filelock import FileLock
    from safetensors.torch import save_file

    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(str(folder / f"{key}.lock"), timeout=60):
            temporary = folder / f".{key}.{os.getpid()}"
            save_file({k: v.contiguous() for k, v in state.items()}, temporary, metadata={"about": about})
            temporary.replace(folder / f"{key}.safetensors")
