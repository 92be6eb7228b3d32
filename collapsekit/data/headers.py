"""What a file of arrays holds, told by its headers alone: splits, names and sizes, without reading an example."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from collapsekit.data.arrays import is_torch_file, need_splits, read_torch_file, reading_arrays, split_numbers
from collapsekit.data.base import SPLITS

Sizes = dict[str, dict[str, int]]  # bytes by split and name
_BITS = {"64": 8, "32": 4, "16": 2, "8": 1}


def read_sizes(path: Path) -> Sizes:
    """Count the bytes of every array that can be used, by split and name. Raises what reading all of it would."""
    with reading_arrays(path) as is_npz:
        read = (_torch_headers if is_torch_file(path) else _npz_headers) if is_npz else _safetensors_headers
        shapes, which = read(path)
    if any("/" in name for name in shapes):
        out: Sizes = {}
        for key, (shape, size) in shapes.items():
            split, slash, name = key.partition("/")
            if slash:
                out.setdefault(split, {})[name] = math.prod(shape) * size
        return out
    need_splits(shapes, path)
    numbers = np.asarray(which).reshape(-1)
    rows = {split: int((numbers == number).sum()) for number, split in enumerate(SPLITS)}
    usable = {k: v for k, v in shapes.items() if k != "split" and v[0] and v[0][0] == len(numbers)}
    return {
        split: {name: n * math.prod(shape[1:]) * size for name, (shape, size) in usable.items()}
        for split, n in rows.items()
        if n
    }


_Shapes = dict[str, tuple[tuple[int, ...], int]]  # shape and bytes a number


def _safetensors_headers(path: Path) -> tuple[_Shapes, Any]:
    from safetensors import safe_open

    with safe_open(str(path), framework="np", device="cpu") as file:
        names = list(file.keys())
        slices = {name: file.get_slice(name) for name in names}
        shapes = {n: (tuple(s.get_shape()), _bytes_of(s.get_dtype())) for n, s in slices.items()}
        which = None
        if "split" in names and not any("/" in n for n in names):
            which = file.get_tensor("split")
    return shapes, which


def _bytes_of(dtype: str) -> int:
    """Bytes of a number of a kind as safetensors writes it (F32, BF16, BOOL, F8_E4M3)."""
    return next((size for bits, size in _BITS.items() if dtype.lstrip("CBFIU").startswith(bits)), 1)


def _torch_headers(path: Path) -> tuple[_Shapes, Any]:
    tensors = read_torch_file(path)  # mapped, so that only `split` is read
    return {k: (tuple(v.shape), v.element_size()) for k, v in tensors.items()}, tensors.get("split")


def _npz_headers(path: Path) -> tuple[_Shapes, Any]:
    shapes: _Shapes = {}
    which = None
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name == info.filename:  # no array
                continue
            with archive.open(info) as member:
                version = np.lib.format.read_magic(member)
                first = version == (1, 0)
                read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(member)
            if dtype.hasobject:
                raise ValueError(f"array {name!r} holds Python objects, which are never loaded")
            if dtype.kind in "biufc" or (name == "split" and dtype.kind in "SU"):
                shapes[name] = (shape, dtype.itemsize)
        if "split" in shapes and not any("/" in n for n in shapes):
            with archive.open("split.npy") as member:
                which = split_numbers(np.lib.format.read_array(member, allow_pickle=False), path)
    return shapes, which
