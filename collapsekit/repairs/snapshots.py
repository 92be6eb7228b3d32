"""Snapshots of training: written whole or not at all, and read without executing anything."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from collapsekit.errors import ConfigError, RefusedError
from collapsekit.files import is_file, write_atomic
from collapsekit.world import current

_OURS = re.compile(r"stage\d+\.safetensors|\.stage\d+\.safetensors\.[0-9a-f]+")  # the latter: of write_atomic


class Snapshots:
    """One file a stage in a folder: where it is now while it trains, what came of it once it is done.

    ``identity`` is what has to be the same for training to go on from them: the base, the data, the settings.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder, self.identity = folder, json.dumps(identity, sort_keys=True, allow_nan=False)

    def path(self, stage: int) -> Path:
        """Where stage number ``stage`` is kept."""
        return self.folder / f"stage{stage}.safetensors"

    def save(self, stage: int, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Replace what was kept of a stage by the first process's. Raises ConfigError where it cannot be written."""
        metadata = {"about": json.dumps(about, allow_nan=False), "identity": self.identity}

        def write() -> None:
            plain = {k: v.detach().cpu().contiguous().clone() for k, v in sorted(tensors.items())}
            write_atomic(self.path(stage), save(plain, metadata))

        current().once(write)

    def load(self, stage: int) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was kept of a stage; None where nothing was. Raises ConfigError where it is of another repair."""
        return current().once(lambda: self._load(stage))

    def _load(self, stage: int) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        path = self.path(stage)
        if not is_file(path):
            return None
        try:
            with safe_open(str(path), framework="pt", device="cpu") as file:
                known = file.metadata() or {}
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a mapping
            about, identity = json.loads(known["about"]), known["identity"]
        except (SafetensorError, OSError, KeyError, ValueError) as e:
            raise RefusedError(f"{path} is not a snapshot that can be read ({e}): remove it and start again.") from None
        if identity != self.identity:
            raise ConfigError(
                f"{path} is of another repair ({_differing(identity, self.identity)} differ): repeat its command, or "
                "start anew with --force."
            )
        return tensors, about

    def exist(self) -> bool:
        """Whether anything was kept here."""
        return is_file(self.path(0))

    def clear(self) -> None:
        """Remove every stage's file, what a killed write left beside them, and the folder where nothing else is in it."""
        if not current().first or not self.folder.is_dir():
            return
        for file in self.folder.iterdir():
            if _OURS.fullmatch(file.name):
                file.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def _differing(theirs: str, ours: str) -> str:
    try:
        a, b = json.loads(theirs), json.loads(ours)
        return ", ".join(sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k)))
    except (ValueError, AttributeError):
        return "settings"


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the tensors of a module's state_dict."""
    return {k: v.detach().clone() for k, v in module.state_dict().items() if isinstance(v, Tensor)}


def put_back(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy ``state`` (of ``state_of``) into the module, in place."""
    own = module.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors by "number of the parameter.name"; what is None yet (SGD's momentum) is left out."""
    known = optimizer.state_dict()["state"]
    return {f"{i}.{k}": v.detach().clone() for i, held in known.items() for k, v in held.items() if v is not None}


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Put ``optimizer_state`` back."""
    known: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        number, _, key = name.partition(".")
        known.setdefault(int(number), {})[key] = value.clone()
    optimizer.load_state_dict({"state": known, "param_groups": optimizer.state_dict()["param_groups"]})
