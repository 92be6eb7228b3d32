"""Values that do not stack into one tensor: ragged ones, text, None. A column holds a hash of each, and the values are kept
once by that hash, so that rows are taken, exchanged, sorted and compared as those of any other column."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from collapsekit.errors import DataError

Form = Literal["list", "padded"]
WORDS, IDS = 512, 256  # columns that words of a text, and token ids, are counted in
WIDE = 1024  # numbers up to which an axis that all values share is kept
WHOLE = 1 << 18  # numbers up to which values of one shape are told as they are


class ObjectStore:
    """The values of one field by the hash of what they hold."""

    def __init__(self, key: str, form: Form | None = None, padding: float = 0.0) -> None:
        """``form``: whether the model is given a list of them, or one tensor that is padded with ``padding``; None: all
        that is known is None."""
        self.key, self.form, self.padding = key, form, padding
        self.whole = False  # whether some batch had None in the place of all its values
        self._known: dict[int, Any] = {}
        self._numbers: dict[int, Tensor] = {}
        self._axis: int | None = None

    def add(self, values: Sequence[Any]) -> Tensor:
        """Keep values, and return their hashes, int64 (n,).

        Raises DataError for a value whose content cannot be told.
        """
        return torch.tensor([self._one(value) for value in values], dtype=torch.int64)

    @property
    def first(self) -> int:
        """The least hash there is, of something else than None where there is that."""
        return min((i for i, value in self._known.items() if value is not None), default=min(self._known))

    def take(self, ids: Tensor) -> list[Any]:
        """Return the values with these hashes (n,). Raises KeyError for one that is not there."""
        return [self._known[i] for i in ids.tolist()]

    def collect(self, ids: Tensor, optional: bool = False) -> Any:
        """Return what a model is given for these hashes (n,): a list, or one padded tensor (n, ...).

        Where all are None it is None; of values that come in lists, a list of None, unless ``optional`` (the model's forward
        has None by default) or batches of the data have None for all of theirs.
        """
        values = self.take(ids)
        if all(value is None for value in values) and (optional or self.whole or self.form != "list"):
            return None
        if self.form != "padded":
            return [value.clone() if isinstance(value, Tensor) else value for value in values]
        return pad_rows(values, self.padding, self.key)

    def numbers(self, ids: Tensor) -> Tensor:
        """Tell each of these values by numbers of one width, float32: tensors of one shape as they are, (n, ...), 0 for
        None; other values by what describes them, (n, d): of tensors their size, and mean, largest and least along what
        varies; of whole numbers and words, how often each occurs; first whether it is there at all. Which it is follows from
        all values that were added.
        """
        whole = self._whole()
        if whole is not None:
            return torch.stack([whole if value is None else value.float() for value in self.take(ids)])
        fresh = set(self._known) - set(self._numbers)  # of all, so that the width is that of every example
        if fresh and (axis := find_axis([v for v in self._known.values() if isinstance(v, Tensor)])) != self._axis:
            self._axis, fresh = axis, set(self._known)
        for i in fresh:
            self._numbers[i] = describe(self._known[i], self._axis)
        rows = [self._numbers[i] for i in ids.tolist()]
        widths = {len(row) for row in self._numbers.values() if len(row) > 1}
        if len(widths) > 1:
            raise DataError(
                f"values of {self.key!r} are of different kinds: they are described by {sorted(widths)} numbers, expected "
                "one kind in all examples; give tensors of one number of axes, or text."
            )
        width = max(widths, default=1)
        return torch.stack([torch.cat([row, torch.zeros(width - len(row))]) for row in rows])

    def _whole(self) -> Tensor | None:
        """Zeros of the one shape that all values have which are numbers, ids aside; None where they have several."""
        values = [value for value in self._known.values() if value is not None]
        shapes = {value.shape if isinstance(value, Tensor) else None for value in values}
        shape = shapes.pop() if len(shapes) == 1 else None
        if shape is None or not 0 < shape.numel() <= WHOLE or not shape:
            return None
        ids = len(shape) < 3 and not all(value.is_floating_point() for value in values)
        return None if ids else torch.zeros(shape)

    def _one(self, value: Any) -> int:
        value = torch.from_numpy(value) if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" else value
        digest = hashlib.blake2b(digest_size=8)
        for part in _bytes_of(value, self.key):
            digest.update(part)
        key = int.from_bytes(digest.digest(), "little") >> 1
        self._known.setdefault(key, value)
        return key


def find_axis(values: Sequence[Tensor]) -> int | None:
    """Find an axis along which values do not differ in size: the last of (t, d) or the first of (c, h, w) where it is so.

    Args:
        values: tensors (...).

    Returns:
        The axis, -1 where there is none; None where values have fewer axes than two, or not as many as one another.
    """
    axes = {value.ndim for value in values}
    count = axes.pop() if len(axes) == 1 else 0
    if count < 2:
        return None
    sizes = list(zip(*(value.shape for value in values), strict=True))
    usual = 1 if count == 2 else 0
    alike = [axis for axis in sorted(range(count), key=lambda axis: axis != usual) if len(set(sizes[axis])) == 1]
    return alike[0] if alike else -1


def describe(value: Any, axis: int | None = None) -> Tensor:
    """Describe one value by numbers, float32 (d,); d is the same for values of one kind.

    Args:
        value: a tensor of any shape, text, a list of these, or None.
        axis: of a tensor of two axes or more, the one whose places are told apart; -1: none is; None: the last of (t, d),
            the first of (c, h, w).

    Returns:
        First 1, or 0 alone for None; then size, mean, largest and least along what varies from value to value: the one axis
        of a vector, all but ``axis`` of what has more; or counts of token ids or of words.
    """
    if value is None:
        return torch.zeros(1)
    if isinstance(value, str | bytes):
        return torch.cat([torch.ones(1), count_words(value if isinstance(value, str) else value.decode("latin-1"))])
    if isinstance(value, Tensor):
        return torch.cat([torch.ones(1), _described(value, axis)])
    if isinstance(value, bool | int | float):
        return torch.tensor([1.0, float(value)])
    if hasattr(value, "__array_interface__"):  # images of PIL
        return describe(torch.from_numpy(np.array(value)), axis)
    if isinstance(value, list | tuple) and value:
        if all(isinstance(part, str) for part in value):
            return torch.cat([torch.ones(1), count_words(" ".join(value))])
        parts = [describe(part) for part in value]
        if len({len(part) for part in parts}) == 1:
            stacked = torch.stack(parts)
            return torch.cat(
                [torch.tensor([1.0, float(len(parts))]), stacked.mean(0), stacked.amax(0), stacked.amin(0)]
            )
    return torch.ones(1)


def count_words(text: str) -> Tensor:
    """Count the words of a text, each in the column of its hash: float32 (WORDS,)."""
    counts = torch.zeros(WORDS)
    for word in re.findall(r"\w+", text.lower()):
        counts[int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "little") % WORDS] += 1
    return counts


def pad_rows(values: Sequence[Any], padding: float, key: str) -> Tensor:
    """Stack tensors of several sizes, each filled up to the largest.

    Args:
        values: tensors of one dimension, (...).
        padding: what they are filled up with.
        key: the field, for messages.

    Returns:
        (n, ...).

    Raises:
        DataError: for values that are no tensors of one number of axes.
    """
    axes = {v.ndim for v in values if isinstance(v, Tensor)}
    if len(axes) != 1 or not all(isinstance(v, Tensor) for v in values):
        kinds = sorted({type(v).__name__ for v in values})
        raise DataError(
            f"values of {key!r} are {' and '.join(kinds)} with {sorted(axes)} axes, expected tensors of one number of axes: "
            "leave the modality's `encoder` out if some examples lack it, or pad them in the data."
        )
    most = [max(sizes) for sizes in zip(*(v.shape for v in values), strict=True)]
    out: Tensor = values[0].new_full((len(values), *most), padding)
    for row, value in zip(out, values, strict=True):
        row[tuple(slice(0, size) for size in value.shape)] = value
    return out


def unpad_rows(values: Tensor, padding: float) -> list[Tensor]:
    """Take what a batch was filled up with off each row: places at the end of an axis that hold nothing else.

    Args:
        values: a batch, (n, ...) of two axes or more.
        padding: what it was filled up with.

    Returns:
        n tensors (...), none of them empty, so that a row is the same in whatever batch it came.
    """
    found = []
    for row in values:
        for axis in range(row.ndim):
            kept = (row != padding).movedim(axis, 0).reshape(row.shape[axis], -1).any(1).nonzero()
            row = row.narrow(axis, 0, max(1, int(kept[-1]) + 1 if len(kept) else 1))
        found.append(row.clone())
    return found


def _described(value: Tensor, axis: int | None) -> Tensor:
    if value.ndim == 0:
        return value.float()[None]
    if not value.is_floating_point() and value.ndim == 1:
        ids = value.long()
        column = torch.where((ids >= 0) & (ids < IDS), ids, (ids * 2654435761) % 2147483647 % IDS)
        return torch.cat([torch.tensor([float(len(ids))]), torch.bincount(column, minlength=IDS).float()])
    x = value.float()
    if x.ndim == 1 or axis == -1:
        along = x.reshape(-1, 1)
    else:
        along = x.movedim((1 if x.ndim == 2 else 0) if axis is None else axis, 0).flatten(1).T
    if along.shape[1] > WIDE:
        along = along.reshape(-1, 1)
    if not len(along):
        along = torch.zeros(1, along.shape[1])
    return torch.cat([torch.tensor([float(x.numel() // along.shape[1])]), along.mean(0), along.amax(0), along.amin(0)])


def _bytes_of(value: Any, key: str, depth: int = 8) -> Iterator[bytes]:
    """What a value holds, with its kind, so that no two values give the same bytes."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        yield f"tensor {plain.dtype} {tuple(plain.shape)};".encode()
        yield plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    elif isinstance(value, str | bytes):
        data = value.encode() if isinstance(value, str) else value
        yield f"{type(value).__name__} {len(data)};".encode() + data
    elif isinstance(value, bool | int | None):
        yield f"{value!r};".encode()
    elif isinstance(value, float):
        yield b"float" + struct.pack("<d", value)
    elif not depth:
        raise DataError(f"a value of {key!r} is nested deeper than 8 levels: give tensors, text or lists of these.")
    else:
        yield from _bytes_of_container(value, key, depth)


def _bytes_of_container(value: Any, key: str, depth: int) -> Iterator[bytes]:
    if isinstance(value, Mapping):
        parts = [(str(k), v) for k, v in value.items()]
    elif isinstance(value, list | tuple):
        parts = [(str(i), v) for i, v in enumerate(value)]
    elif hasattr(value, "__array__") or hasattr(value, "__array_interface__"):  # the second: images of PIL
        array = np.asarray(value)
        if array.dtype.kind not in "biufSU":
            raise DataError(
                f"a value of {key!r} is an array of {array.dtype}, expected numbers: convert it in the data."
            )
        parts = [("array", f"{array.dtype} {array.shape}"), ("bytes", array.tobytes())]
    elif dataclasses.is_dataclass(value) or hasattr(value, "__dict__"):
        parts = [(k, v) for k, v in vars(value).items() if not k.startswith("_")]
        if not parts and vars(value):  # all of it is hidden, so that any two would be taken for the same
            raise DataError(_not_told(value, key))
    else:
        raise DataError(_not_told(value, key))
    yield f"{type(value).__name__} {len(parts)};".encode()
    for name, part in parts:
        yield f"{len(name)} {name};".encode()
        yield from _bytes_of(part, key, depth - 1)


def _not_told(value: Any, key: str) -> str:
    return (
        f"a value of {key!r} is {type(value).__name__}, expected a tensor, an array, text, None, or a list, mapping or "
        "object of these."
    )
