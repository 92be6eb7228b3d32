"""read_checkpoint: any file or directory -> named tensors, with nothing of it executed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from collapsekit.checkpoint.formats.detect import UnreadableError
from collapsekit.checkpoint.formats.state_dict import AVERAGES, EMA_KEYS
from collapsekit.checkpoint.mmap import changed_in_place, mapped, mapped_and_summed
from collapsekit.checkpoint.sandbox import look_into
from collapsekit.checkpoint.sidecars.peft import LoraAdapter, read_adapter
from collapsekit.checkpoint.trust import digest_named, load_trusted
from collapsekit.errors import ConfigError, RefusedError
from collapsekit.io.safe_text import quote

WhichWeights = Literal["model", "ema"]
_DEEPEST = 3  # components of a name among which that of an averaged copy is looked for


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors out of a file or directory, on the CPU, detached, with the file's own names (prefixes included).

    Tensors may be mapped from the file: writing to them never reaches it, and is undone where they are loaded.
    """

    path: Path
    sha256: str  # 64 hex digits: of the whole file; of a directory as digest.sha256_of_all says
    format: str
    tensors: dict[str, Tensor]
    key: str | None  # the nested key the weights were taken from, dotted; None: the top level
    note: str  # one sentence: what was taken, and what was not
    names: tuple[str, ...] = ()  # classes and functions its pickles name beyond those of plain tensors
    trusted: bool = False  # whether --trust-pickle let it be unpickled
    files: tuple[
        tuple[Any, ...], ...
    ] = ()  # those that tensors are mapped from: path, and what it was when it was read
    versions: Mapping[str, Any] = field(default_factory=dict)  # path of a module -> what it tells its own loading
    ties: Mapping[str, str] = field(default_factory=dict)  # names left out as being another's tensor -> that one
    averaged: str | None = None  # where averages (EMA) were asked for: where they lay in the file
    beside: dict[str, Tensor] = field(default_factory=dict)  # the model's own weights, where ``tensors`` are averages
    adapter: LoraAdapter | None = None  # what ``tensors`` add to the weights of a base
    base: Checkpoint | None = None

    def with_base(self, base: Checkpoint) -> Checkpoint:
        """Return the adapter with what it was trained on; the digest is then of both files, as `sha256sum` prints them
        under the names adapter and base.
        """
        both = hashlib.sha256(f"{self.sha256}  adapter\n{base.sha256}  base\n".encode()).hexdigest()
        note = f"{self.note.removesuffix('.')}; merged into {base.path.name} (sha256:{base.sha256[:12]}): {base.note}"
        return replace(self, base=base, sha256=both, note=note)

    def check_unchanged(self) -> None:
        """Raise RefusedError where somebody has written to a file since: its tensors are then no longer those that
        ``sha256`` is of. To delete the file, or put another in its place, does not touch them.
        """
        changed_in_place(self.files)


def read_checkpoint(
    path: str | Path, *, trust: str | None = None, folder: Path | None = None, weights: WhichWeights = "model"
) -> Checkpoint:
    """Read named tensors from a file or directory of any format of collapsekit.checkpoint.formats, told by content.

    Nothing in it is executed: a child process bounded in memory and time says where the tensors lie, and they are
    mapped from there. What is looked into, mapped and hashed is the same file, unchanged from first to last.

    Args:
        path: the file or directory.
        trust: ``sha256:DIGEST`` lets that very file be unpickled where it would be refused.
        folder: where a trusted file's classes are importable from.
        weights: the model's own, or the averages (EMA) that training kept beside them.

    Returns:
        The tensors with the format, digest and notes of what was read.

    Raises:
        ConfigError: where there is nothing at ``path``, or no averages that were asked for.
        RefusedError: where it is unsafe, damaged, changing or not a checkpoint.
    """
    file = Path(path)
    if trust is not None:
        digest_named(trust)
    try:
        found = look_into(file)
    except UnreadableError as refusal:
        if trust is None or not refusal.pickled or not file.is_file():
            raise
        return _trusted(file, trust, folder, refusal, weights)
    tensors, sha256 = mapped_and_summed(found["files"], found["tensors"])
    if trust is not None and sha256 != digest_named(trust):
        raise RefusedError(
            f"{path} has sha256:{sha256}, --trust-pickle names another: leave the option out, the file can be read "
            "without it."
        )
    names, files = tuple(found["names"]), tuple(tuple(told) for told in found["files"])
    told = {"files": files, "versions": found["versions"], "ties": found["ties"]}
    read = Checkpoint(file, sha256, found["format"], tensors, found["key"], found["note"], names, **told)
    adapter = read_adapter(file, tensors)
    if adapter is not None:
        return replace(read, adapter=adapter)
    twin = found["averaged"]
    if weights == "model" or twin is None:
        return _chosen(read, weights)
    averages = mapped(found["files"], twin["tensors"])
    return _averages(replace(read, versions=twin["versions"]), twin["key"], averages, tensors)


def _chosen(read: Checkpoint, weights: WhichWeights) -> Checkpoint:
    """The checkpoint with the weights that were asked for, where averages stand among its tensors, if anywhere."""
    if weights == "model":
        return read
    if read.key is not None and not set(read.key.split(".")).isdisjoint(EMA_KEYS):
        return replace(read, averaged=read.key)  # there is nothing else in the file
    prefixes = (prefix for name in read.tensors if (prefix := averages_prefix(name)))
    prefix = next(prefixes, None)
    if prefix is None:
        raise ConfigError(
            f"{read.path} holds no averaged weights (EMA), which model.weights asks for: leave `weights: ema` out, or give "
            "the file that holds them."
        )
    averages = {n.removeprefix(prefix): t for n, t in read.tensors.items() if n.startswith(prefix)}
    beside = {n: t for n, t in read.tensors.items() if not n.startswith(prefix)}
    versions = {n.removeprefix(prefix): v for n, v in read.versions.items() if f"{n}.".startswith(prefix)}
    return _averages(replace(read, versions=versions), prefix.removesuffix("."), averages, beside)


def averages_prefix(name: str) -> str | None:
    """Return what stands before the name of a tensor in an averaged copy of the model ("model.ema."); None for others."""
    path = name.split(".")[:-1]
    at = next((i for i, part in enumerate(path[:_DEEPEST]) if part in AVERAGES), None)
    return None if at is None else ".".join(path[: at + 1]) + "."


def _averages(read: Checkpoint, key: str, averages: dict[str, Tensor], beside: dict[str, Tensor]) -> Checkpoint:
    inner = next((prefix for name in averages if (prefix := averages_prefix(name))), "")
    if inner:  # ema_pytorch keeps the model that is trained beside the averages
        averages = {n.removeprefix(inner): t for n, t in averages.items() if n.startswith(inner)}
        key = f"{key}.{inner.removesuffix('.')}"
    _, *further = read.note.removesuffix(".").split("; ")
    head = (
        f"{len(averages)} averaged tensors (EMA) taken from {quote(key, 100)} of a {read.format}, as model.weights says"
    )
    note = "; ".join([head, *(part for part in further if not part.startswith("the EMA weights"))]) + "."
    return replace(read, note=note, tensors=averages, beside=beside, averaged=key)


def _trusted(
    file: Path, trust: str, folder: Path | None, refusal: UnreadableError, weights: WhichWeights
) -> Checkpoint:
    tensors, entries = load_trusted(file, trust, refusal.format, folder)
    where = repr(entries.key) if entries.key else "the top level"
    note = (
        f"{len(tensors)} tensors taken from {where} after unpickling, as --trust-pickle said: the file's code was run."
    )
    names = tuple(refusal.names)
    told: dict[str, Any] = {"trusted": True, "versions": entries.versions}
    read = Checkpoint(file, digest_named(trust), refusal.format, tensors, entries.key, note, names, **told)
    twin = entries.averaged
    if weights == "model" or twin is None:
        return _chosen(read, weights)
    averages = {name: value.detach().cpu() for name, value in twin.entries.items()}
    return _averages(replace(read, versions=twin.versions), str(twin.key), averages, tensors)
