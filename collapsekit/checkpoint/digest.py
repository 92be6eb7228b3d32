"""SHA-256 of a checkpoint: of a file's bytes, or of all files of a directory that were read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path


def sha256_of(path: Path) -> str:
    """64 hex digits of a file's bytes, read in chunks; as `sha256sum FILE` prints."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_all(paths: Sequence[Path]) -> str:
    """Of one file, its own. Of several, that of the lines `sha256sum` prints for them in order of their names."""
    if len(paths) == 1:
        return sha256_of(paths[0])
    lines = "".join(f"{sha256_of(p)}  {p.name}\n" for p in sorted(paths, key=lambda p: p.name))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
