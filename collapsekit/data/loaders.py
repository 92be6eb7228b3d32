"""Examples from a user's DataLoaders, Datasets or other iterables of dict batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Subset, default_collate

from collapsekit.data.base import EXAMPLE, Batch, MissingFieldError, Source, draw_rows, need_dense
from collapsekit.data.objects import Form, ObjectStore, unpad_rows
from collapsekit.data.paths import MISSING, field_names, find_field, named_parts
from collapsekit.errors import CollapsekitError, DataError, NothingEvaluatedError, did_you_mean
from collapsekit.user_code.frames import one_line
from collapsekit.user_code.process_state import each_of


@dataclass(frozen=True)
class BatchForm:
    """What a config says of a loader's batches."""

    names: tuple[str, ...] = ()  # of the parts of a tuple, in order
    examples: bool = False  # whether modalities are exchanged before examples are collated
    padding: Mapping[str, float] = field(default_factory=dict)  # what ragged fields are filled up with, 0 by default
    label: str = "label"  # which field the targets are


ONE = ", beside `model: {one_by_one: true}` where the model takes one example at a time"


class LoaderSource(Source):
    """A mapping of split names to DataLoaders, Datasets or other iterables of batches, as the user's factory made it.

    A field is found in a batch by its path; where its values are text, None, or tensors of several shapes, they are kept as
    they are."""

    def __init__(
        self,
        loaders: Mapping[str, Any],
        origin: str,
        form: BatchForm | None = None,
        objects: dict[str, ObjectStore] | None = None,
    ) -> None:
        """``form``: what the config says of batches; ``objects``: where values that do not stack are kept, of all splits."""
        self.loaders, self.origin, self.form = dict(loaders), origin, form or BatchForm()
        self.objects: dict[str, ObjectStore] = {} if objects is None else objects
        self.collate: Callable[[list[Any]], Any] = default_collate  # what makes a batch of examples

    def ragged(self, key: str) -> ObjectStore | None:
        return self._store(key, "padded")

    def splits(self) -> list[str]:
        return list(self.loaders)

    def length(self, split: str) -> int | None:
        loader = self.loaders[split]
        try:
            if is_dataset(loader):
                return None if isinstance(loader, IterableDataset) else len(loader)
            return _length(loader) if type(loader) is DataLoader else None
        except Exception:  # noqa: BLE001 - a user's __len__ may do anything: it is read through, then
            return None

    def batches(self, split: str, keys: list[str], size: int, limit: int | None, seed: int) -> Iterator[Batch]:
        self.need(split)
        left = limit
        seen = 0
        for batch in self._iterate(split, size, limit, seed):
            out = self._columns(batch, keys, split)
            if left is not None:
                out = {k: v[:left] for k, v in out.items()}
            lengths = {k: len(v) for k, v in out.items()}
            rows = next(iter(lengths.values()))
            if len(set(lengths.values())) > 1:
                raise DataError(
                    f"a batch of split {split!r} from {self.origin} has unequal numbers of rows: {lengths}; "
                    f"{_why_unequal(batch, keys, self.form.names)}{ONE if 1 in lengths.values() else ''}."
                )
            if rows == 0:
                continue
            seen += rows
            yield out
            if left is not None:
                left -= rows
                if left <= 0:
                    break
        if seen == 0:
            raise NothingEvaluatedError(f"split {split!r} of {self.origin} is empty: there is nothing to evaluate.")

    def first(self, split: str, size: int) -> Any:
        """Return the first batch of a split as the user's code makes it, of at most ``size`` examples where it is made here.

        Raises DataError, NothingEvaluatedError.
        """
        self.need(split)
        for batch in self._iterate(split, size, None, 0):
            return batch
        raise NothingEvaluatedError(f"split {split!r} of {self.origin} is empty: there is nothing to evaluate.")

    def has_examples(self, split: str) -> bool:
        """Tell whether examples of a split can be had before they are collated."""
        loader = self.loaders[split]
        return is_dataset(loader) or (isinstance(loader, DataLoader) and loader.batch_sampler is not None)

    def _columns(self, batch: Any, keys: Sequence[str], split: str) -> Batch:
        """One tensor a field, (rows, ...); of values that do not stack their hashes. Raises DataError."""
        values, alone = self._values(batch, keys, split), self.is_examples(batch)
        rows, out = _count_rows(values), {}
        for key, value in values.items():
            apart = value is None or key in self.objects or key == EXAMPLE
            dense = None if apart else _dense(value, key, split, self.origin)
            if dense is None and rows is not None and self._may_be_kept(value):
                dense = self._kept(key, value, rows, alone=alone)
            if dense is None:
                raise DataError(f"{key!r} in {self.origin} is {type(value).__name__}, expected a tensor or numbers.")
            out[key] = dense
        return out

    def _values(self, batch: Any, keys: Sequence[str], split: str) -> dict[str, Any]:
        """The fields of a batch, or of a list of examples, as they are."""
        if self.is_examples(batch):
            parts = [named_parts(one, self.form.names) for one in batch]
            collated = self._collated_labels(batch) if self.form.examples and self.form.label in keys else {}
            listed = {
                k: batch if k == EXAMPLE else [find_field(one, k) for one in parts] for k in keys if k not in collated
            }
            absent = next((k for k, values in listed.items() if any(v is MISSING for v in values)), None)
            found = {k: values if k == EXAMPLE else _stacked(values) for k, values in listed.items()} | collated
            there: Any = parts[0]
        else:
            there = named_parts(batch, self.form.names)
            if isinstance(there, Tensor | str | bytes | int | float) or there is None:
                raise DataError(
                    f"{self.origin} split {split!r} yields {type(batch).__name__}, expected dict batches: "
                    "return dicts such as {'image': ..., 'audio': ..., 'label': ...}; tensors of all examples go into a "
                    "TensorDataset(audio, image, label), with `batch: [audio, image, label]`."
                )
            found = {k: find_field(there, k) for k in keys}
            absent = next((k for k, value in found.items() if value is MISSING), None)
        if absent == EXAMPLE:
            raise DataError(
                f"{self.origin} split {split!r} yields {type(batch).__name__}, batches that are collated already: "
                "`data: {edit: examples}` exchanges modalities before that, so hand over the DataLoader itself, with its "
                "collate_fn."
            )
        if absent is not None:
            raise self._lacks(absent, there, batch, split)
        return found

    def _lacks(self, absent: str, there: Any, batch: Any, split: str) -> MissingFieldError:
        names = list(map(str, there)) if isinstance(there, Mapping) else field_names(there)
        one = batch[0] if self.is_examples(batch) else batch
        unnamed = max(0, len(one) - len(self.form.names)) if isinstance(one, list | tuple) else 0
        found = f"a batch of split {split!r} from {self.origin} has no {absent!r}{did_you_mean(absent, names)}: it has"
        return MissingFieldError(f"{found} {', '.join(names)}", absent, names, unnamed)

    def _collated_labels(self, examples: list[Any]) -> dict[str, Tensor]:
        """The targets that the collate_fn makes of examples, by their field; nothing where it makes none."""
        labels = find_field(named_parts(self.collate(examples), self.form.names), self.form.label)
        one_each = isinstance(labels, Tensor) and labels.ndim > 0 and len(labels) == len(examples)
        return {self.form.label: labels} if one_each else {}

    def is_examples(self, batch: Any) -> bool:
        """Tell whether a batch is a list of examples, which nobody collated."""
        if not isinstance(batch, list) or not batch:
            return False
        return self.form.examples or isinstance(batch, Uncollated) or all(isinstance(one, Mapping) for one in batch)

    def _uncollated(self, loader: DataLoader[Any]) -> DataLoader[Any]:
        """The same batches as lists of examples. Raises DataError for a loader that makes no batches itself."""
        if loader.batch_sampler is None:
            raise DataError(
                f"a loader of {self.origin} has batch_size=None, so it has no examples before they are collated: leave "
                "`data.edit` out, or give the loader a batch_size."
            )
        self.collate = default_collate if loader.collate_fn is _collate else loader.collate_fn
        if isinstance(loader.dataset, IterableDataset):
            return DataLoader(loader.dataset, batch_size=loader.batch_size, collate_fn=list)
        return DataLoader(loader.dataset, batch_sampler=loader.batch_sampler, collate_fn=list)

    @staticmethod
    def _may_be_kept(value: Any) -> bool:
        return value is None or isinstance(value, list | tuple | Tensor) or hasattr(value, "__array__")

    def _kept(self, key: str, value: Any, rows: int, *, alone: bool) -> Tensor:
        """Keep the values of a field, and give their hashes; ``alone``: of examples that came one by one."""
        if isinstance(value, Tensor) or (hasattr(value, "__array__") and not isinstance(value, list | tuple)):
            store = self._store(key, "padded")
            return store.add(unpad_rows(torch.as_tensor(value), store.padding))
        if value is None:
            store = self._store(key, None)
            store.whole = True
            return store.add([None] * rows)
        stacks = alone and key != EXAMPLE and all(v is None or isinstance(v, Tensor) for v in value)
        return self._store(key, "padded" if stacks else "list").add(list(value))

    def _store(self, key: str, form: Form | None) -> ObjectStore:
        if key not in self.objects:
            self.objects[key] = ObjectStore(key, form, self.form.padding.get(key, 0.0))
        self.objects[key].form = self.objects[key].form or form
        return self.objects[key]

    def _iterate(self, split: str, size: int, limit: int | None, seed: int) -> Iterator[Any]:
        """Batches as the user's loader gives them; a Dataset is batched here, ``limit`` examples drawn from all."""
        loader = self.loaders[split]
        try:
            if is_dataset(loader):
                total = len(loader) if not isinstance(loader, IterableDataset) else None
                if limit is not None and total is not None and limit < total:
                    loader = Subset(loader, draw_rows(total, limit, seed).tolist())
                loader = DataLoader(loader, batch_size=size, collate_fn=_collate)
            if self.form.examples and isinstance(loader, DataLoader):
                loader = self._uncollated(loader)
            count = 0
            for count, batch in enumerate(each_of(loader, f"split {split!r} of {self.origin}"), 1):  # noqa: B007
                yield batch
            _need_all(loader, count, f"split {split!r} of {self.origin}")
        except CollapsekitError:
            raise
        except Exception as e:
            raise DataError(
                f"reading split {split!r} from {self.origin} failed: {one_line(e)}; it must be a DataLoader, a Dataset "
                "or another iterable of dict batches."
            ) from e


def _why_unequal(batch: Any, keys: Sequence[str], names: Sequence[str]) -> str:
    """What to do where fields of a batch have unequal numbers of rows."""
    fields = named_parts(batch, names)
    lists = [k for k in keys if type(found := find_field(fields, k)) is list and found and _are_columns(found)]
    if lists:
        return (
            f"{', '.join(lists)} came as a list of columns, which torch's default collate_fn makes of lists of numbers: let "
            "examples hold tensors (a datasets.Dataset: `.with_format('torch')`), or hand over the Dataset itself"
        )
    return (
        "fields whose rows are parts of examples, such as nodes of graphs, are exchanged before they are collated with "
        "`data: {edit: examples}`"
    )


def _are_columns(values: list[Any]) -> bool:
    return all(isinstance(v, Tensor) and v.ndim == 1 for v in values) and len({len(v) for v in values}) == 1


def is_dataset(loader: Any) -> bool:
    """Tell whether it has examples by number, or yields them one by one. torch's own loaders ask for several at once by
    `__getitems__`, which no iterable of batches has: so a `datasets.Dataset` is told, which is no class of torch's."""
    return isinstance(loader, Dataset) or (hasattr(type(loader), "__getitems__") and hasattr(type(loader), "__len__"))


def _length(loader: DataLoader[Any]) -> int | None:
    """Examples that a plain loader yields; None where its own code decides."""
    plain = type(loader.batch_sampler) is BatchSampler and loader.collate_fn in (default_collate, _collate)
    if not plain or loader.batch_size is None or isinstance(loader.dataset, IterableDataset):
        return None
    count = len(loader.sampler)  # type: ignore[arg-type]
    return count // loader.batch_size * loader.batch_size if loader.drop_last else count


def _need_all(loader: Any, count: int, what: str) -> None:
    """Raises DataError where a loader ended early: a StopIteration in a user's dataset passes for its end."""
    guessed = isinstance(getattr(loader, "dataset", None), IterableDataset)  # whose length may be anything
    if hasattr(loader, "__len__") and not guessed and count < len(loader):
        raise DataError(f"{what} gave {count} of its {len(loader)} batches: look for a StopIteration in its dataset.")


def _count_rows(values: Mapping[str, Any]) -> int | None:
    """How many examples a batch has: the length of its first field that has one."""
    lengths = (len(v) for v in values.values() if isinstance(v, list | tuple) or getattr(v, "ndim", None))
    return next(lengths, None)


class Uncollated(list[Any]):
    """A batch that is a list of examples, as they do not stack: ragged ones, images of PIL, text in tuples."""


def _collate(examples: list[Any]) -> Any:
    """Collate examples as torch does by default, lists of numbers as tensors; what does not stack stays a list."""
    ready = [_with_tensors(one) for one in examples]
    try:
        return default_collate(ready)
    except (TypeError, RuntimeError):
        if not all(isinstance(one, Mapping | list | tuple) for one in ready):
            raise
        return Uncollated(ready)


def _with_tensors(example: Any) -> Any:
    """An example whose lists of numbers are tensors: torch would take each place of them for a field of its own."""
    if type(example) is dict:
        return {k: _as_numbers(v) for k, v in example.items()}
    if type(example) in (list, tuple):
        return type(example)(map(_as_numbers, example))
    return example


def _as_numbers(value: Any) -> Any:
    if type(value) is not list or not value:
        return value
    try:
        array = np.asarray(value)
    except ValueError:  # of several lengths
        return value
    if array.dtype.kind not in "biuf" or not all(type(one) in (bool, int, float, list) for one in value):
        return value
    tensor = torch.from_numpy(array)
    return tensor.to(torch.get_default_dtype()) if array.dtype.kind == "f" else tensor


def _stacked(values: list[Any]) -> Any:
    """Tensors of one shape as one tensor; else the list."""
    if all(isinstance(v, Tensor) for v in values) and len({v.shape for v in values}) == 1:
        return torch.stack(values)
    if all(isinstance(v, np.ndarray) for v in values) and len({v.shape for v in values}) == 1:
        return np.stack(values)
    return values


def _dense(value: Any, key: str, split: str, origin: str) -> Tensor | None:
    """A field as one tensor, one row an example; None where it is none. Raises DataError for one of no use."""
    try:
        dense = value if isinstance(value, Tensor) else torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    need_dense(dense, key, split, origin)
    if dense.ndim == 0:
        raise DataError(f"{key!r} in a batch from {origin} is one number: give one row an example.")
    return dense
