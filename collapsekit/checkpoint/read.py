"""read_checkpoint: any file or directory -> named tensors, with nothing of it executed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from collapsekit.checkpoint.formats.detect import UnreadableError
from collapsekit.checkpoint.mmap import changed_in_place, mapped_and_summed
from collapsekit.checkpoint.sandbox import look_into
from collapsekit.checkpoint.trust import digest_named, load_trusted
from collapsekit.errors import RefusedError


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

    def check_unchanged(self) -> None:
        """Raise RefusedError where somebody has written to a file since: its tensors are then no longer those that
        ``sha256`` is of. To delete the file, or put another in its place, does not touch them.
        """
        changed_in_place(self.files)


def read_checkpoint(path: str | Path, *, trust: str | None = None, folder: Path | None = None) -> Checkpoint:
    """Read named tensors from a file or directory of any format of collapsekit.checkpoint.formats, told by content.

    Nothing in it is executed: a child process bounded in memory and time says where the tensors lie, and they are
    mapped from there. What is looked into, mapped and hashed is the same file, unchanged from first to last.

    Args:
        path: the file or directory.
        trust: ``sha256:DIGEST`` lets that very file be unpickled where it would be refused.
        folder: where a trusted file's classes are importable from.

    Returns:
        The tensors with the format, digest and notes of what was read.

    Raises:
        ConfigError: where there is nothing at ``path``.
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
        return _trusted(file, trust, folder, refusal)
    tensors, sha256 = mapped_and_summed(found["files"], found["tensors"])
    if trust is not None and sha256 != digest_named(trust):
        raise RefusedError(
            f"{path} has sha256:{sha256}, --trust-pickle names another: leave the option out, the file can be read "
            "without it."
        )
    names, files = tuple(found["names"]), tuple(tuple(told) for told in found["files"])
    told = {"files": files, "versions": found["versions"], "ties": found["ties"]}
    return Checkpoint(file, sha256, found["format"], tensors, found["key"], found["note"], names, **told)


def _trusted(file: Path, trust: str, folder: Path | None, refusal: UnreadableError) -> Checkpoint:
    tensors, weights = load_trusted(file, trust, refusal.format, folder)
    where = repr(weights.key) if weights.key else "the top level"
    note = (
        f"{len(tensors)} tensors taken from {where} after unpickling, as --trust-pickle said: the file's code was run."
    )
    names = tuple(refusal.names)
    return Checkpoint(file, digest_named(trust), refusal.format, tensors, weights.key, note, names, trusted=True)
