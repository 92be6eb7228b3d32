"""The list of hostile files: each has a maker, and what reading it has to come to."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collapsekit.checkpoint.read import Checkpoint

Maker = Callable[[Path], Path]
Check = Callable[["Checkpoint"], None]


@dataclass(frozen=True)
class Hostile:
    """A maker (given an empty folder, returns the path to read) and its outcome.

    ``says`` is a pattern that the refusal matches, None where the file is read and ``check`` holds. ``live`` files
    create the canary when they are loaded with ``torch.load(weights_only=False)``.
    """

    name: str
    make: Maker
    says: str | None
    check: Check | None = None
    live: bool = False
    missing: bool = False  # ConfigError, not RefusedError: the path names nothing
    slow: bool = False


FILES: dict[str, Hostile] = {}
FAMILIES = (
    "archives",
    "arrays",
    "budgets",
    "disagree",
    "distributed",
    "folders",
    "mistaken",
    "names",
    "payloads",
    "pickles",
    "safetensors_files",
    "storages",
)


def load_families() -> None:
    """Fill FILES: each family registers its own."""
    for family in FAMILIES:
        importlib.import_module(f"tests.hostile.{family}")


def refused(says: str, **more: Any) -> Callable[[Maker], Maker]:
    """The file is refused in a sentence that matches ``says`` (its path is taken out first)."""
    return lambda make: add(make, make.__name__, says=says, **more)


def read(check: Check | None = None, **more: Any) -> Callable[[Maker], Maker]:
    """The file is read, nothing executed, and ``check`` holds; without one, ``w`` is 0, 1, 2, 3."""
    return lambda make: add(make, make.__name__, says=None, check=check or holds_w, **more)


def add(make: Maker, name: str, **more: Any) -> Maker:
    """Registers a maker under a name of its own, for makers that come from a table; families are told apart."""
    label = f"{make.__module__.rpartition('.')[2]}-{name}"
    assert label not in FILES, f"two hostile files are called {label}"
    FILES[label] = Hostile(label, make, **more)
    return make


def holds_w(checkpoint: Checkpoint) -> None:
    """``w`` is there with its values."""
    assert checkpoint.tensors["w"].flatten().tolist() == [0, 1, 2, 3]


def canary(folder: Path) -> Path:
    """What every acting payload creates; nothing else does."""
    return folder.with_name("canary")


def touch(folder: Path) -> str:
    """A shell command that creates the canary."""
    return f"touch {shlex.quote(str(canary(folder)))}"


def script(folder: Path) -> str:
    """Python source that creates the canary."""
    return f"open({str(canary(folder))!r}, 'w').close()"
