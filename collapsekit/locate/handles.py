"""The files of one look: each is opened once, and has to be the same file, unchanged, until the look ends."""

from __future__ import annotations

import os
import stat
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from collapsekit.errors import RefusedError

# Device, inode, size, and the times of the last change of the content and of the inode in ns. Who writes to a file may
# put the first time back, the second not.
Identity = tuple[int, int, int, int, int]
MOST_OPEN = 64  # at once; a set of many shards has more files than a process may open
# A file system's clock may stand still for so long (ns): a second write within it leaves no trace.
_TICK = 20_000_000
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def identity(info: os.stat_result) -> Identity:
    """By which a file that changed, or stands in another's place, is told."""
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def changed(path: Path) -> RefusedError:
    """Says that a file is no longer what was read."""
    return RefusedError(f"{path} changed while it was being read: wait until it is written, and try again.")


def open_regular(path: Path) -> BufferedReader:
    """A regular file, opened to be read; never waits, as opening a pipe would. Raises OSError."""
    descriptor = os.open(path, _FLAGS)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is not a regular file")
        return os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


class Look:
    """The files opened so far; ``patient`` waits for the clock, so that no write goes unnoticed."""

    def __init__(self, *, patient: bool) -> None:
        self._patient = patient
        self._streams: OrderedDict[Path, BufferedReader] = OrderedDict()
        self._known: dict[Path, Identity] = {}

    def stream(self, path: Path) -> BufferedReader:
        """The file at ``path``, the same each time. Raises OSError, and RefusedError where another is there now."""
        if path in self._streams:
            self._streams.move_to_end(path)
            return self._streams[path]
        stream = open_regular(path)
        self._streams[path] = stream
        now = identity(os.fstat(stream.fileno()))
        if path not in self._known:
            self._known[path] = self._settled(path, stream, now) if self._patient else now
        elif self._known[path] != now:
            raise changed(path)
        if len(self._streams) > MOST_OPEN:
            self._streams.popitem(last=False)[1].close()
        return stream

    def identity(self, path: Path) -> Identity:
        """What the file was when it was opened."""
        self.stream(path)
        return self._known[path]

    def known(self, path: Path) -> Identity | None:
        """As :meth:`identity`; None for what was not opened."""
        return self._known.get(path)

    def check(self) -> None:
        """Raises RefusedError where a file is no longer what it was."""
        for path, known in self._known.items():
            try:
                now = identity(os.stat(path))  # noqa: PTH116
            except OSError:
                raise changed(path) from None
            if now != known:
                raise changed(path)

    def close(self) -> None:
        """Let go of every file."""
        while self._streams:
            self._streams.popitem()[1].close()

    def _settled(self, path: Path, stream: BufferedReader, now: Identity) -> Identity:
        """``now``, once the clock has moved on since the last write. Raises RefusedError where writing goes on."""
        age = time.time_ns() - max(now[3:])
        if 0 <= age < _TICK:
            time.sleep((_TICK - age) / 1e9)
            if identity(os.fstat(stream.fileno())) != now:
                raise changed(path)
        return now


_current: Look | None = None


@contextmanager
def one_look(*, patient: bool = False) -> Iterator[Look]:
    """All that is opened by :func:`stream_of` in the block is opened once; within another look, that goes on."""
    global _current
    if _current is not None:
        yield _current
        return
    _current = look = Look(patient=patient)
    try:
        yield look
    finally:
        _current = None
        look.close()


@contextmanager
def stream_of(path: Path) -> Iterator[BufferedReader]:
    """The file at ``path`` of the look under way, or opened for the block where there is none. Where it stands is open:
    seek first. Raises OSError, and RefusedError where the file changed."""
    if _current is not None:
        yield _current.stream(path)
        return
    with open_regular(path) as stream:
        yield stream
