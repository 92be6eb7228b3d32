"""Modules beside a user's config, importable for as long as they are needed, and what they raise in one line."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePath
from types import ModuleType

_FOLDERS: set[Path] = set()  # config folders that modules were imported from in this process
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


class _Installed:
    """Finds collapsekit and what it depends on where they are installed, though a config folder leads the path: a typer.py
    beside a model must not become the typer of a command that imports it later."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if path is not None or not any(_may_hold(str(f), name) for f in _FOLDERS) or name not in needed_names():
            return None
        others = [p for p in sys.path if Path(p or ".").resolve() not in _FOLDERS]
        for finder in sys.meta_path:
            if finder is PathFinder:
                found = PathFinder.find_spec(name, others, target)
            else:
                found = finder.find_spec(name, None, target) if finder is not _Installed else None
            if found is not None:
                return found
        return None


@functools.cache
def needed_names() -> frozenset[str]:
    """List the top-level modules of collapsekit and of everything it depends on, as installed here."""
    names, done, todo = {"collapsekit"}, set[str](), ["collapsekit"]
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in done:
            continue
        done.add(name)
        with contextlib.suppress(PackageNotFoundError):  # for another platform, or collapsekit is run from its source
            found = distribution(name)
            names |= _top_levels(found)
            todo += [m[0] for r in found.requires or [] if "extra ==" not in r and (m := _NAME.match(r))]
    return frozenset(names)


def _top_levels(package: Distribution) -> set[str]:
    listed = package.read_text("top_level.txt")
    if listed is not None:
        return set(listed.split())
    firsts = {PurePath(f).parts[0] for f in package.files or ()}
    return {first.partition(".")[0] for first in firsts if not first.endswith((".dist-info", ".data", ".pth", ".."))}


@contextmanager
def importable_from(base: Path) -> Iterator[None]:
    """Let modules in ``base`` be imported, and forget those of the same name from other config folders."""
    folder = base.resolve()
    _forget_others(folder)
    _FOLDERS.add(folder)
    if _Installed not in sys.meta_path:
        sys.meta_path.insert(0, _Installed)
    importlib.invalidate_caches()  # the files may be newer than Python's last look into the folder
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # taken out by the imported code itself
            sys.path.remove(str(folder))


def _forget_others(folder: Path) -> None:
    """Two config folders may each hold a model.py and a layers.py: the other folder's must not answer."""
    here = {p.stem for p in folder.iterdir()} if folder.is_dir() else set()
    near = [n for n in sys.modules if n.partition(".")[0] in here]
    # Few have a namesake there, and to resolve every module's path takes longer than all the rest.
    tops = {n.partition(".")[0] for n in near}
    told = {t for t in tops if any(_may_hold(str(other), t) for other in _FOLDERS - {folder})}
    told -= needed_names() if told else set()
    for name in [n for n in near if n.partition(".")[0] in told]:
        own, found = files_in(folder, name), file_of(sys.modules.get(name))
        if own and found not in own and any(found in files_in(other, name) for other in _FOLDERS - {folder}):
            forget_module(name)


def _may_hold(folder: str, top: str) -> bool:
    """Whether there is anything in ``folder`` that a module of that first name could be read from."""
    place = os.path.join(folder, top)  # noqa: PTH118 - asked for every folder
    return os.path.exists(place) or os.path.exists(place + ".py")  # noqa: PTH110


def forget_module(name: str) -> None:
    """Drop a module and all below its first name from what was imported."""
    top = name.split(".")[0]
    for other in [n for n in sys.modules if n == top or n.startswith(top + ".")]:
        del sys.modules[other]


def file_of(module: ModuleType | None) -> Path | None:
    """Find the file that a module was read from; None where there is none."""
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if isinstance(file, str) else None


def files_in(folder: Path, name: str) -> list[Path]:
    """List the files in ``folder`` that a module of that dotted name would be read from."""
    stem = folder.joinpath(*name.split("."))
    return [p.resolve() for p in (stem.with_name(stem.name + ".py"), stem / "__init__.py") if p.is_file()]
