"""Files read within a bound, replaced whole or not at all, and changed by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from collapsekit.errors import ConfigError

# What a file system answers that cannot flush a folder, or does not let us open one: no fault of the write.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EPERM}
WAIT = 60.0  # seconds for another process that is changing a file
_POLL = 0.02


def is_file(path: str | Path) -> bool:
    """Whether a regular file is there. False, where Path.is_file raises, for a name that no file can have."""
    return os.path.isfile(path)  # noqa: PTH113


def read_text(path: str | Path, most: int) -> str:
    """The text of a regular file of at most ``most`` bytes of UTF-8, a byte order mark aside.

    Raises OSError whatever is wrong with it; :func:`reason` has that in words.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise OSError(f"it is not UTF-8 text (byte {e.object[e.start]:#04x} at position {e.start})") from None


def read_bytes(path: str | Path, most: int) -> bytes:
    """The content of a regular file of at most ``most`` bytes. Raises OSError as :func:`read_text`."""
    try:
        info = os.stat(path)  # noqa: PTH116
        if not stat.S_ISREG(info.st_mode):  # before open(): opening a pipe would wait for a writer for ever
            raise OSError("it is not a regular file")
        if info.st_size > most:
            raise OSError(f"it has {info.st_size:,} bytes, more than the {most:,} that are read")
        with Path(path).open("rb") as f:
            data = f.read(most + 1)
    except ValueError as e:  # a NUL in the path
        raise OSError(str(e)) from None
    if len(data) > most:  # as the files of /proc, which have no size
        raise OSError(f"it has more than the {most:,} bytes that are read")
    return data


def reason(error: OSError) -> str:
    """What is wrong, without the number and the path that ``str(error)`` begins and ends with."""
    return error.strerror or str(error)


def write_atomic(path: Path, content: str | bytes) -> Path:
    """Write ``content`` by a sibling temporary file, fsync, replace and fsync of the folder.

    Lone surrogates are written as the escapes that JSON and YAML read. What killed writes of the same file left beside it
    is removed. Raises ConfigError where it cannot be written: the file that was there is then whole, and nothing is left
    beside it.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
                raise OSError("what is there is not a regular file")  # such as /dev/null, which replacing would break
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        while not _replaced(path, data):
            pass  # another process took the new file for one that a killed write left
        _sync_folder(path.parent)
    except (OSError, ValueError) as e:
        raise _unwritable(path, e) from None
    return path


def _replaced(path: Path, data: bytes) -> bool:
    """Replace a file by a new one; False where another process swept the new one up before it was marked as in use."""
    temporary = path.with_name(f".{_short(path.name)}.{secrets.token_hex(8)}")
    mark: int | None = None
    try:
        with temporary.open("xb") as f:
            try:
                mark = _marked(temporary)
            except FileNotFoundError:
                return False
            if mark is not None and not os.fstat(mark).st_nlink:
                return False
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    finally:
        if mark is not None:
            os.close(mark)
    return True


def _sweep(path: Path) -> None:
    """Remove temporary files of ``path`` that no living process writes: their writers were killed."""
    ours = re.compile(re.escape(f".{_short(path.name)}.") + "[0-9a-f]{16}")
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if ours.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    _remove_unused(Path(entry.path))


def _remove_unused(temporary: Path) -> None:
    """Remove a file of this user's that nobody has marked as in use. Raises OSError where that cannot be told."""
    mark = _marked(temporary, wait=False)
    if mark is None:
        return
    try:
        found = os.fstat(mark)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
            temporary.unlink()
    finally:
        os.close(mark)


def _marked(path: Path, *, wait: bool = True) -> int | None:
    """An open file that marks ``path`` as in use until it is closed, or its process ends; None where there are no such
    marks. Raises BlockingIOError where somebody else has marked it, unless to ``wait``, which takes a moment."""
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


def append_text(path: Path, text: str) -> None:
    """Add ``text`` to the end of a file that another program collects from, in one piece where several add at once; lone
    surrogates as in :func:`write_atomic`.

    Raises ConfigError where it cannot be written, or is kept locked for ``WAIT`` seconds.
    """
    try:
        with path.open("ab") as f, _held(f.fileno(), path):
            f.write(text.encode("utf-8", "backslashreplace"))
            f.flush()
    except (OSError, ValueError) as e:
        raise _unwritable(path, e) from None


@contextlib.contextmanager
def _held(handle: int, path: Path) -> Iterator[None]:
    """An open file that is never replaced, locked for as long as it is written; where the file system has no locks, not."""
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


@contextlib.contextmanager
def locked(path: Path, wait: float = WAIT) -> Iterator[None]:
    """Whoever else asks for ``path`` waits until this is left: for reading a file, changing it and writing it back.

    The lock is that of a hidden file beside it, which is removed again; the system lets go of it when its process ends,
    however that ends. Raises ConfigError where others keep it for ``wait`` seconds, or no file can be made there.
    """
    lock = path.with_name(f".{_short(path.name)}.collapsekit-lock")
    try:
        made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
        release = _locked_file(path, lock, wait)
    except (OSError, ValueError) as e:
        raise _unwritable(path, e) from None
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
        held = _try_lock(lock)
        if held is not None:
            return held
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


def _unwritable(path: Path, e: OSError | ValueError) -> ConfigError:
    why = reason(e) if isinstance(e, OSError) else str(e)
    return ConfigError(f"{path} cannot be written: {why}; choose another place for it.")


def _short(name: str) -> str:
    """A file's name as part of those of files of ours beside it: names of their own, and no longer than names can be."""
    if len(name) <= 50:
        return name
    return f"{name[:33]}~{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"


def _sync_folder(folder: Path) -> None:
    """Have the new name survive a power cut too, where the file system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as e:
        if e.errno not in _NO_FOLDER_SYNC:
            raise
