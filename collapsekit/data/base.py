"""Where examples come from: named splits of dict batches, and what each kind of them has to hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from collapsekit.data.objects import ObjectStore
from collapsekit.errors import ConfigError, DataError, did_you_mean

SPLITS = ("train", "val", "test")
Batch = dict[str, Tensor]  # inputs by key, first axis the example
EXAMPLE = "(example)"  # the column of whole examples, of which a batch is collated once modalities are exchanged


class MissingFieldError(DataError):
    """Examples lack a field that the config names (exit 2).

    Causes: a label, a modality or a key of ``data.also`` that the data call otherwise; tuples, whose parts have no names
    without ``batch: [...]``; a column that the Dataset leaves out.

    What to do: write the line that the message says: ``batch: [...]`` for tuples, else the data's own name as
    ``data.label`` or as the modality's ``input``.
    """

    def __init__(self, sentence: str, key: str, there: Collection[str], unnamed: int = 0) -> None:
        """Make the error.

        Args:
            sentence: what was looked for and what is there, without a full stop.
            key: the field that is not.
            there: the fields that are.
            unnamed: how many of these, the last ones, are parts of a tuple by their place.
        """
        super().__init__(f"{sentence}{'; name its parts with `batch: [...]`' if 0 < unnamed == len(there) else ''}.")
        self.sentence, self.key, self.there, self.unnamed = sentence, key, tuple(there), unnamed


def need_split(split: str, there: Collection[str]) -> None:
    """Raise ConfigError where ``split`` is none of those that are there."""
    if split not in there:
        raise ConfigError(
            f"there is no split {split!r}{did_you_mean(split, there)}: "
            f"the data has {', '.join(there) or 'none'}; choose one with --split."
        )


def need_key(key: str, there: Collection[str], split: str, origin: str) -> None:
    """Raise MissingFieldError where a split's arrays do not have a key.

    Args:
        key: that is needed.
        there: the split's keys.
        split: its name.
        origin: what to call the data in messages.
    """
    if key not in there:
        raise MissingFieldError(
            f"split {split!r} of {origin} has no {key!r}{did_you_mean(key, there)}: "
            f"it has {', '.join(there) or 'no arrays'} (arrays of text, or of another length than a `split` "
            "tensor, are left out)",
            key,
            there,
        )


def need_dense(value: Tensor, key: str, split: str, origin: str) -> Tensor:
    """Give back a tensor (n, ...) that has rows of numbers.

    Args:
        value: the tensor.
        key: its name in the data.
        split: that it is of.
        origin: what to call the data in messages.

    Returns:
        ``value`` itself.

    Raises:
        DataError: for a tensor that is sparse or nested, or has no numbers.
    """
    odd = "nested" if value.is_nested else "on the meta device" if value.is_meta else None
    if odd is None and value.layout is not torch.strided:
        odd = str(value.layout).removeprefix("torch.")
    if odd is not None:
        raise DataError(
            f"{key!r} in split {split!r} of {origin} is a tensor that is {odd}: give dense ones, padded to one shape."
        )
    return value


class Source(ABC):
    """Named splits of dict batches; every value's first axis is the example.

    Values that do not stack are kept in ``objects`` by field; their column holds hashes, int64 (n,)."""

    objects: Mapping[str, ObjectStore] = MappingProxyType({})
    collate: Callable[[list[Any]], Any] | None = None  # what makes a batch of examples; None: they come as batches

    def ragged(self, key: str) -> ObjectStore | None:
        """Return where a field's values are kept from now on, as their shapes turn out to differ; None: they may not."""
        del key
        return None

    @abstractmethod
    def splits(self) -> list[str]:
        """List the names of the splits there are."""

    @abstractmethod
    def batches(self, split: str, keys: list[str], size: int, limit: int | None, seed: int) -> Iterator[Batch]:
        """Yield batches.

        Args:
            split: which examples.
            keys: what each batch holds, each (rows, ...).
            size: rows of a batch, where the source makes batches itself.
            limit: how many examples in all; None: every one.
            seed: of the draw of those.

        Yields:
            Tensors (rows, ...) by key.

        Raises:
            DataError: where the split's data do not fit ``keys`` or one another.
        """

    def count(self, split: str) -> int | None:
        """Number of examples where it is known beforehand."""
        return None

    def length(self, split: str) -> int | None:
        """Number of examples that ``batches`` would yield in all, where that can be told without reading them."""
        return self.count(split)

    def sizes(self) -> dict[str, dict[str, int] | None]:
        """Count the bytes of every array by split and name; None for a split that says nothing before it is read."""
        return dict.fromkeys(self.splits())

    def need(self, split: str) -> None:
        """Raise ConfigError where ``split`` is not there."""
        need_split(split, self.splits())


def is_stored(objects: Mapping[str, ObjectStore], key: str, column: Tensor) -> bool:
    """Tell whether a column holds hashes of values that are kept beside it.

    Args:
        objects: where values are kept, by field.
        key: the column's.
        column: (n, ...).

    Returns:
        Whether it does.
    """
    return key in objects and column.ndim == 1 and column.dtype == torch.int64


def draw_rows(total: int, limit: int, seed: int) -> Tensor:
    """Draw rows: files are often sorted by class, so that their first rows would not do.

    Args:
        total: how many rows there are.
        limit: how many to draw.
        seed: of the draw.

    Returns:
        int64 (limit,), ascending.
    """
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:limit].sort().values
