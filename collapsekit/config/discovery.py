"""Which config file is used: the one that is named, else the user's own that is nearest to the working directory.

A config names code, and that code runs. So a config that merely lies beside a checkpoint, which may be a stranger's, is
never used unless it is named, and one that somebody else could have written is refused.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from collapsekit.config.load import pyproject_section
from collapsekit.config.schema import CONFIG_NAME
from collapsekit.errors import CollapsekitError, ConfigError
from collapsekit.io.files import is_file, reason

PYPROJECT = "pyproject.toml"


def find_config(config: str | Path | None, checkpoint: str | Path | None, command: str = "diagnose") -> Path:
    """Find the config file that is used: the one that is named, else the nearest (:func:`nearest_config`).

    Args:
        config: the one that is named.
        checkpoint: beside which another may lie, which is never used by itself.
        command: what the message says to type where one lies there.

    Returns:
        Its path.

    Raises:
        ConfigError: where there is none.
    """
    if config is not None:
        if not is_file(config):
            raise ConfigError(f"config {config} is not a file: give the path of a {CONFIG_NAME}.")
        return Path(config)
    found = nearest_config()
    if found is not None:
        return found
    folders = search_folders()
    looked = str(folders[0]) if len(folders) == 1 else f"{folders[0]} or its parents up to {folders[-1]}"
    other = next(iter(configs_beside(checkpoint)), None)
    if other is not None:
        line = shlex.join(["collapsekit", command, str(checkpoint), "--config", str(other)])
        raise ConfigError(
            f"there is no {CONFIG_NAME} in {looked}; {other} lies beside the checkpoint and is not used unless you name "
            f"it, as the code it names would run: look at it, then type `{line}`."
        )
    raise ConfigError(
        f"there is no {CONFIG_NAME} in {looked}: write one with `collapsekit init {checkpoint or 'CKPT'}`, "
        "or name one with --config."
    )


def nearest_config() -> Path | None:
    """Return the config of the first of :func:`search_folders` that has one, None where none has.

    Raises ConfigError where another user could have written it.
    """
    for folder in search_folders():
        found = config_in(folder)
        if found is not None:
            _need_own(found)
            return found
    return None


def search_folders() -> list[Path]:
    """Return the working directory and, within a repository or the user's home, its parents up to the root of that,
    nearest first. Elsewhere, as under /tmp, the parents are other people's: the working directory alone.
    """
    try:
        here = Path.cwd()
    except OSError as e:  # it was deleted
        raise ConfigError(f"the working directory cannot be read: {reason(e)}; change to another one.") from None
    home = _home()
    folders = []
    for folder in (here, *here.parents):
        folders.append(folder)
        if folder == home or os.path.lexists(folder / ".git"):
            return folders
    return [here]


def config_in(folder: Path) -> Path | None:
    """Find the config in a folder.

    collapsekit.yaml, else its pyproject.toml where that has a ``[tool.collapsekit]`` table, else None.
    """
    if is_file(folder / CONFIG_NAME):
        return folder / CONFIG_NAME
    pyproject = folder / PYPROJECT
    return pyproject if is_file(pyproject) and pyproject_section(pyproject) is not None else None


def configs_beside(checkpoint: str | Path | None) -> list[Path]:
    """Return configs beside a checkpoint, beside what it is a link to, or in it where it is a folder: to speak of, not
    to use.
    """
    found: list[Path] = []
    if checkpoint is not None:
        with contextlib.suppress(OSError, ValueError, CollapsekitError):
            path = Path(checkpoint)
            target = Path(os.path.realpath(checkpoint))  # Path.resolve raises for a loop of links
            for folder in dict.fromkeys((path.parent, target.parent, path)):
                config = config_in(folder)
                found += [config] if config is not None else []
    return found


def config_line(file: Path, checkpoint: str | Path | None = None, *, named: bool = False) -> str:
    """Say which config is used.

    Args:
        file: the one that is used.
        checkpoint: beside which another may lie.
        named: whether the user named ``file``.

    Returns:
        ``Config: PATH``; and, where it was not named, which other one beside the checkpoint is not used.
    """
    line = f"Config: {path_from_here(file)}"
    others = [] if named else configs_beside(checkpoint)
    other = next((o for o in others if os.path.realpath(o) != os.path.realpath(file)), None)
    if other is None:
        return line
    return f"{line} ({path_from_here(other)}, beside the checkpoint, is not used: to use it, name it with --config)"


def path_from_here(file: str | Path) -> str:
    """Return a path relative to the working directory, with forward slashes; the name alone where no relative path
    leads there.

    Never absolute: what goes into a report must not depend on where a project's folder lies.
    """
    path = Path(file)
    try:
        place = Path(os.path.realpath(path.parent)) / path.name
        return Path(os.path.relpath(place, os.path.realpath(Path.cwd()))).as_posix()
    except (OSError, ValueError):  # the working directory is gone; another drive
        return path.name


def _home() -> Path | None:
    try:
        return Path(os.path.realpath(Path.home()))
    except RuntimeError:
        return None


def _need_own(file: Path) -> None:
    """Raises ConfigError where somebody else, but for root, could have written the file, or what is imported beside it."""
    if not hasattr(os, "geteuid"):  # Windows has neither such owners nor such rights
        return
    for place in _on_the_way(file):
        try:
            info = os.lstat(place)
        except OSError as e:
            raise ConfigError(f"config {file} cannot be read: {reason(e)}.") from None
        why = None
        if info.st_uid not in (0, os.geteuid()):
            why = f"{_it(place, file)} belongs to another user (uid {info.st_uid})"
        elif not stat.S_ISLNK(info.st_mode) and info.st_mode & stat.S_IWOTH:
            why = f"everybody may write to {_it(place, file)}"
        if why is not None:
            raise ConfigError(
                f"{file} was found and is not used, as {why}, and the code that a config names runs: look at it, then "
                f"name it with `--config {shlex.quote(path_from_here(file))}`."
            )


def _it(place: Path, file: Path) -> str:
    return "it" if place == file else str(place)


def _on_the_way(file: Path) -> Iterator[Path]:
    """The file, each link that leads to it, what it is in the end, and the folder of each."""
    for _ in range(40):  # as many links as Linux follows
        yield file
        yield file.parent
        if not file.is_symlink():
            return
        file = file.parent / file.readlink()
        file = Path(os.path.realpath(file.parent)) / file.name
