"""Examples from a user's DataLoaders, Datasets or other iterables of dict batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Subset, default_collate

from collapsekit.config.imports import one_line
from collapsekit.data.base import Batch, Source, draw_rows, need_dense
from collapsekit.errors import CollapsekitError, DataError, NothingEvaluatedError, did_you_mean
from collapsekit.user_code.process_state import each_of


class LoaderSource(Source):
    """A mapping of split names to DataLoaders or Datasets that yield dicts, as the user's factory made it."""

    def __init__(self, loaders: Mapping[str, Any], origin: str) -> None:
        self.loaders, self.origin = dict(loaders), origin

    def splits(self) -> list[str]:
        return list(self.loaders)

    def length(self, split: str) -> int | None:
        loader = self.loaders[split]
        try:
            if isinstance(loader, Dataset):
                return None if isinstance(loader, IterableDataset) else len(loader)  # type: ignore[arg-type]
            return _length(loader) if type(loader) is DataLoader else None
        except Exception:  # noqa: BLE001 - a user's __len__ may do anything: it is read through, then
            return None

    def batches(self, split: str, keys: list[str], size: int, limit: int | None, seed: int) -> Iterator[Batch]:
        self.need(split)
        left = limit
        seen = 0
        for batch in self._iterate(split, size, limit, seed):
            if not isinstance(batch, Mapping):
                raise DataError(
                    f"{self.origin} split {split!r} yields {type(batch).__name__}, expected dict batches: "
                    "return dicts such as {'image': ..., 'audio': ..., 'label': ...}."
                )
            out = {k: _batch_value(batch, k, split, self.origin) for k in keys}
            if left is not None:
                out = {k: v[:left] for k, v in out.items()}
            lengths = {k: len(v) for k, v in out.items()}
            rows = next(iter(lengths.values()))
            if len(set(lengths.values())) > 1:
                raise DataError(
                    f"a batch of split {split!r} from {self.origin} has unequal numbers of rows: {lengths}."
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

    def _iterate(self, split: str, size: int, limit: int | None, seed: int) -> Iterator[Any]:
        """Batches as the user's loader gives them; a Dataset is batched here, ``limit`` examples drawn from all."""
        loader = self.loaders[split]
        try:
            if isinstance(loader, Dataset):
                total = len(loader) if not isinstance(loader, IterableDataset) else None  # type: ignore[arg-type]
                if limit is not None and total is not None and limit < total:
                    loader = Subset(loader, draw_rows(total, limit, seed).tolist())
                loader = DataLoader(loader, batch_size=size, collate_fn=default_collate)
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


def _length(loader: DataLoader[Any]) -> int | None:
    """Examples that a plain loader yields; None where its own code decides."""
    plain = type(loader.batch_sampler) is BatchSampler and loader.collate_fn is default_collate
    if not plain or loader.batch_size is None or isinstance(loader.dataset, IterableDataset):
        return None
    count = len(loader.sampler)  # type: ignore[arg-type]
    return count // loader.batch_size * loader.batch_size if loader.drop_last else count


def _need_all(loader: Any, count: int, what: str) -> None:
    """Raises DataError where a loader ended early: a StopIteration in a user's dataset passes for its end."""
    guessed = isinstance(getattr(loader, "dataset", None), IterableDataset)  # whose length may be anything
    if hasattr(loader, "__len__") and not guessed and count < len(loader):
        raise DataError(f"{what} gave {count} of its {len(loader)} batches: look for a StopIteration in its dataset.")


def _batch_value(batch: Mapping[str, Any], key: str, split: str, origin: str) -> Tensor:
    if key not in batch:
        raise DataError(
            f"a batch of split {split!r} from {origin} has no {key!r}{did_you_mean(key, batch)}: "
            f"it has {', '.join(map(str, batch))}."
        )
    try:
        value = torch.as_tensor(batch[key])
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"{key!r} in {origin} is {type(batch[key]).__name__}, expected a tensor or numbers.") from None
    need_dense(value, key, split, origin)
    if value.ndim == 0:
        raise DataError(f"{key!r} in a batch from {origin} is one number: give one row an example.")
    return value
