"""Files of bare arrays: safetensors and NumPy's .npz. Neither format can carry code."""

from __future__ import annotations

import struct
import zipfile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from collapsekit.checkpoint.source import Source
from collapsekit.errors import RefusedError

_HEADER_LIMIT = 100_000_000  # the safetensors library's own


def is_safetensors(source: Source) -> bool:
    """Eight bytes of little-endian header length, then a JSON object."""
    if source.head[8:9] != b"{":
        return False
    return int(struct.unpack("<Q", source.head[:8])[0]) <= _HEADER_LIMIT


def load_safetensors(source: Source) -> object:
    """Name -> tensor, mapped from the file. Raises RefusedError where the file is not whole."""
    try:
        return load_file(str(source.path), device="cpu")
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, MemoryError) as e:
        raise RefusedError(
            f"{source.path} is a damaged or truncated safetensors file ({e}): copy or download it again."
        ) from None


def is_npz(source: Source) -> bool:
    """A zip of which every member is a .npy array."""
    return bool(source.members) and all(name.endswith(".npy") for name in source.members)


def load_npz(source: Source) -> object:
    """Name -> tensor, with None for an array that is not of numbers. Raises RefusedError for pickled objects."""
    try:
        with np.load(source.path, allow_pickle=False) as archive:
            return {name: _tensor(archive[name]) for name in archive.files}
    except (ValueError, OSError, KeyError, EOFError, MemoryError, OverflowError, zipfile.BadZipFile) as e:
        if "allow_pickle" in str(e):
            raise RefusedError(
                f"{source.path} holds arrays of Python objects, which only unpickling could read: "
                "save plain numeric arrays with np.savez."
            ) from None
        raise RefusedError(
            f"{source.path} is a damaged .npz file ({e}): copy or download it again, or write it with np.savez."
        ) from None


def _tensor(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> torch.Tensor | None:
    if array.dtype.kind not in "fiubc":
        return None
    try:
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C", copy=True))
    except TypeError:  # long double and the like
        return None
