"""The fields of a first batch, whatever its structure is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from collapsekit.autoconfig.vocabulary import BESIDE, LABEL, words
from collapsekit.config.schema import Config
from collapsekit.data.arrays import ArraySource
from collapsekit.data.base import Batch, Source
from collapsekit.data.factory import batch_form
from collapsekit.data.loaders import LoaderSource
from collapsekit.data.memory import MemorySource
from collapsekit.data.paths import field_names, find_field, named_parts
from collapsekit.errors import CollapsekitError, DataError, NothingEvaluatedError

ROWS = 32  # that fields are looked at in
LABEL_ROWS = 512  # that labels are looked at in
MOST_FIELDS = 60  # as each is a bit of 64
_DEEP = 3  # structures within one another
_PARTS = 4  # of a pair, at most: (image, target), (image, mask, target)


@dataclass(frozen=True)
class FirstBatch:
    """What a split's first batch holds: the paths of its fields, and how many parts it has where it is a tuple."""

    split: str
    paths: tuple[str, ...]
    parts: int  # of a tuple; 0 for anything that has names
    examples: bool  # whether it is a list of examples that nobody collated
    loader: bool  # whether examples can be had before they are collated
    odd: dict[str, str] = field(default_factory=dict)  # fields without a row an example, and why


def is_label(name: str) -> bool:
    """Tell whether a field is called as labels are."""
    own = frozenset(words(name))
    return not LABEL.isdisjoint(own) and BESIDE.isdisjoint(own)


def choose_split(source: Source) -> str:
    """Return the split that a diagnosis reads. Raises NothingEvaluatedError without any."""
    return splits_in_order(source)[0]


def splits_in_order(source: Source) -> list[str]:
    """List the splits, the one that a diagnosis reads first. Raises NothingEvaluatedError without any."""
    there = source.splits()
    if not there:
        raise NothingEvaluatedError("the data has no splits: return {'train': ..., 'test': ...}.")
    return sorted(there, key=lambda name: ["test", "val"].index(name) if name in ("test", "val") else 2)


def look_at(source: Source, split: str, *, whole: bool = False) -> FirstBatch:
    """Look at the first batch of a split.

    Args:
        source: the data.
        split: which examples.
        whole: look at examples before they are collated.

    Returns:
        What is there.

    Raises:
        DataError: for a batch that has no fields.
    """
    inner = source.parts[split] if isinstance(source, MemorySource) else source
    if isinstance(inner, ArraySource):
        return FirstBatch(split, tuple(k for k, v in inner.arrays[split].items() if v.ndim), 0, False, False)
    if not isinstance(inner, LoaderSource):
        raise DataError(f"data of {type(inner).__name__} cannot be looked at: give a file, or a function of loaders.")
    batch = inner.first(split, ROWS)
    listed = isinstance(batch, list) and bool(batch) and (whole or inner.is_examples(batch))
    value = batch[0] if listed else batch
    parts = len(value) if isinstance(value, list | tuple) and not hasattr(value, "_fields") else 0
    rows = None if listed else _count_rows(value)
    paths = tuple(_paths(named_parts(value), "", rows, _DEEP))
    if not paths:
        raise DataError(
            f"the first batch of split {split!r} is {type(batch).__name__}, expected fields by name: return dicts such as "
            "{'image': ..., 'audio': ..., 'label': ...}."
        )
    odd = {} if listed else _of_other_lengths(named_parts(value), paths)
    paths = tuple(path for path in paths if path not in odd)
    return FirstBatch(split, paths, parts, listed, inner.has_examples(split), odd)


def _of_other_lengths(value: Any, paths: Sequence[str]) -> dict[str, str]:
    """Fields that have another number of rows than labels, or else than most fields, have."""
    held = {path: find_field(value, path) for path in paths}
    sizes = {k: len(v) for k, v in held.items() if isinstance(v, list | tuple) or bool(getattr(v, "ndim", False))}
    if not sizes:
        return {}
    labels = [size for path, size in sizes.items() if is_label(path)]
    rows = labels[0] if labels else Counter(sizes.values()).most_common(1)[0][0]
    return {k: f"it has {size} rows, and others have {rows}" for k, size in sizes.items() if size != rows}


def read_rows(source: Source, split: str, keys: Sequence[str], rows: int = ROWS) -> tuple[Batch, dict[str, str]]:
    """Read the first rows of fields.

    Args:
        source: the data.
        split: which examples.
        keys: the fields.
        rows: how many, at most.

    Returns:
        (n, ...) by key, of all fields that have a row an example, and why others were left out.

    Raises:
        DataError: where no field can be read.
    """
    try:
        return _first(source, split, keys, rows), {}
    except CollapsekitError:
        pass
    columns: dict[str, Tensor] = {}
    odd: dict[str, str] = {}
    for key in keys:
        try:
            columns |= next(iter(source.batches(split, [key], rows, None, 0)))
        except CollapsekitError as e:
            odd[key] = str(e)
    sizes = Counter(len(v) for v in columns.values())
    if not sizes:
        raise DataError(next(iter(odd.values()), f"split {split!r} has no fields."))
    usual = sizes.most_common(1)[0][0]
    odd |= {k: f"it has {len(v)} rows, and others have {usual}" for k, v in columns.items() if len(v) != usual}
    return _first(source, split, [k for k in keys if k not in odd], rows), odd


def reopened(source: Source, config: Config) -> Source:
    """Return the same data, read as a config says that batches are."""
    form = batch_form(config)
    if isinstance(source, LoaderSource):
        return LoaderSource(source.loaders, source.origin, form)
    if isinstance(source, MemorySource):
        return source.with_form(form)
    return source


def _first(source: Source, split: str, keys: Sequence[str], rows: int) -> Batch:
    """The first rows, of as many batches as it takes; of one where these are of several shapes."""
    taken: list[Batch] = []
    for batch in source.batches(split, list(keys), rows, rows, 0):
        if taken and any(batch[k].shape[1:] != taken[0][k].shape[1:] for k in keys):
            break
        taken.append(batch)
        if sum(len(one[keys[0]]) for one in taken) >= rows:
            break
    return {k: torch.cat([batch[k] for batch in taken])[:rows] for k in keys}


def _count_rows(value: Any) -> int | None:
    """How many examples a batch has: the length that most of its fields have."""
    votes = Counter[int]()
    whole = named_parts(value)
    for name in field_names(whole):
        part = find_field(whole, name)
        inside = list(part.values()) if isinstance(part, Mapping) else [*part, part] if _is_pair(part) else [part]
        for one in inside:
            if isinstance(one, list | tuple) or bool(getattr(one, "ndim", False)):
                votes[len(one)] += 1 if isinstance(one, list | tuple) else 2
    return votes.most_common(1)[0][0] if votes else None


def _is_pair(part: Any) -> bool:
    """Whether it is parts of examples side by side: a tuple, or the short list of tensors that torch's collating makes of
    one; a longer list is of a value an example."""
    if not isinstance(part, list):
        return isinstance(part, tuple)
    sized = [len(one) for one in part if isinstance(one, Tensor) and one.ndim]
    return 2 <= len(part) == len(sized) <= _PARTS and len(set(sized)) == 1


def _paths(value: Any, prefix: str, rows: int | None, deep: int) -> Iterator[str]:
    for name in field_names(value):
        part = find_field(value, name)
        path = f"{prefix}{name}"
        if deep and _is_structure(part, rows):
            yield from _paths(part, f"{path}.", rows, deep - 1)
        elif not callable(part) and (
            isinstance(part, list | tuple | str | int | float) or part is None or _sized(part)
        ):
            yield path


def _is_structure(part: Any, rows: int | None) -> bool:
    if isinstance(part, Mapping):
        return True
    if isinstance(part, list | tuple):
        return (
            rows is not None and len(part) != rows and any(getattr(one, "ndim", 0) and len(one) == rows for one in part)
        )
    held = getattr(part, "__dict__", None)
    return not _is_array(part) and bool(held) and any(isinstance(v, Tensor) for v in (held or {}).values())


def _sized(part: Any) -> bool:
    return isinstance(part, Tensor) or _is_array(part)


def _is_array(part: Any) -> bool:
    return hasattr(part, "__array__") or hasattr(part, "__array_interface__")  # the second: images of PIL
