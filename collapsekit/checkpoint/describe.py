"""describe: what a file is and holds, tensor by tensor, also where it is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from collapsekit.checkpoint.digest import sha256_of
from collapsekit.checkpoint.read import read_checkpoint
from collapsekit.errors import RefusedError
from collapsekit.locate.opened import kind_of
from collapsekit.locate.read import UnreadableError

_AT_A_TIME = 1 << 22  # elements


@dataclass(frozen=True)
class TensorRow:
    """One tensor. ``norm`` is the Euclidean norm of its finite elements (numpy.linalg.norm), in float64; None where
    that is too large for a float64."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    norm: float | None
    nan: int
    inf: int


@dataclass(frozen=True)
class Description:
    """A file as `collapsekit inspect` shows it; ``refused`` is why its weights were not read, or None."""

    path: Path
    sha256: str | None  # None for a directory that was refused
    format: str | None
    key: str | None
    note: str | None
    names: tuple[str, ...]  # classes and functions that unpickling it would import
    tensors: tuple[TensorRow, ...]
    refused: str | None = None


def describe(path: str | Path) -> Description:
    """Look at a file or directory without executing anything of it. Raises ConfigError where there is nothing, and
    RefusedError where it is no regular file."""
    file = Path(path)
    is_file = kind_of(file) == "file"
    try:
        read = read_checkpoint(file)
    except RefusedError as e:
        known = e if isinstance(e, UnreadableError) else None
        names = tuple(known.names) if known else ()
        digest = sha256_of(file) if is_file else None
        return Description(file, digest, known.format or None if known else None, None, None, names, (), str(e))
    rows = tuple(_row(name, tensor) for name, tensor in read.tensors.items())
    return Description(file, read.sha256, read.format, read.key, read.note, read.names, rows)


def _row(name: str, tensor: Tensor) -> TensorRow:
    nan = inf = 0
    total = 0.0
    flat = tensor.reshape(-1) if tensor.is_contiguous() else tensor.flatten()
    for start in range(0, flat.numel(), _AT_A_TIME):
        part = flat[start : start + _AT_A_TIME]
        part = part.to(torch.complex128 if part.is_complex() else torch.float64)
        nan += int(part.isnan().sum())
        inf += int(part.isinf().sum())
        norm = float(torch.linalg.vector_norm(part[part.isfinite()]))
        total = math.hypot(total, norm)
    finite = total if math.isfinite(total) else None
    kind = str(tensor.dtype).removeprefix("torch.")
    return TensorRow(name, tuple(tensor.shape), kind, tensor.numel() * tensor.element_size(), finite, nan, inf)
