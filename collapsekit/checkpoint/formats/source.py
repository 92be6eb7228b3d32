"""What a file is before any reader touches it: regular, not empty, and its first bytes."""

from __future__ import annotations

import errno
import io
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from collapsekit.checkpoint.formats.handles import stream_of
from collapsekit.checkpoint.formats.layout import DamagedError, Extent
from collapsekit.errors import ConfigError, RefusedError

HEAD_BYTES = 512
_IN_MEMORY = 64 << 20
_AHEAD = 1 << 16


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
    """Tell a "file" from a "directory".

    Raises ConfigError where there is nothing or it may not be looked up, RefusedError for pipes, sockets and devices (to
    open a pipe would be to wait for its writer).
    """
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
    """Raise ConfigError or RefusedError where the path is no regular, readable, non-empty file."""
    if kind_of(path) == "directory":
        raise RefusedError(f"{path} is a directory, expected a file: name the file in it.")
    try:
        with stream_of(path) as stream:
            stream.seek(0)
            head = stream.read(HEAD_BYTES)
            size = stream.seek(0, 2)
    except OSError as e:
        raise ConfigError(f"checkpoint {path} cannot be opened ({_why(e)}): check its permissions.") from None
    if size == 0:
        raise RefusedError(f"{path} is empty (0 bytes): the save or download did not finish, make it again.")
    return Opened(path, head, size)


def open_part(path: Path) -> Opened:
    """Return a file that another one names. Raises DamagedError where it is not there, else as open_file."""
    try:
        return open_file(path)
    except ConfigError:
        raise DamagedError(f"its file {path.name[:100]!r} is not there, or may not be opened") from None


def read_bytes(extent: Extent, limit: int, what: str) -> bytes:
    """Read all bytes of an extent.

    Args:
        extent: the bytes of a file.
        limit: how many there may be.
        what: what they are, for messages.

    Returns:
        The bytes.

    Raises:
        DamagedError: where there are more, or fewer than the extent says.
    """
    if extent.length > limit:
        raise DamagedError(f"{what} has {extent.length} bytes, more than the {limit} allowed")
    with stream_of(extent.path) as stream:
        stream.seek(extent.start)
        data = stream.read(extent.length)
    if len(data) != extent.length:
        raise DamagedError(f"{what} breaks off")
    return data


@contextmanager
def pickle_stream(extent: Extent) -> Iterator[BinaryIO | Buffered]:
    """Open what a pickle at the start of an extent is read from.

    That is memory where the extent is small (the storages of a legacy file follow its pickle).
    """
    with stream_of(extent.path) as stream:
        window = Window(stream, extent)
        yield io.BytesIO(window.read()) if extent.length <= _IN_MEMORY else Buffered(window, extent.length)


class Window:
    """A read-only stream over an extent, for readers that must not see beyond it nor ask for more than there is."""

    def __init__(self, stream: BinaryIO, extent: Extent) -> None:
        self._stream, self._extent, self._at = stream, extent, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move as io.IOBase.seek does."""
        base = {0: 0, 1: self._at, 2: self._extent.length}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, "negative seek position")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Return bytes from the extent's first."""
        return self._at

    def seekable(self) -> bool:
        """Tell that it can be moved in."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """Return at most ``size`` bytes, fewer at the extent's end."""
        return self._take(size, self._stream.read)

    def readline(self, size: int | None = -1) -> bytes:
        """Return a line, at most to the extent's end."""
        return self._take(size, self._stream.readline)

    def _take(self, size: int | None, read: Callable[[int], bytes]) -> bytes:
        left = max(self._extent.length - self._at, 0)
        self._stream.seek(self._extent.start + self._at)
        data = read(left if size is None or size < 0 else min(size, left))
        self._at += len(data)
        return data


class Buffered:
    """A window read ahead, as a pickle is read a byte at a time."""

    def __init__(self, window: Window, length: int) -> None:
        ahead = io.BufferedReader(_Raw(window), _AHEAD)
        self._read, self._length = ahead.read, length
        self.readline, self.tell = ahead.readline, ahead.tell

    def read(self, size: int) -> bytes:
        """Return at most ``size`` bytes, and no room taken for more than there are."""
        return self._read(size if size < _AHEAD else min(size, self._length - self.tell()))


class _Raw(io.RawIOBase):
    def __init__(self, window: Window) -> None:
        self._window = window

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._window.tell()

    def readinto(self, buffer: Any) -> int:
        data = self._window.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
