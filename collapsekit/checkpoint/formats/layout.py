"""What a reader of a file says: named tensors as places in files, and the kinds of numbers that may lie there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class DamagedError(Exception):
    """A file is not what its format says; the text is a clause, to stand in brackets behind the file's name."""


class LimitError(DamagedError):
    """A file may be sound, and holds more than is read; the text is a clause that names both numbers."""


# torch's names of dtypes -> bytes an element.
ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint64": 8,
    "uint32": 4,
    "uint16": 2,
    "uint8": 1,
    "bool": 1,
    "complex128": 16,
    "complex64": 8,
}
MAX_DIMENSIONS = 64  # torch's own limit
_TOO_LARGE = 1 << 63
MAX_TENSORS = 100_000  # of a checkpoint; the largest models have some ten thousand


@dataclass(frozen=True)
class Extent:
    """A run of bytes in a file that belongs to one storage, member or array."""

    path: Path
    start: int
    length: int


@dataclass(frozen=True)
class Chunk:
    """A strided block of elements at ``offset`` bytes in a file; ``origin`` is where it stands in its tensor."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]  # in elements
    origin: tuple[int, ...] = ()  # empty: the block is the whole tensor
    swapped: bool = False  # big-endian numbers


@dataclass(frozen=True)
class Located:
    """One tensor: its dtype by torch's name, its shape, and the blocks that fill it."""

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]

    @property
    def bytes(self) -> int:
        """What it takes in memory, laid out whole."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Odd:
    """A tensor that is not stored as plain dense numbers (sparse, quantized, meta, a subclass): what it is. A file
    may hold one; only the weights taken must not be one."""

    what: str


@dataclass
class Loaded:
    """What a reader made of a file: plain data in which Located (and Odd) stand for tensors.

    ``names`` are the classes and functions the file's pickles name, ``paths`` every file that was read.
    """

    content: Any
    paths: list[Path]
    names: list[str] = field(default_factory=list)
    checksummed: bool = True
    about: list[str] = field(default_factory=list)  # further sentences for the note, without full stops
    ties: dict[str, str] = field(default_factory=dict)  # names that were left out as being another's tensor -> that one


def dense(
    dtype: str,
    shape: Sequence[Any],
    stride: Sequence[Any] | None,
    offset: Any,
    extent: Extent,
    *,
    swapped: bool = False,
) -> Located:
    """Locate a strided view of the numbers in an extent.

    Args:
        dtype: of the numbers, as torch names it.
        shape: of the view, in elements.
        stride: in elements; None for a contiguous view.
        offset: of its first number within the extent, in elements.
        extent: the bytes of a file.
        swapped: whether the numbers are big-endian.

    Returns:
        The view's place.

    Raises:
        DamagedError: where it does not lie within the extent.
    """
    item = ITEM_BYTES.get(dtype)
    if item is None:
        raise DamagedError(f"a tensor's dtype is {dtype[:60]!r}, which is not one that can be read here")
    sizes = sizes_of(shape)
    steps = contiguous(sizes) if stride is None else whole(stride, "stride")
    (first,) = whole((offset,), "offset")
    if len(sizes) != len(steps):
        raise DamagedError(f"a tensor has {len(sizes)} dimensions and {len(steps)} strides")
    count = math.prod(sizes)
    last = first + sum((n - 1) * s for n, s in zip(sizes, steps, strict=True)) + 1 if count else first
    if last * item > extent.length:
        raise DamagedError(
            f"a tensor of shape {_shown(sizes)} ({dtype}) claims {last * item} bytes of a storage of {extent.length}"
        )
    return Located(dtype, sizes, (Chunk(extent.path, extent.start + first * item, sizes, steps, swapped=swapped),))


def whole(numbers: Any, what: str) -> tuple[int, ...]:
    """Return ``numbers`` as at most 64 non-negative integers below 2^63. Raises DamagedError."""
    if not isinstance(numbers, list | tuple):
        raise DamagedError(f"a tensor's {what} is not made of non-negative integers")
    if len(numbers) > MAX_DIMENSIONS:
        raise DamagedError(f"a tensor's {what} has {len(numbers)} dimensions, more than the {MAX_DIMENSIONS} allowed")
    for n in numbers:
        if type(n) is not int or not 0 <= n < _TOO_LARGE:
            raise DamagedError(f"a tensor's {what} is not made of non-negative integers")
    return tuple(numbers)


def sizes_of(shape: Any) -> tuple[int, ...]:
    """Return ``shape`` as sizes whose strides can be counted, also where one of them is 0. Raises DamagedError."""
    sizes = whole(shape, "shape")
    if math.prod(max(n, 1) for n in sizes) >= 1 << 63:
        raise DamagedError(f"a tensor of shape {_shown(sizes)} claims more elements than can be addressed")
    return sizes


def contiguous(shape: Sequence[Any]) -> tuple[int, ...]:
    """Compute the row-major strides of a shape, in elements."""
    steps, step = [], 1
    for n in reversed(whole(shape, "shape")[:MAX_DIMENSIONS]):
        steps.append(step)
        step *= max(n, 1)
    return tuple(s if s < 1 << 63 else 0 for s in reversed(steps))


def _shown(sizes: Sequence[int]) -> str:
    return " x ".join(str(n) for n in sizes[:8]) or "()"
