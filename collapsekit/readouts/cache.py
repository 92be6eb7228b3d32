"""Trained baselines on disk, named by the content they were made from.

An entry is used only where all of it is as it was written, and is what it is asked for; else the baseline is trained anew,
as without a cache. The folder is the user's alone: what another user could have written would change reports unseen.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.adapters.build import preserve_rng_state, seed_everything
from collapsekit.errors import ConfigError
from collapsekit.io.files import reason, write_atomic
from collapsekit.readouts.fit import rows_of
from collapsekit.readouts.linear import FitSplit

LAYOUT = 3  # raise when the training recipe changes


def cache_folder() -> Path:
    """Find the cache's folder: ``$COLLAPSEKIT_CACHE``, else ``$XDG_CACHE_HOME/collapsekit``, else
    ``~/.cache/collapsekit``.
    """
    own = os.environ.get("COLLAPSEKIT_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "collapsekit"


def baseline_key(adapter: Adapter, modality: str, at: FitSplit, rates: Sequence[float], epochs: int, seed: int) -> str:
    """Compute the key of a trained baseline: a digest of starting weights, what the encoder does, the data and the
    recipe.

    The encoder's outputs and gradients for real inputs, in training and in evaluation, stand in for its code: a changed
    forward gives others, so another key.

    Args:
        adapter: the model, with the weights that training starts from.
        modality: whose encoder is trained.
        at: the examples it is trained on and judged by.
        rates: the learning rates to choose from.
        epochs: how many, at most.
        seed: of training.

    Returns:
        SHA-256, in hexadecimal digits.
    """
    digest = hashlib.sha256()
    recipe = [LAYOUT, torch.__version__, adapter.config.task, list(rates), epochs, seed, str(adapter.device)]
    digest.update(json.dumps(recipe).encode())
    digest.update(f"{at.train.digest} {at.held.digest} {len(at.fit)} {len(at.choose)} {at.width}".encode())
    begin = {k: v.detach().clone() for k, v in adapter.model.state_dict().items() if isinstance(v, Tensor)}
    digest.update(state_digest(begin).encode())
    parameters = [p for p in adapter.model.parameters() if p.requires_grad]
    rows = rows_of(at.train, torch.arange(min(8, len(at.train))), full=True)
    with preserve_rng_state():
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
    """Compute the SHA-256 over tensors, of any shape, in the order of the state, whatever their names."""
    digest = hashlib.sha256()
    for value in state.values():
        digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


def private_folder(folder: Path) -> tuple[Path | None, str | None]:
    """Check that the folder is the user's alone, or is not there yet: return it, else None, and why it is not used."""
    try:
        info = os.lstat(folder)
    except FileNotFoundError:
        return folder, None
    except (OSError, ValueError) as e:
        why: str | None = f"it cannot be read ({reason(e) if isinstance(e, OSError) else e})"
    else:
        why = _flaw(info)
    if why is None:
        return folder, None
    return None, (
        f"The cache of trained baselines at {folder} is not used, as {why}: baselines are trained without it. Remove it, or "
        "name another folder in COLLAPSEKIT_CACHE."
    )


def _flaw(info: os.stat_result) -> str | None:
    """Why a folder of this kind may hold what others wrote, or None."""
    if stat.S_ISLNK(info.st_mode):
        return "it is a symbolic link"
    if not stat.S_ISDIR(info.st_mode):
        return "it is not a folder"
    if hasattr(os, "geteuid"):  # Windows has neither such owners nor such rights
        if info.st_uid != os.geteuid():
            return f"it belongs to another user (uid {info.st_uid})"
        if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return "others may write to it (chmod 700 takes that right away)"
    return None


def load_baseline(
    folder: Path | None, key: str, expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Load a trained baseline from the cache, where all of it is as it was written and as it has to be.

    Args:
        folder: the cache; None: there is none.
        key: what it was stored under.
        expected: tensors with the names, shapes and types that its weights have to have.

    Returns:
        Its weights, all finite, and its learning rate, epochs and held-out loss; None where anything is off.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    if folder is None:
        return None
    size = sum(v.numel() * v.element_size() for v in expected.values())
    try:
        data = _read(folder, f"{key}.safetensors", size + 2**20 + 1024 * len(expected))
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        text, digest = header["__metadata__"]["about"], header["__metadata__"]["sha256"]
        state = load(data)
        about = json.loads(text)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None
    if digest != _entry_digest(key, state, text) or not _as_expected(state, expected) or not _plausible(about):
        return None
    return state, {**about, "loss": math.inf if about["loss"] is None else about["loss"]}


def _read(folder: Path, name: str, most: int) -> bytes:
    """A file of ours in a folder of ours, followed through no link. Raises OSError for any other."""
    handle, place = None, folder / name
    try:
        if os.open in os.supports_dir_fd:  # what is checked is what is read from
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            place = Path(name)
        if (why := _flaw(os.lstat(folder) if handle is None else os.fstat(handle))) is not None:
            raise OSError(why)
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(place, flags, dir_fd=handle), "rb") as file:  # noqa: PTH123 - of a descriptor
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode) or info.st_size > most:
                raise OSError("it is no entry")
            if hasattr(os, "geteuid") and info.st_uid != os.geteuid():
                raise OSError("it belongs to another user")
            return file.read(most + 1)
    finally:
        if handle is not None:
            os.close(handle)


def _entry_digest(key: str, state: Mapping[str, Tensor], about: str) -> str:
    """SHA-256 over an entry: what it is of, what is known of it, and every weight's name, type, shape and value."""
    names = [[k, str(v.dtype), list(v.shape)] for k, v in sorted(state.items())]
    digest = hashlib.sha256(json.dumps([LAYOUT, key, about, names], allow_nan=False).encode())
    for _, value in sorted(state.items()):
        digest.update(_bytes(value))
    return digest.hexdigest()


def _as_expected(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return state.keys() == expected.keys() and all(
        (v.shape, v.dtype) == (expected[k].shape, expected[k].dtype) and bool(torch.isfinite(v).all())
        for k, v in state.items()
    )


def _plausible(about: Any) -> bool:
    """Whether these are a learning rate, a number of epochs and a loss, of which null stands for infinity."""
    if not isinstance(about, dict) or about.keys() != {"rate", "epochs", "loss"}:
        return False
    rate, epochs, loss = about["rate"], about["epochs"], about["loss"]
    return (
        isinstance(rate, float)
        and 0 < rate < math.inf
        and type(epochs) is int
        and epochs >= 0
        and (loss is None or (isinstance(loss, float) and math.isfinite(loss)))
    )


def store_baseline(folder: Path | None, key: str, state: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Keep a trained baseline in the cache; several processes may do so at once.

    A full or read-only disk is no error, nor is a folder that is not the user's alone: nothing is kept there.

    Args:
        folder: the cache; None: nothing is kept.
        key: what it is stored under.
        state: its weights by name, of any shape.
        about: its learning rate, epochs and held-out loss.
    """
    if folder is None or private_folder(folder)[0] is None:
        return
    from filelock import FileLock
    from safetensors import SafetensorError
    from safetensors.torch import save

    ordered = {k: state[k].contiguous() for k in sorted(state)}
    kept = {**about, "loss": about["loss"] if math.isfinite(about["loss"]) else None}  # JSON has no infinity
    text = json.dumps(kept, allow_nan=False)
    metadata = {"about": text, "sha256": _entry_digest(key, ordered, text)}
    path = folder / f"{key}.safetensors"
    with contextlib.suppress(OSError, ConfigError, SafetensorError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(str(folder / f"{key}.lock"), timeout=60):
            if path.is_symlink():
                path.unlink()
            write_atomic(path, save(ordered, metadata=metadata))
