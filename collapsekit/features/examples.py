"""The examples of every split, read once, in an order that follows their content."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.adapters.build import seed_everything
from collapsekit.adapters.live.hints import explain_missing
from collapsekit.adapters.validate import finite_inputs
from collapsekit.data.base import SPLITS, Batch, MissingFieldError, is_stored
from collapsekit.data.contents import canonical
from collapsekit.data.objects import unpad_rows
from collapsekit.distributed.process_group import current
from collapsekit.errors import CollapsekitError, DataError, NothingEvaluatedError
from collapsekit.features.labels import close_up, pad_labels, reach_alike
from collapsekit.io.spill import SpillBuffer, SpillColumn


@dataclass(frozen=True)
class Examples:
    """n examples of a split in canonical order, on the CPU."""

    split: str
    columns: Batch  # inputs, labels, units, predictions (n, ...)
    order: Tensor  # the place of each in the data (n,)
    digest: str  # of inputs and targets
    ids: Tensor  # of each example's inputs and target, a hash of 63 bits (n,)
    contents: Tensor  # of each example's inputs alone, such a hash (n,)


class SplitReader:
    """Reads each split once, whatever models then look at it."""

    def __init__(self, adapter: Adapter, limit: int | None, seed: int, storage: SpillBuffer) -> None:
        self.adapter, self.limit, self.seed, self.storage = adapter, limit, seed, storage
        self._read: dict[str, Examples] = {}
        self._others = False  # whether other splits were read along

    @property
    def columns(self) -> list[str]:
        """Names of what is read of each example."""
        return columns_of(self.adapter)

    def of(self, split: str) -> Examples:
        """Return the examples of a split. Raises DataError, ConfigError, NothingEvaluatedError."""
        if split not in self._read:
            self._read[split] = self._sorted(split)
            self._read_others()
        return self._read[split]

    def _read_others(self) -> None:
        """Read what readouts are fitted on as well, where values do not stack: what describes these follows from all of
        them, and is to be the same in all splits. A split that cannot be read is told of where it is needed."""
        source = self.adapter.source
        for split in SPLITS if source.objects and not self._others else ():
            self._others = True
            if split not in self._read and split in source.splits():
                with suppress(CollapsekitError):
                    self._read[split] = self._sorted(split)

    def _sorted(self, split: str) -> Examples:
        adapter, config = self.adapter, self.adapter.config
        inputs = self._columns(split)
        beside = {config.data.group, config.data.category, *config.data.match, *predictions_of(adapter).values()}
        hashed = {k: v for k, v in inputs.items() if k not in beside or k in {*adapter.batch_keys, config.data.label}}
        order, digest, ids, contents = canonical(hashed, set(adapter.batch_keys) - {config.data.label})
        del hashed
        # Sorted before they are encoded: which rows share a batch does not depend on the file's order either.
        inputs = {k: self.storage.taken(inputs.pop(k), order) for k in list(inputs)}
        current().assert_same(digest, f"examples of split {split!r}")
        inputs |= adapter.fields.split(inputs)
        return Examples(split, inputs, order, digest, ids, contents)

    def _columns(self, split: str) -> Batch:
        """Every example of the split as the data gives them, in its order, on the CPU."""
        adapter = self.adapter
        columns = {k: self.storage.column() for k in self.columns}
        done = 0
        seed_everything(self.seed)  # a loader that shuffles draws its order from here
        for batch in self._batches(split, list(columns)):
            finite_inputs(_without_gaps(adapter, batch), split, done, adapter.fields.owned)
            self._need_numbers(split, batch)
            self._take_labels(columns, batch)
            for key in columns:
                if columns[key].shape not in (None, batch[key].shape[1:]):
                    self._keep_apart(split, key, columns, batch)
                columns[key].append(batch[key])
            done += len(batch[next(iter(columns))])
        if not done:
            raise NothingEvaluatedError(f"split {split!r} is empty: there is nothing to evaluate.")
        return {k: column.tensor() for k, column in columns.items()}

    def _batches(self, split: str, columns: list[str]) -> Iterator[Batch]:
        source, size = self.adapter.source, self.adapter.config.data.batch_size
        try:
            yield from source.batches(split, columns, size, self.limit, self.seed)
        except MissingFieldError as e:
            raise explain_missing(self.adapter.config, self.adapter.model, e) from None

    def _take_labels(self, columns: dict[str, SpillColumn], batch: Batch) -> None:
        """Let labels of sequences that end elsewhere in each batch be of one length: -100 is no target."""
        label = self.adapter.config.data.label
        if label not in batch or label in self.adapter.batch_keys:
            return
        if self.adapter.config.data.edit == "examples" and self.adapter.task.needs_targets:
            batch[label] = close_up(batch[label])
        shape = columns[label].shape
        if shape is None or not reach_alike(shape, batch[label]):
            return
        width = max(shape[0], batch[label].shape[1])
        batch[label] = pad_labels(batch[label], width)
        if shape[0] < width:
            before = columns[label].tensor()
            columns[label] = self.storage.column()
            columns[label].append(pad_labels(before, width))

    def _need_numbers(self, split: str, batch: Batch) -> None:
        """Raise DataError where labels or units do not stack, such as text."""
        data = self.adapter.config.data
        apart = self.adapter.source.objects.keys() - {*self.adapter.fields.read, *data.match, data.category}
        for key in sorted(batch.keys() & apart):
            raise DataError(
                f"{key!r} in split {split!r} is text, None or of several shapes, expected numbers of one shape: give each "
                "class or unit a number, and pad labels."
            )

    def _keep_apart(self, split: str, key: str, columns: dict[str, SpillColumn], batch: Batch) -> None:
        """From here on keep the values of a field by themselves, whose rows differ in shape. Raises DataError where they may
        not."""
        found, shape = columns[key].shape, tuple(batch[key].shape[1:])
        source = self.adapter.source
        store = source.ragged(key) if key in self.adapter.fields.read else None
        if store is None:
            raise DataError(
                f"examples of {key!r} in split {split!r} have shape {found} in one batch and {shape} in another: pad all "
                "examples to one shape, and name the padding mask with `mask` or `data.also`."
            )
        before = columns[key].tensor()
        columns[key] = self.storage.column()
        columns[key].append(store.add(unpad_rows(before, store.padding)))
        if not is_stored(source.objects, key, batch[key]):
            batch[key] = store.add(unpad_rows(batch[key], store.padding))


def _without_gaps(adapter: Adapter, batch: Batch) -> Batch:
    """A batch in which labels that are NaN are filled, where the task leaves these out and the model does not read them."""
    label = adapter.config.data.label
    if not adapter.task.gaps or label in adapter.batch_keys or label not in batch:
        return batch
    labels = batch[label]
    return {**batch, label: torch.where(labels.isnan(), 0.0, labels) if labels.is_floating_point() else labels}


def columns_of(adapter: Adapter) -> list[str]:
    """List the names of what is read of each example for this model: its inputs, labels, units, predictions of single
    modalities."""
    data = adapter.config.data
    besides = [
        *([data.label] if adapter.task.has_labels else []),
        *filter(None, [data.group, data.category]),
        *data.match,
    ]
    return list(dict.fromkeys([*adapter.fields.read, *besides, *predictions_of(adapter).values()]))


def predictions_of(adapter: Adapter) -> dict[str, str]:
    """Find the names of what the user's own models of one modality predict, by modality."""
    sections = adapter.config.modalities
    return {m: s.predictions for m, s in sections.items() if m in adapter.modalities and s.predictions is not None}
