"""The files of one look: each is opened once, and has to be the same file, unchanged, until the look ends."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from collapsekit.errors import RefusedError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Device, inode, size, and the times of the last change of the content and of the inode in ns. Who writes to a file may
# put the first time back, the second not.
Identity = tuple[int, int, int, int, int]
MAX_OPEN = 64  # at once; a set of many shards has more files than a process may open
# A file system's clock may stand still for so long (ns): a second write within it leaves no trace.
_TICK = 20_000_000
# Where a lease is refused for a writer's sake alone; on NFS and SMB it is also where the server gave none.
_LEASING = ("ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs")
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def identity(info: os.stat_result) -> Identity:
    """Return that by which a file that changed, or stands in another's place, is told."""
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def changed(path: Path) -> RefusedError:
    """Say that a file is no longer what was read."""
    return RefusedError(f"{path} changed while it was being read: wait until it is written, and try again.")


def open_regular(path: Path) -> BufferedReader:
    """Return a regular file, opened to be read; never waits, as opening a pipe would. Raises OSError."""
    descriptor = os.open(path, _FLAGS)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is not a regular file")
        return os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


class Look:
    """The files opened so far; ``patient`` waits for the clock and refuses writers, so that no write goes unnoticed (the
    process then ignores SIGIO)."""

    def __init__(self, *, patient: bool) -> None:
        self._patient = patient
        self._streams: OrderedDict[Path, BufferedReader] = OrderedDict()
        self._known: dict[Path, Identity] = {}

    def stream(self, path: Path) -> BufferedReader:
        """Return the file at ``path``, the same each time.

        Raises OSError, and RefusedError where another is there now.
        """
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
        if len(self._streams) > MAX_OPEN:
            self._streams.popitem(last=False)[1].close()
        return stream

    def identity(self, path: Path) -> Identity:
        """Return what the file was when it was opened."""
        self.stream(path)
        return self._known[path]

    def identity_if_open(self, path: Path) -> Identity | None:
        """Return :meth:`identity` of what was opened; None for what was not."""
        return self._known.get(path)

    def check(self) -> None:
        """Raise RefusedError where a file is no longer what it was."""
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
        """``now``, once the clock has moved on since the last write began, and nobody has the file open to write: from
        here on each write leaves its time. Raises RefusedError where writing goes on."""
        age = time.time_ns() - max(now[3:])
        if 0 <= age < _TICK:
            time.sleep((_TICK - age) / 1e9)
        _refuse_writers(path, stream)
        if identity(os.fstat(stream.fileno())) != now:
            raise changed(path)
        return now


def _refuse_writers(path: Path, stream: BufferedReader) -> None:
    """Raises RefusedError where somebody has the file open to write, or mapped. Linux tells the file's owner by refusing
    a lease (who opens it in the moment that we have one is kept waiting, and SIGIO is sent to us: it must be ignored)."""
    if fcntl is None or not hasattr(fcntl, "F_SETLEASE"):
        return
    try:
        fcntl.fcntl(stream, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(stream, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as e:  # not ours, or not on this file system
        if e.errno == errno.EAGAIN and _file_system(os.fstat(stream.fileno()).st_dev) in _LEASING:
            raise RefusedError(
                f"{path} is open for writing in some process: wait until it is written and closed, and try again."
            ) from None


def _file_system(device: int) -> str:
    """The kind of the file system on a device, as Linux names it; empty where it does not tell."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    of_mount = (line.partition(" - ") for line in lines if line.split()[2] == number)
    return next((kind.split()[0] for _, _, kind in of_mount), "")


_current: Look | None = None


@contextmanager
def one_look(*, patient: bool = False) -> Iterator[Look]:
    """Open all that :func:`stream_of` opens in the block once; within another look, that goes on."""
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
    """Give the file at ``path`` of the look under way, or open it for the block where there is none.

    Where it stands is open: seek first. Raises OSError, and RefusedError where the file changed.
    """
    if _current is not None:
        yield _current.stream(path)
        return
    with open_regular(path) as stream:
        yield stream
