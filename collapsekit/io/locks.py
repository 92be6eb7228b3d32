"""Files changed by one process at a time, and marked as in use while they are written."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from collapsekit.errors import ConfigError

WAIT = 60.0  # seconds for another process that is changing a file
_POLL = 0.02


@contextlib.contextmanager
def locked(path: Path, wait: float = WAIT) -> Iterator[None]:
    """Whoever else asks for ``path`` waits until this is left: for reading a file, changing it and writing it back.

    The lock is that of a hidden file beside it, which is removed again; the system lets go of it when its process ends,
    however that ends. Raises ConfigError where others keep it for ``wait`` seconds, or no file can be made there.
    """
    lock = path.with_name(f".{short_name(path.name)}.collapsekit-lock")
    try:
        made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
        release = _locked_file(path, lock, wait)
    except (OSError, ValueError) as e:
        raise unwritable(path, e) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            release.close()
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()  # where nothing was written into it


def _locked_file(path: Path, lock: Path, wait: float) -> contextlib.ExitStack:
    """``lock``, held until what is returned is closed. Raises OSError, and ConfigError after ``wait`` seconds."""
    deadline = time.monotonic() + wait
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)  # which another process may have removed, as it was empty
        handle = _try_lock(lock)
        if handle is not None:
            return handle
        if time.monotonic() >= deadline:
            raise _busy(path, wait)
        time.sleep(_POLL)


def _try_lock(lock: Path) -> contextlib.ExitStack | None:
    # filelock where there is no flock. Elsewhere it would leave its file beside the user's for ever, and versions of it that
    # we allow truncate whatever bears that name.
    stack = contextlib.ExitStack()
    if sys.platform == "win32":
        from filelock import FileLock, Timeout

        try:
            stack.enter_context(FileLock(str(lock), timeout=0))
        except Timeout:
            return None
        return stack
    import fcntl

    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        return None  # its folder was removed just now
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(handle)
        if found.st_size:
            raise OSError(f"{lock.name} beside it is no lock of collapsekit's")
        if found.st_nlink:  # else it was removed by who held it, and guards nothing
            stack.callback(os.close, handle)
            stack.callback(lock.unlink)  # first, while nobody else can hold it
            return stack
    except BlockingIOError:
        pass
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _busy(path: Path, wait: float) -> ConfigError:
    since = f", which has not ended within {wait:g} s" if wait else ""
    return ConfigError(f"{path} is being written by another process{since}: let that one end, then try again.")


def mark_in_use(path: Path, *, wait: bool = True) -> int | None:
    """Return an open file that marks ``path`` as in use until it is closed, or its process ends; None where there are
    no such marks. Raises BlockingIOError where somebody else has marked it, unless to ``wait``, which takes a moment.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    # O_NONBLOCK: what is a pipe by now is not waited for.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(handle)
        if wait:  # a file system without locks: there nobody sweeps, either
            return None
        raise
    return handle


@contextlib.contextmanager
def locked_open(handle: int, path: Path) -> Iterator[None]:
    """Lock an open file that is never replaced, for as long as it is written; where the file system has no locks, not."""
    if sys.platform != "win32":
        import fcntl

        deadline = time.monotonic() + WAIT
        with contextlib.suppress(OSError):
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise _busy(path, WAIT) from None
                    time.sleep(_POLL)
    yield


def unwritable(path: Path, e: OSError | ValueError) -> ConfigError:
    """Return the error for a file that cannot be written."""
    why = getattr(e, "strerror", None) or str(e)
    return ConfigError(f"{path} cannot be written: {why}; choose another place for it.")


def short_name(name: str) -> str:
    """Return a file's name as part of those of files of ours beside it: names of their own, and no longer than names
    can be.
    """
    if len(name) <= 50:
        return name
    return f"{name[:33]}~{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"
