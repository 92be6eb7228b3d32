"""mapped: places in files -> tensors, memory-mapped and private: writing to one never reaches the file."""

from __future__ import annotations

import contextlib
import errno
import math
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from collapsekit.checkpoint.formats.handles import changed, identity, open_regular
from collapsekit.checkpoint.formats.holes import stored_bytes
from collapsekit.checkpoint.formats.layout import ITEM_BYTES
from collapsekit.checkpoint.hashing import refuse_holes, sha256_of_all
from collapsekit.errors import RefusedError

_DTYPES = {name: getattr(torch, name) for name in ITEM_BYTES if hasattr(torch, name)}
_COPIED = 256 << 20  # bytes; copied beside those that the files hold
_IN_TURN = 16 << 20  # bytes
_MAPS: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()  # by the address of their first byte


def mapped(files: Sequence[Sequence[Any]], tensors: Sequence[Sequence[Any]]) -> dict[str, Tensor]:
    """Map the located tensors, each of its own shape and dtype, detached, on the CPU, by name.

    Those of several blocks, or misaligned, are copied. ``files`` are [path, *identity], ``tensors`` as
    :func:`collapsekit.checkpoint.formats.worker.as_data` answers. Nothing of it is taken on trust: raises RefusedError for
    a place outside its file, for a file that has changed meanwhile, and where far more would be copied than a file holds.
    """
    opened = _Files(files)
    for number in range(len(files)):  # also those that no tensor lies in
        opened.bytes_of(number)
    return {name: _tensor(name, dtype, shape, chunks, opened) for name, dtype, shape, chunks in tensors}


def mapped_and_summed(
    files: Sequence[Sequence[Any]], tensors: Sequence[Sequence[Any]]
) -> tuple[dict[str, Tensor], str]:
    """Map tensors (any shapes) as :func:`mapped` does, and compute the SHA-256 of the files that were mapped.

    They are unchanged from first to last.
    """
    refuse_holes([Path(path) for path, *_ in files])
    made = mapped(files, tensors)
    sha256 = sha256_of_all(files)
    check_unchanged(files)
    return made, sha256


def check_unchanged(files: Sequence[Sequence[Any]]) -> None:
    """Raise RefusedError where a file is no longer what it was told to be."""
    for path, *known in files:
        with contextlib.suppress(OSError):
            if identity(os.stat(path)) == tuple(known):  # noqa: PTH116
                continue
        raise changed(Path(path))


def changed_in_place(files: Iterable[Sequence[Any]]) -> None:
    """Raise RefusedError where a file is there, the same one, and no longer what it was.

    Of one that was deleted or replaced the maps keep what was read.
    """
    for path, *known in files:
        with contextlib.suppress(OSError):
            now = identity(os.stat(path))  # noqa: PTH116
            if now[:2] == tuple(known[:2]) and now[2:4] != tuple(known[2:4]):
                raise changed(Path(path))


def mapped_in_turn(files: Sequence[Sequence[Any]], tensors: Sequence[Sequence[Any]]) -> Iterator[tuple[str, Tensor]]:
    """Map one tensor (any shape) after the other, as :func:`mapped` does, from maps that are made anew now and then.

    Memory is that of the one at hand, and a little more.
    """
    opened, looked = _Files(files), 0
    for name, dtype, shape, chunks in tensors:
        if looked > _IN_TURN:
            opened, looked = _Files(files), 0
        tensor = _tensor(name, dtype, shape, chunks, opened)
        looked += tensor.nbytes
        yield name, tensor


def forget(tensor: Tensor) -> None:
    """Let go of the memory that looking at a mapped tensor (any shape) took.

    Its pages are read from the file again when next looked at, and what was written to them is lost. Nothing happens where
    ``tensor`` is not one that :func:`mapped` mapped.
    """
    data = _MAPS.get(tensor.untyped_storage().data_ptr()) if tensor.device.type == "cpu" else None
    if data is None or not tensor.numel() or not hasattr(mmap, "MADV_DONTNEED"):
        return
    item = tensor.itemsize
    start = int(tensor.storage_offset()) * item
    end = start + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) * item + item
    page = start - start % mmap.PAGESIZE
    data.madvise(mmap.MADV_DONTNEED, page, end - page)


def is_mapped(tensor: Tensor) -> bool:
    """Tell whether a tensor (any shape) lies in a file that :func:`mapped` mapped: :func:`forget` undoes what is written."""
    return (
        tensor.device.type == "cpu" and tensor.untyped_storage().data_ptr() in _MAPS and hasattr(mmap, "MADV_DONTNEED")
    )


class _Files:
    """The files that were located, each opened and mapped once, when it is first asked for."""

    def __init__(self, listed: Sequence[Sequence[Any]]) -> None:
        self._told = listed
        self._bytes: dict[int, Tensor] = {}
        self._copies: dict[tuple[Any, ...], Tensor] = {}
        self._allowed = _COPIED

    def bytes_of(self, number: int) -> Tensor:
        """A file's bytes as a uint8 vector, copy-on-write."""
        if number not in self._bytes:
            name, *known = self._told[number]
            self._bytes[number] = self._mapped(Path(name), tuple(known))
        return self._bytes[number]

    def allow(self, count: int, name: str) -> None:
        """Count bytes that are copied. Raises RefusedError where they are far more than the files hold."""
        self._allowed -= count
        if self._allowed < 0:
            raise RefusedError(
                f"{self._told[0][0]} has a tensor {name[:60]!r} that would have to be copied, and with it far more bytes "
                "than the file holds: save the weights again, with each tensor .clone()d."
            )

    def copied(self, key: tuple[Any, ...], run: Tensor, make: Callable[[Tensor], Tensor], name: str) -> Tensor:
        """``make(run)``, once for each place and kind of numbers: tensors that share numbers go on sharing them."""
        if key not in self._copies:
            self.allow(run.numel(), name)
            self._copies[key] = make(run)
        return self._copies[key]

    def _mapped(self, path: Path, expected: tuple[int, ...]) -> Tensor:
        try:
            with open_regular(path) as stream:
                if identity(os.fstat(stream.fileno())) != expected:
                    raise changed(path)
                data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
                self._allowed += stored_bytes(stream)
        except (OSError, ValueError) as e:
            many = isinstance(e, OSError) and e.errno == errno.EMFILE
            remedy = "allow more open files with `ulimit -n`" if many else "check that it is whole and may be read"
            raise RefusedError(f"{path} cannot be read ({e}): {remedy}.") from None
        whole = torch.frombuffer(data, dtype=torch.uint8)
        _MAPS[whole.data_ptr()] = data
        return whole


def _tensor(name: str, dtype: str, shape: Sequence[int], chunks: Any, files: _Files) -> Tensor:
    if dtype not in _DTYPES:
        raise RefusedError(
            f"the tensor {name[:60]!r} is of dtype {dtype[:40]}, which this torch does not have: update it."
        )
    kind = _DTYPES[dtype]
    if len(chunks) == 1 and not chunks[0][4]:
        return _block(files, kind, name, chunks[0])
    if not all(_fits(chunk[4], chunk[2], shape) for chunk in chunks):
        raise RefusedError(f"the pieces of the tensor {name[:60]!r} do not fit into it: get the file anew.")
    blocks = [_block(files, kind, name, chunk) for chunk in chunks]
    files.allow(math.prod(shape) * kind.itemsize, name)
    whole = torch.empty(tuple(shape), dtype=kind)
    for chunk, block in zip(chunks, blocks, strict=True):
        whole[tuple(slice(at, at + n) for at, n in zip(chunk[4], chunk[2], strict=True))] = block
    return whole


def _fits(origin: Sequence[int], size: Sequence[int], shape: Sequence[int]) -> bool:
    places = zip(origin, size, shape, strict=False)
    return len(origin) == len(size) == len(shape) and all(at >= 0 and 0 <= n <= m - at for at, n, m in places)


def _block(
    files: _Files, dtype: torch.dtype, name: str, chunk: tuple[int, int, list[int], list[int], list[int], bool]
) -> Tensor:
    """The numbers of one piece of a tensor: (file, offset, shape, stride, origin in the tensor, whether big-endian)."""
    file, offset, shape, stride, _, swapped = chunk
    item, data = dtype.itemsize, files.bytes_of(file)
    if 0 in shape and min(shape) == 0:
        return torch.empty(tuple(shape), dtype=dtype)
    count = sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) + 1
    if offset < 0 or min(shape, default=1) < 0 or min(stride, default=0) < 0 or offset + count * item > len(data):
        raise RefusedError("a tensor was located outside its file: get the file anew.")
    run = data[offset : offset + count * item]
    key = (file, offset, count, dtype)
    if swapped:
        run = files.copied((*key, "turned"), run, lambda r: _turned(r, dtype), name)
    if dtype == torch.bool:  # a byte that is neither 0 nor 1 is no bool
        return files.copied(key, run, lambda r: r.ne(0), name).as_strided(tuple(shape), tuple(stride))
    if run.storage_offset() % item:
        run = files.copied(key, run, Tensor.clone, name)
    return run.view(dtype).as_strided(tuple(shape), tuple(stride))


def _turned(run: Tensor, dtype: torch.dtype) -> Tensor:
    """Big-endian numbers, the other way round."""
    part = dtype.itemsize // 2 if dtype.is_complex else dtype.itemsize
    return run.reshape(-1, part).flip(1).reshape(-1)
