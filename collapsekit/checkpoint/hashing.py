"""SHA-256 of a checkpoint: of a file's bytes, or of all files of a directory that were read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from collapsekit.checkpoint.formats.handles import changed, identity, open_regular
from collapsekit.checkpoint.formats.holes import runs, stored_bytes
from collapsekit.errors import RefusedError

MAX_HOLES = 2 << 30  # bytes; zeros that are stored nowhere take a second for 1 to 2 GB all the same
_CHUNK = 1 << 18
_ZEROS = bytes(_CHUNK)


def sha256_of(path: Path, expected: Sequence[int] | None = None) -> str:
    """Return 64 hex digits of a file's bytes, read in chunks; as `sha256sum FILE` prints.

    Raises RefusedError where it is not what it was ``expected`` as, where it changes meanwhile, or where it is
    nearly all holes.
    """
    return sha256_of_all([(path, *(expected or ()))])


def sha256_of_all(files: Sequence[Sequence[Any]]) -> str:
    """Compute the SHA-256 of files read whole: of one file, its own.

    Of several, that of the lines `sha256sum` prints for them in order of their names. Each is [path], or [path, *identity]
    as it is known. Raises RefusedError as :func:`sha256_of` does.
    """
    told = [(Path(path), tuple(known)) for path, *known in files]
    refuse_holes([path for path, _ in told])
    digests = [(path.name, _digest(path, known)) for path, known in told]
    if len(digests) == 1:
        return digests[0][1]
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def read_whole(path: Path) -> bytes:
    """Return a file's bytes, all of one opening.

    Raises RefusedError where they are nearly all holes, or cannot be read.
    """
    with _open(path) as stream:
        _refuse(path, *_sizes(stream))
        return stream.read()


def refuse_holes(paths: Sequence[Path]) -> None:
    """Raise RefusedError where reading files whole would be reading zeros that are stored nowhere, for hours, and where
    they cannot be opened.
    """
    size = stored = 0
    for path in paths:
        with _open(path) as stream:
            each = _sizes(stream)
        size, stored = size + each[0], stored + each[1]
    _refuse(paths[0], size, stored)


def _sizes(stream: BufferedReader) -> tuple[int, int]:
    return os.fstat(stream.fileno()).st_size, stored_bytes(stream)


def _refuse(path: Path, size: int, stored: int) -> None:
    if size - stored > max(MAX_HOLES, stored):
        raise RefusedError(
            f"{path} has {size - stored:,} bytes of holes (zeros that are not stored), more than the {MAX_HOLES:,} that "
            "are read: get it anew, or copy it with `cp --sparse=never` where they are meant."
        )


def _digest(path: Path, expected: tuple[int, ...]) -> str:
    with _open(path) as stream:
        before = identity(os.fstat(stream.fileno()))
        if expected and before != expected:
            raise changed(path)
        digest = _of_stream(stream, before[2])
        if identity(os.fstat(stream.fileno())) != before:
            raise changed(path)
    return digest


@contextmanager
def _open(path: Path) -> Iterator[BufferedReader]:
    try:
        with open_regular(path) as stream:
            yield stream
    except OSError as e:
        raise RefusedError(f"{path} cannot be read ({e}): check that it is whole and may be read.") from None


def _of_stream(stream: BufferedReader, size: int) -> str:
    digest = hashlib.sha256()
    for start, stop, hole in runs(stream, 0, size):
        stream.seek(start)
        for at in range(start, stop, _CHUNK):
            count = min(_CHUNK, stop - at)
            digest.update(_ZEROS[:count] if hole else stream.read(count))
    return digest.hexdigest()
