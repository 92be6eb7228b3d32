"""The only way past a refusal: one file, named by its SHA-256 on the command line, unpickled as its maker meant it.

This runs whatever the file says. It is never reached from a config, an environment variable or a plugin.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from collapsekit.checkpoint.formats.pickle_vm import VERSIONS
from collapsekit.checkpoint.formats.state_dict import Weights, find_weights
from collapsekit.checkpoint.hashing import read_whole
from collapsekit.errors import ConfigError, RefusedError
from collapsekit.user_code.frames import one_line
from collapsekit.user_code.imports import importable_from
from collapsekit.user_code.process_state import user_code

_FORM = re.compile(r"sha256:([0-9a-fA-F]{64})")


def digest_named(trust: str) -> str:
    """Return the 64 hex digits of "sha256:DIGEST". Raises ConfigError for another form."""
    found = _FORM.fullmatch(trust.strip())
    if found is None:
        raise ConfigError(
            f"--trust-pickle {trust[:80]!r} is not of the form sha256:DIGEST with 64 hex digits: "
            "`collapsekit inspect FILE` prints it."
        )
    return found[1].lower()


def load_trusted(path: Path, trust: str, form: str, folder: Path | None) -> tuple[dict[str, Tensor], Weights]:
    """Unpickle a file, or load it as TorchScript, and take its weights.

    The very bytes that were hashed are loaded.

    Args:
        path: the file.
        trust: the SHA-256 that the user named.
        form: its format, as it was told by content.
        folder: where classes are importable from, beside what is installed.

    Returns:
        Name -> tensor, of any shape, and what was taken of the file.

    Raises:
        RefusedError: where the bytes are not those of ``trust``, and where what they hold has no weights.
        ConfigError: where a class cannot be imported.
    """
    data = read_whole(path)
    found = hashlib.sha256(data).hexdigest()
    if found != digest_named(trust):
        raise RefusedError(
            f"{path} has sha256:{found}, --trust-pickle names another: nothing of it was executed; look at what it is "
            "with `collapsekit inspect` before you name this digest."
        )
    base = folder or Path.cwd()
    with user_code(f"unpickling {path}", stays=True), importable_from(base), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if form == "TorchScript":
                loaded: Any = torch.jit.load(io.BytesIO(data), map_location="cpu")
            else:
                loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)
        except (Exception, SystemExit) as e:  # from the file's own code
            raise ConfigError(
                f"{path} was trusted, and could not be unpickled ({one_line(e)}): its classes must be importable "
                "from the config's folder or be installed."
            ) from e
    weights = find_weights(_as_dicts(loaded), (Tensor,))
    if weights is None:
        raise RefusedError(f"{path} was unpickled and holds no weights (it is a {type(loaded).__name__}).")
    return {name: value.detach().cpu() for name, value in weights.entries.items()}, weights


def _as_dicts(loaded: Any) -> Any:
    """Modules as their state_dicts, at the top and one level down ({"model": module, "epoch": 3})."""
    if isinstance(loaded, nn.Module | Mapping):
        return {k: _as_dict(v) if isinstance(v, nn.Module | Mapping) else v for k, v in _as_dict(loaded).items()}
    return loaded


def _as_dict(value: nn.Module | Mapping[Any, Any]) -> dict[Any, Any]:
    """Entries, and what a state_dict tells of its modules."""
    state = value.state_dict() if isinstance(value, nn.Module) else value
    versions = getattr(state, "_metadata", None)
    return {**state, VERSIONS: versions} if isinstance(versions, dict) else dict(state)
