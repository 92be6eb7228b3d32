"""Whether what will be written can be, tried before the work that it is to hold; nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from collapsekit.errors import ConfigError
from collapsekit.io.files import reason


def check_folder(folder: str | Path, option: str, names: Sequence[str] = ()) -> None:
    """Check that files could be written into a folder, which need not be there yet.

    Args:
        folder: where.
        option: what named it, for messages.
        names: the files' names.

    Raises:
        ConfigError: where they could not.
    """
    place = Path(folder)
    with _explained(place, option):
        if os.path.lexists(place) and not os.path.isdir(place):  # noqa: PTH112 - Path's own raises for odd names
            raise OSError("what is there is not a folder")
        for name in names:
            _check_regular(place / name)
        _try_file(place)


def check_file(path: str | Path, option: str) -> None:
    """Raise ConfigError, which names ``option``, unless the file could be written (again)."""
    place = Path(path)
    with _explained(place, option):
        if not place.name:
            raise OSError("it names a folder")
        _check_regular(place)
        _try_file(place.parent)


def check_room(folder: str | Path, size: int, what: str) -> None:
    """Check that the disk that a folder is, or will be, on has room.

    Args:
        folder: where.
        size: bytes.
        what: what they are for, for messages.

    Raises:
        ConfigError: with both numbers, where it has not.
    """
    place = _nearest(Path(folder).absolute())
    try:
        free = shutil.disk_usage(place).free
    except OSError:  # a file system that does not say
        return
    if free < size:
        raise ConfigError(
            f"{what} may take {_amount(size)} in {folder}, and {_amount(free)} are free there: free some space, or choose "
            "another place for it."
        )


@contextmanager
def _explained(place: Path, option: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as e:  # ValueError: a NUL in the name
        why = reason(e) if isinstance(e, OSError) else str(e)
        raise ConfigError(f"{option} {place} cannot be written: {why}; choose another place for it.") from None


def _check_regular(path: Path) -> None:
    """Raises OSError where something is in the place of the file that a file cannot replace, or its name cannot be."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            raise OSError(f"{path.name} is there and is not a regular file")


def _try_file(folder: Path) -> None:
    """Make the folder and a file in it, and remove both again, the folder and those above it where they are new."""
    made: list[Path] = []
    missing = []
    above = folder
    while not os.path.lexists(above) and above != above.parent:
        missing.append(above)
        above = above.parent
    try:
        for part in reversed(missing):
            with contextlib.suppress(FileExistsError):  # made by another process in the meantime: it is not ours
                part.mkdir()
                made.append(part)
        temporary = folder / f".collapsekit.{secrets.token_hex(8)}"
        with temporary.open("xb"):
            pass
        temporary.unlink()
    finally:
        for part in reversed(made):
            with contextlib.suppress(OSError):  # in use by now
                part.rmdir()


def _nearest(path: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path


def _amount(size: float) -> str:
    """Bytes in a unit that fits."""
    unit = "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
