"""Files read within a bound, and replaced whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from pathlib import Path

from collapsekit.io.locks import locked_open, mark_in_use, short_name, unwritable

# What a file system answers that cannot flush a folder, or does not let us open one: no fault of the write.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EPERM}


def is_file(path: str | Path) -> bool:
    """Tell whether a regular file is there. False, where Path.is_file raises, for a name that no file can have."""
    return os.path.isfile(path)  # noqa: PTH113


def read_text(path: str | Path, most: int) -> str:
    """Return the text of a regular file of at most ``most`` bytes of UTF-8, a byte order mark aside.

    Raises OSError whatever is wrong with it; :func:`reason` has that in words.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise OSError(f"it is not UTF-8 text (byte {e.object[e.start]:#04x} at position {e.start})") from None


def read_bytes(path: str | Path, most: int) -> bytes:
    """Return the content of a regular file of at most ``most`` bytes. Raises OSError as :func:`read_text`."""
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
    """Return what is wrong, without the number and the path that ``str(error)`` begins and ends with."""
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
        raise unwritable(path, e) from None
    return path


def _replaced(path: Path, data: bytes) -> bool:
    """Replace a file by a new one; False where another process swept the new one up before it was marked as in use."""
    temporary = path.with_name(f".{short_name(path.name)}.{secrets.token_hex(8)}")
    mark: int | None = None
    try:
        with temporary.open("xb") as f:
            try:
                mark = mark_in_use(temporary)
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
    ours = re.compile(re.escape(f".{short_name(path.name)}.") + "[0-9a-f]{16}")
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if ours.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    _remove_unused(Path(entry.path))


def _remove_unused(temporary: Path) -> None:
    """Remove a file of this user's that nobody has marked as in use. Raises OSError where that cannot be told."""
    mark = mark_in_use(temporary, wait=False)
    if mark is None:
        return
    try:
        found = os.fstat(mark)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
            temporary.unlink()
    finally:
        os.close(mark)


def append_text(path: Path, text: str) -> None:
    """Add ``text`` to the end of a file that another program collects from, in one piece where several add at once; lone
    surrogates as in :func:`write_atomic`.

    Raises ConfigError where it cannot be written, or is kept locked for ``WAIT`` seconds.
    """
    try:
        with path.open("ab") as f, locked_open(f.fileno(), path):
            f.write(text.encode("utf-8", "backslashreplace"))
            f.flush()
    except (OSError, ValueError) as e:
        raise unwritable(path, e) from None


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
