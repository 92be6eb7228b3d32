"""Snapshots of training: two a stage, written whole or not at all, checked before they are gone on from, and read without
executing anything."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from collapsekit.distributed.process_group import current
from collapsekit.errors import ConfigError, RefusedError
from collapsekit.io.files import reason, write_atomic
from collapsekit.io.transfer import named_to_cpu
from collapsekit.repairs.training.behaviour import Behaviour

# The latter: of write_atomic.
_OURS = re.compile(r"stage\d+b?\.safetensors|\.stage\d+b?\.safetensors\.[0-9a-f]+")
_BEHAVIOUR = "behaviour/"  # what the names of a model's answers begin with


class _DamagedError(Exception):
    """Why a snapshot cannot be gone on from."""


@dataclass(frozen=True)
class _Snapshot:
    """One file, as it was written."""

    path: Path
    number: int  # the how-manieth of its stage
    tensors: dict[str, Tensor]
    about: dict[str, Any]


class Snapshots:
    """The last two states of each stage in a folder: where it is now while it trains, what came of it once it is done.

    ``identity`` is what has to be the same for training to go on from them: the base, the data, the settings;
    ``behaviour`` what the model answers before any training. They are written in turn, so that the newest is whole while
    the next one is written. Where one is damaged, ``note`` is told so and the other is gone on from.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        behaviour: Behaviour | None = None,
        note: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.folder, self.identity = folder, json.dumps(identity, sort_keys=True, allow_nan=False)
        self.behaviour, self.note = behaviour, note
        self._newest: dict[int, tuple[Path, int]] = {}

    def paths(self, stage: int) -> tuple[Path, Path]:
        """Return the paths of the two of stage number ``stage``; the first one is written first."""
        return self.folder / f"stage{stage}.safetensors", self.folder / f"stage{stage}b.safetensors"

    def save(self, stage: int, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Replace the older one of a stage by the first process's.

        Args:
            stage: The number of the stage, from 0.
            tensors: Tensors of any shape, by name.
            about: What else is kept, as JSON can hold it.

        Raises:
            ConfigError: Where it cannot be written.
        """

        def write() -> None:
            newest, number = self._newest.get(stage) or self._numbered(stage)
            path = next(p for p in self.paths(stage) if p != newest)
            plain = {k: v.contiguous().clone() for k, v in named_to_cpu(dict(sorted(tensors.items()))).items()}
            metadata = {"about": json.dumps(about, allow_nan=False), "identity": self.identity}
            metadata |= {"stage": str(stage), "number": str(number + 1)}
            if self.behaviour is not None:
                plain |= {_BEHAVIOUR + k: v for k, v in self.behaviour.tensors.items()}
                metadata |= {"device": self.behaviour.device, "dtype": self.behaviour.dtype}
            write_atomic(path, save(plain, {**metadata, "sha256": _digest(plain, metadata)}))
            self._newest[stage] = path, number + 1

        current().on_main(write)

    def load(self, stage: int) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Load the newest of a stage that is whole, tensors of any shape by name; None where nothing was kept.

        Raises RefusedError where none is whole, ConfigError where they are of another repair, or of a model that
        answered otherwise.
        """
        return current().on_main(lambda: self._load(stage))

    def _load(self, stage: int) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        whole, damaged, others = list[_Snapshot](), dict[Path, str](), list[ConfigError]()
        for path in self.paths(stage):
            try:
                if os.path.lexists(path):
                    whole.append(self._read(path, stage))
            except _DamagedError as e:
                damaged[path] = str(e)
            except ConfigError as e:
                others.append(e)
        if not whole:
            if others:
                raise others[0]
            if damaged:
                said = " and ".join(
                    f"{path} is not a snapshot that can be read ({why})" for path, why in damaged.items()
                )
                raise RefusedError(f"{said}: there is nothing to go on from, so start anew with --force.")
            return None
        found = max(whole, key=lambda each: each.number)
        for path, why in damaged.items():
            self.note(
                f"{path} is damaged ({why}): going on from the other one that was kept, {found.path.name}; what was "
                "trained since is trained again."
            )
        self._newest[stage] = found.path, found.number
        return found.tensors, found.about

    def _read(self, path: Path, stage: int) -> _Snapshot:
        """A snapshot, whose content is what was written. Raises _DamagedError, or ConfigError where it is whole but not of
        this repair, or of a model that answered otherwise."""
        try:
            known, tensors = _opened(path)
            if "sha256" not in known and "about" in known:
                raise _DamagedError(
                    "an earlier version of collapsekit kept it, without a digest that would show damage"
                )
            if known["sha256"] != _digest(tensors, {k: v for k, v in known.items() if k != "sha256"}):
                raise _DamagedError("its content is not what was written")
            if known["stage"] != str(stage):
                raise _DamagedError(f"it is of stage {known['stage']}")
            about, identity, number = json.loads(known["about"]), known["identity"], int(known["number"])
        except OSError as e:
            raise _DamagedError(reason(e)) from None
        except (SafetensorError, KeyError, ValueError) as e:
            raise _DamagedError(str(e)) from None
        if identity != self.identity:
            raise ConfigError(
                f"{path} is of another repair ({_differing(identity, self.identity)} differ): repeat its command, or "
                "start anew with --force."
            )
        answers = {k: tensors.pop(k) for k in list(tensors) if k.startswith(_BEHAVIOUR)}
        if self.behaviour is not None:
            theirs = {k.removeprefix(_BEHAVIOUR): v for k, v in answers.items()}
            self._compare(path, Behaviour(known.get("device", ""), known.get("dtype", ""), theirs))
        return _Snapshot(path, number, tensors, about)

    def _compare(self, path: Path, theirs: Behaviour) -> None:
        """Whether the model answers as it did. Raises ConfigError."""
        ours = self.behaviour
        assert ours is not None
        odd = ours.differs(theirs)
        if odd is not None:
            raise ConfigError(
                f"{path} was made with a model whose {odd}: put the model's code back as it was, or start anew with --force."
            )
        if ours.device != theirs.device:
            self.note(
                f"{path.name} was made on {theirs.device}: going on on {ours.device} changes the weights by rounding."
            )

    def _numbered(self, stage: int) -> tuple[Path | None, int]:
        """The newest file of a stage by what its header says, and its number."""
        found: list[tuple[int, Path | None]] = [(0, None)]
        for path in self.paths(stage):
            try:
                _need_regular(path)
                with safe_open(str(path), framework="pt", device="cpu") as file:
                    found.append((int((file.metadata() or {})["number"]), path))
            except (SafetensorError, OSError, KeyError, ValueError):
                continue
        number, newest = max(found, key=lambda each: each[0])
        return newest, number

    def clear(self) -> None:
        """Remove every stage's files, what a killed write left beside them, and the folder where nothing else is in it."""
        self._newest.clear()
        if not current().is_main or not self.folder.is_dir():
            return
        for file in self.folder.iterdir():
            if _OURS.fullmatch(file.name) and not file.is_dir():
                file.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def _need_regular(path: Path) -> None:
    """Opening a pipe would wait for a writer for ever. Raises OSError."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("it is not a regular file")


def _opened(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    _need_regular(path)
    with safe_open(str(path), framework="pt", device="cpu") as file:
        return dict(file.metadata() or {}), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a mapping


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of all that a snapshot holds."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True, allow_nan=False).encode())
    for name, value in sorted(tensors.items()):
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)], allow_nan=False).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _differing(theirs: str, ours: str) -> str:
    try:
        a, b = json.loads(theirs), json.loads(ours)
        return ", ".join(sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k)))
    except (ValueError, AttributeError):
        return "settings"


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Copy the tensors of a module's state_dict, of any shape."""
    return {k: v.detach().clone() for k, v in module.state_dict().items() if isinstance(v, Tensor)}


def put_back(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy ``state`` (of ``state_of``, the same shapes) into the module, in place."""
    own = module.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copy the optimiser's tensors, of any shape, by "number of the parameter.name".

    What is None yet (SGD's momentum) is left out.
    """
    known = optimizer.state_dict()["state"]
    return {f"{i}.{k}": v.detach().clone() for i, held in known.items() for k, v in held.items() if v is not None}


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Put ``optimizer_state`` back, into an optimiser of parameters of the same shapes."""
    known: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        number, _, key = name.partition(".")
        known.setdefault(int(number), {})[key] = value.clone()
    optimizer.load_state_dict({"state": known, "param_groups": optimizer.state_dict()["param_groups"]})
