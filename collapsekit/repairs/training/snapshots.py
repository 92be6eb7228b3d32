"""Snapshots of training: two a stage, written whole or not at all, checked before they are gone on from, and read without
executing anything."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from collapsekit.io.shards import (
    INDEX,
    Rows,
    digest_of,
    need_regular,
    open_shards,
    read_index,
    shard_name,
    write_index,
    write_shard,
)
from collapsekit.io.transfer import named_to_cpu
from collapsekit.repairs.training.behaviour import Behaviour

_NAME = r"stage\d+b?(\.safetensors|\.index\.json|-\d{5}-of-\d{5}\.safetensors)"
_SEEN = "seen"  # a file that is there for a moment
_OURS = re.compile(rf"\.?({_NAME}|{_SEEN})(\.[0-9a-f]+)?")  # the latter: of write_atomic
_BEHAVIOUR = "behaviour/"  # what the names of a model's answers begin with

RowsOf = Callable[[str, tuple[int, ...]], tuple[int, int] | None]


class _DamagedError(Exception):
    """Why a snapshot cannot be gone on from."""


@dataclass(frozen=True)
class _Snapshot:
    """One file, or an index and its shards, as it was written."""

    path: Path
    number: int  # the how-manieth of its stage
    tensors: dict[str, Tensor]  # of shards none until they are asked for
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
        self._newest: dict[int, tuple[Path, int]] = {}  # as ``paths`` has it, also where it is in shards
        self._seen: bool | None = None

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
            path, metadata = self._next(stage, about)
            plain = {k: v.contiguous().clone() for k, v in named_to_cpu(dict(sorted(tensors.items()))).items()}
            plain |= self._answers()
            write_atomic(path, save(plain, {**metadata, "sha256": digest_of(sorted(plain.items()), metadata)}))
            remove_sharded(path)
            self._newest[stage] = path, int(metadata["number"])

        current().on_main(write)

    def save_shares(self, stage: int, shares: Mapping[str, Rows], about: Mapping[str, Any]) -> None:
        """Replace the older one of a stage by shards, of which each process writes what it holds.

        Only where ``seen_by_all``. The index comes last: until then the older one is gone, and the newer one whole.

        Args:
            stage: The number of the stage, from 0.
            shares: The rows that this process holds of each tensor; of what is whole, on the first process alone.
            about: What else is kept, as JSON can hold it.

        Raises:
            ConfigError: Where one of them cannot write.
        """
        world = current()

        def begin() -> tuple[str, dict[str, str]]:
            path, metadata = self._next(stage, about)
            place_index(path).unlink(missing_ok=True)
            return path.stem, metadata

        stem, metadata = world.on_main(begin)
        path = self.folder / shard_name(stem, world.rank, world.size)
        answers = {k: Rows(v, 0, tuple(v.shape)) for k, v in self._answers().items()} if world.is_main else {}
        written = world.each(lambda: write_shard(path, {**shares, **answers}, metadata), "a share of a snapshot")

        def end() -> None:
            place = self.folder / f"{stem}.safetensors"
            write_index(place_index(place), written, metadata)
            place.unlink(missing_ok=True)
            remove_sharded(place, but=[shard.file for shard, _ in written])
            self._newest[stage] = place, int(metadata["number"])

        world.on_main(end)

    def seen_by_all(self) -> bool:
        """Tell whether all processes write to one folder; where not, which is noted, the first one gathers and writes."""
        if self._seen is None:
            self._seen = _is_shared(self.folder)
            if not self._seen and current().is_main:
                self.note(
                    f"{self.folder} is not one folder for all processes: the first one gathers what is snapshotted, and "
                    "writes it."
                )
        return self._seen

    def _next(self, stage: int, about: Mapping[str, Any]) -> tuple[Path, dict[str, str]]:
        """Where the next one of a stage goes, and what is said of it."""
        newest, number = self._newest.get(stage) or _numbered(self._all_paths(stage))
        metadata = {"about": json.dumps(about, allow_nan=False), "identity": self.identity}
        metadata |= {"stage": str(stage), "number": str(number + 1)}
        if self.behaviour is not None:
            metadata |= {"device": self.behaviour.device, "dtype": self.behaviour.dtype}
        return next(p for p in self.paths(stage) if p != newest), metadata

    def _answers(self) -> dict[str, Tensor]:
        return {} if self.behaviour is None else {_BEHAVIOUR + k: v for k, v in self.behaviour.tensors.items()}

    def load(self, stage: int) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Load the newest of a stage that is whole, tensors of any shape by name; None where nothing was kept.

        Raises RefusedError where none is whole, ConfigError where they are of another repair, or of a model that
        answered otherwise.
        """

        def load_newest() -> tuple[dict[str, Tensor], dict[str, Any]] | None:
            newest = self._chosen(stage)
            if newest is None:
                return None
            sharded = newest.path.name.endswith(INDEX)
            return _from_shards(newest.path) if sharded else newest.tensors, newest.about

        return current().on_main(load_newest)

    def load_shares(self, stage: int, rows: RowsOf) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Load the newest of a stage as ``load`` does, of each tensor the rows that this process is to hold.

        Args:
            stage: The number of the stage, from 0.
            rows: Says of a tensor's name and shape from which row to before which it is held here; None: all.

        Returns:
            Tensors by name, and what else was kept; None where nothing was.

        Raises:
            RefusedError, ConfigError: As ``load``.
        """
        world = current()

        def choose() -> tuple[str, dict[str, Any]] | None:
            newest = self._chosen(stage)
            return None if newest is None else (newest.path.name, newest.about)

        if not self.seen_by_all():
            whole = self.load(stage)
            if whole is None:
                return None
            wanted = {k: rows(k, tuple(v.shape)) for k, v in whole[0].items()}
            return {k: v if (part := wanted[k]) is None else v[slice(*part)] for k, v in whole[0].items()}, whole[1]
        found, tensors = world.on_main(choose), dict[str, Tensor]()
        if found is None:
            return None
        path = self.folder / found[0]

        def read() -> None:
            tensors.update(_from_shards(path, rows) if path.name.endswith(INDEX) else _from_file(path, rows))

        world.each(read, "a share of a snapshot")
        return tensors, found[1]

    def _chosen(self, stage: int) -> _Snapshot | None:
        whole, damaged, others = list[_Snapshot](), dict[Path, str](), list[ConfigError]()
        for path in self._all_paths(stage):
            try:
                if os.path.lexists(path):
                    whole.append(_read(self, path, stage))
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
        self._newest[stage] = place_file(found.path), found.number
        return found

    def _all_paths(self, stage: int) -> list[Path]:
        """Where one of a stage may lie: a file each, or an index of shards."""
        return [path for file in self.paths(stage) for path in (file, place_index(file))]

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


def _read(kept: Snapshots, path: Path, stage: int) -> _Snapshot:
    """A snapshot, whose content is what was written. Raises _DamagedError, or ConfigError where it is whole but not of
    this repair, or of a model that answered otherwise."""
    try:
        known, tensors = _checked(path) if path.name.endswith(INDEX) else _opened(path)
        if "sha256" not in known and "about" in known:
            raise _DamagedError("an earlier version of collapsekit kept it, without a digest that would show damage")
        said = {k: v for k, v in known.items() if k != "sha256"}
        if not path.name.endswith(INDEX) and known["sha256"] != digest_of(sorted(tensors.items()), said):
            raise _DamagedError("its content is not what was written")
        if known["stage"] != str(stage):
            raise _DamagedError(f"it is of stage {known['stage']}")
        about, identity, number = json.loads(known["about"]), known["identity"], int(known["number"])
    except OSError as e:
        raise _DamagedError(reason(e)) from None
    except (SafetensorError, KeyError, ValueError) as e:
        raise _DamagedError(str(e)) from None
    if identity != kept.identity:
        raise ConfigError(
            f"{path} is of another repair ({_differing(identity, kept.identity)} differ): repeat its command, or "
            "start anew with --force."
        )
    answers = {k: tensors.pop(k) for k in list(tensors) if k.startswith(_BEHAVIOUR)}
    if kept.behaviour is not None:
        theirs = {k.removeprefix(_BEHAVIOUR): v for k, v in answers.items()}
        _compare(kept, path, Behaviour(known.get("device", ""), known.get("dtype", ""), theirs))
    return _Snapshot(path, number, tensors, about)


def _compare(kept: Snapshots, path: Path, theirs: Behaviour) -> None:
    """Whether the model answers as it did. Raises ConfigError."""
    ours = kept.behaviour
    assert ours is not None
    odd = ours.differs(theirs)
    if odd is not None:
        raise ConfigError(
            f"{path} was made with a model whose {odd}: put the model's code back as it was, or start anew with --force."
        )
    if ours.device != theirs.device:
        kept.note(
            f"{path.name} was made on {theirs.device}: going on on {ours.device} changes the weights by rounding."
        )


def place_index(file: Path) -> Path:
    """Say where the index is of what would be in ``file``, were it in shards."""
    return file.with_name(file.stem + INDEX)


def place_file(path: Path) -> Path:
    """Say of an index which file's place it takes; of a file, itself."""
    return path.with_name(path.name.removesuffix(INDEX) + ".safetensors") if path.name.endswith(INDEX) else path


def remove_sharded(file: Path, but: Sequence[str] = ()) -> None:
    """Remove the shards of what would be in ``file``, and, where none of them is to stay, their index."""
    if not but:
        place_index(file).unlink(missing_ok=True)
    for shard in file.parent.glob(f"{file.stem}-*-of-*.safetensors"):
        if shard.name not in but and _OURS.fullmatch(shard.name):
            shard.unlink()


def _is_shared(folder: Path) -> bool:
    """Whether all processes find in a folder what the first one writes."""
    world, place = current(), folder / _SEEN
    said = world.on_main(lambda: write_atomic(place, os.urandom(16).hex()).read_text())
    found = all(world.each(lambda: _says(place, said), "a file that all see"))
    world.on_main(lambda: place.unlink(missing_ok=True))
    return found


def _says(place: Path, text: str) -> bool:
    try:
        return place.read_text() == text
    except OSError:
        return False


def _opened(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    need_regular(path)
    with safe_open(str(path), framework="pt", device="cpu") as file:
        return dict(file.metadata() or {}), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a mapping


def _checked(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What is said of shards that are what was written, and of their tensors the model's answers alone."""
    with open_shards(path) as shards:
        shards.need_written()
        names = [name for name in shards.index.tensors if name.startswith(_BEHAVIOUR)]
        return {**shards.index.metadata, "sha256": ""}, {name: shards.rows(name) for name in names}


def _from_shards(path: Path, rows: RowsOf = lambda _name, _shape: None) -> dict[str, Tensor]:
    """Tensors of an index, or of each the rows that are asked for."""
    with open_shards(path) as shards:
        kept = {k: place for k, place in shards.index.tensors.items() if not k.startswith(_BEHAVIOUR)}
        return {k: shards.rows(k, rows(k, tuple(place.shape))) for k, place in kept.items()}


def _from_file(path: Path, rows: RowsOf) -> dict[str, Tensor]:
    """Of each tensor of a file the rows that are asked for."""
    with safe_open(str(path), framework="pt", device="cpu") as file:
        names = [k for k in file.keys() if not k.startswith(_BEHAVIOUR)]  # noqa: SIM118 - not a mapping
        wanted = {k: rows(k, tuple(file.get_slice(k).get_shape())) for k in names}
        return {k: file.get_tensor(k) if part is None else _some(file.get_slice(k), part) for k, part in wanted.items()}


def _some(rows: Any, part: tuple[int, int]) -> Tensor:
    """Some rows of a slice of a file; it gives no part without any."""
    found: Tensor = rows[slice(*part)] if part[0] < part[1] else rows[:1][:0]
    return found


def _numbered(paths: Iterable[Path]) -> tuple[Path | None, int]:
    """The newest of the files and indexes by what their headers say, as a file, and its number."""
    found: list[tuple[int, Path | None]] = [(0, None)]
    for path in paths:
        try:
            need_regular(path)
            if path.name.endswith(INDEX):
                found.append((int(read_index(path).metadata["number"]), place_file(path)))
                continue
            with safe_open(str(path), framework="pt", device="cpu") as file:
                found.append((int((file.metadata() or {})["number"]), path))
        except (SafetensorError, OSError, KeyError, ValueError):
            continue
    number, newest = max(found, key=lambda each: each[0])
    return newest, number


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
