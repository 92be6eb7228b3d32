"""mapped: places in files -> tensors, memory-mapped and private: writing to one never reaches the file."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from collapsekit.errors import RefusedError
from collapsekit.locate.layout import ITEM_BYTES

_DTYPES = {name: getattr(torch, name) for name in ITEM_BYTES if hasattr(torch, name)}
_MAPS: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()  # by the address of their first byte


def mapped(files: Sequence[Sequence[Any]], tensors: Sequence[Sequence[Any]]) -> dict[str, Tensor]:
    """Name -> tensor, detached, on the CPU; of several blocks, or misaligned, copied, otherwise mapped.

    ``files`` are [path, size, time of change in ns], ``tensors`` as :func:`collapsekit.locate.child.as_data`
    answers. Nothing of it is taken on trust: a place outside its file is a RefusedError,
    and so is a file that has changed meanwhile.
    """
    bytes_of = {i: _file(Path(path), size, changed) for i, (path, size, changed) in enumerate(files)}
    return {name: _tensor(name, dtype, shape, chunks, bytes_of) for name, dtype, shape, chunks in tensors}


def mapped_in_turn(files: Sequence[Sequence[Any]], tensors: Sequence[Sequence[Any]]) -> Iterator[tuple[str, Tensor]]:
    """As :func:`mapped`, one tensor after the other, each from maps of its own: memory is that of the one at hand."""
    for name, dtype, shape, chunks in tensors:
        used = {chunk[0] for chunk in chunks}
        bytes_of = {i: _file(Path(files[i][0]), *files[i][1:]) for i in used}
        yield name, _tensor(name, dtype, shape, chunks, bytes_of)


def forget(tensor: Tensor) -> None:
    """Let go of the memory that looking at a mapped tensor took: its pages are read from the file again when next looked
    at, and what was written to them is lost. Nothing where ``tensor`` is not one that :func:`mapped` mapped."""
    data = _MAPS.get(tensor.untyped_storage().data_ptr()) if tensor.device.type == "cpu" else None
    if data is None or not tensor.numel() or not hasattr(mmap, "MADV_DONTNEED"):
        return
    item = tensor.itemsize
    start = int(tensor.storage_offset()) * item
    end = start + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) * item + item
    page = start - start % mmap.PAGESIZE
    data.madvise(mmap.MADV_DONTNEED, page, end - page)


def _file(path: Path, size: int, changed: int) -> Tensor:
    """A file's bytes as a uint8 vector, copy-on-write."""
    try:
        with path.open("rb") as stream:
            info = os.fstat(stream.fileno())
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as e:
        raise RefusedError(f"{path} cannot be read ({e}): check that it is whole and may be read.") from None
    if (len(data), info.st_mtime_ns) != (size, changed):
        raise RefusedError(f"{path} changed while it was being read: wait until it is written, and try again.")
    whole = torch.frombuffer(data, dtype=torch.uint8)
    _MAPS[whole.data_ptr()] = data
    return whole


def _tensor(name: str, dtype: str, shape: Sequence[int], chunks: Any, files: Mapping[int, Tensor]) -> Tensor:
    if dtype not in _DTYPES:
        raise RefusedError(
            f"the tensor {name[:60]!r} is of dtype {dtype[:40]}, which this torch does not have: update it."
        )
    kind = _DTYPES[dtype]
    if len(chunks) == 1 and not chunks[0][4]:
        return _block(files, kind, *chunks[0])
    if not all(_fits(chunk[4], chunk[2], shape) for chunk in chunks):
        raise RefusedError(f"the pieces of the tensor {name[:60]!r} do not fit into it: get the file anew.")
    whole = torch.empty(tuple(shape), dtype=kind)
    for chunk in chunks:
        place = tuple(slice(at, at + n) for at, n in zip(chunk[4], chunk[2], strict=True))
        whole[place] = _block(files, kind, *chunk)
    return whole


def _fits(origin: Sequence[int], size: Sequence[int], shape: Sequence[int]) -> bool:
    places = zip(origin, size, shape, strict=False)
    return len(origin) == len(size) == len(shape) and all(at >= 0 and 0 <= n <= m - at for at, n, m in places)


def _block(
    files: Mapping[int, Tensor],
    dtype: torch.dtype,
    file: int,
    offset: int,
    shape: Sequence[int],
    stride: Sequence[int],
    origin: Sequence[int],
    swapped: bool,
) -> Tensor:
    del origin
    item, data = dtype.itemsize, files[file]
    if 0 in shape and min(shape) == 0:
        return torch.empty(tuple(shape), dtype=dtype)
    count = sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) + 1
    if offset < 0 or min(shape, default=1) < 0 or min(stride, default=0) < 0 or offset + count * item > len(data):
        raise RefusedError("a tensor was located outside its file: get the file anew.")
    run = data[offset : offset + count * item]
    if swapped:
        part = item // 2 if dtype.is_complex else item
        run = run.reshape(-1, part).flip(1).reshape(-1)
    if dtype == torch.bool:
        return run.ne(0).as_strided(tuple(shape), tuple(stride))  # a byte that is neither 0 nor 1 is no bool
    if run.storage_offset() % item:
        run = run.clone()
    return run.view(dtype).as_strided(tuple(shape), tuple(stride))
