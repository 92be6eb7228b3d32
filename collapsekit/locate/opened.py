"""What a file is before any reader touches it: regular, not empty, and its first bytes."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from collapsekit.errors import ConfigError, RefusedError
from collapsekit.locate.layout import DamagedError, Extent

HEAD_BYTES = 512


@dataclass(frozen=True)
class Opened:
    """A regular file's path, first bytes and size."""

    path: Path
    head: bytes
    size: int

    @property
    def whole(self) -> Extent:
        """The file from first to last byte."""
        return Extent(self.path, 0, self.size)


def kind_of(path: Path) -> str:
    """ "file" or "directory". Raises ConfigError where there is nothing or it may not be looked up, RefusedError for
    pipes, sockets and devices (to open a pipe would be to wait for its writer)."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise ConfigError(f"checkpoint {path} does not exist: check the path.") from None
    except (OSError, ValueError) as e:
        if isinstance(e, OSError) and e.errno == errno.ELOOP:
            raise RefusedError(f"{path} is a symbolic link that leads back to itself: give the file itself.") from None
        raise ConfigError(f"checkpoint {path} cannot be looked up ({_why(e)}): check the path.") from None
    if stat.S_ISDIR(mode):
        return "directory"
    if not stat.S_ISREG(mode):
        raise RefusedError(f"{path} is a pipe, socket or device: give a regular file, saved to disk first.")
    return "file"


def open_file(path: Path) -> Opened:
    """Raises ConfigError or RefusedError where the path is no regular, readable, non-empty file."""
    if kind_of(path) == "directory":
        raise RefusedError(f"{path} is a directory, expected a file: name the file in it.")
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
            size = stream.seek(0, 2)
    except OSError as e:
        raise ConfigError(f"checkpoint {path} cannot be opened ({_why(e)}): check its permissions.") from None
    if size == 0:
        raise RefusedError(f"{path} is empty (0 bytes): the save or download did not finish, make it again.")
    return Opened(path, head, size)


def open_part(path: Path) -> Opened:
    """A file that another one names. Raises DamagedError where it is not there, else as open_file."""
    try:
        return open_file(path)
    except ConfigError:
        raise DamagedError(f"its file {path.name[:100]!r} is not there, or may not be opened") from None


def read_bytes(extent: Extent, limit: int, what: str) -> bytes:
    """All bytes of an extent of at most ``limit``. Raises DamagedError."""
    if extent.length > limit:
        raise DamagedError(f"{what} has {extent.length} bytes, more than the {limit} allowed")
    with extent.path.open("rb") as stream:
        stream.seek(extent.start)
        data = stream.read(extent.length)
    if len(data) != extent.length:
        raise DamagedError(f"{what} breaks off")
    return data


class Window:
    """A read-only stream over an extent, for readers that must not see beyond it nor ask for more than there is."""

    def __init__(self, stream: BinaryIO, extent: Extent) -> None:
        self._stream, self._extent, self._at = stream, extent, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """As io.IOBase.seek."""
        base = {0: 0, 1: self._at, 2: self._extent.length}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, "negative seek position")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Bytes from the extent's first."""
        return self._at

    def seekable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """At most ``size`` bytes, fewer at the extent's end."""
        return self._take(size, self._stream.read)

    def readline(self, size: int | None = -1) -> bytes:
        """A line, at most to the extent's end."""
        return self._take(size, self._stream.readline)

    def _take(self, size: int | None, read: Callable[[int], bytes]) -> bytes:
        left = max(self._extent.length - self._at, 0)
        self._stream.seek(self._extent.start + self._at)
        data = read(left if size is None or size < 0 else min(size, left))
        self._at += len(data)
        return data


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
