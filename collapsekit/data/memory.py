"""Data that diagnose() is handed instead of a config that says where it lies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from collapsekit.config.schema import Config
from collapsekit.data.arrays import ArraySource
from collapsekit.data.base import Batch, Source, need_dense
from collapsekit.data.factory import batch_form, loaders_of_module
from collapsekit.data.loaders import BatchForm, LoaderSource, is_dataset
from collapsekit.data.objects import ObjectStore
from collapsekit.errors import ConfigError, DataError
from collapsekit.user_code.frames import one_line

ORIGIN = "the data given"
SPLITS = "give {'train': ..., 'val': ..., 'test': ...}"

LISTS = "; a list of tensors or of text goes in a list of batches: [{'images': [...], ...}], not {'images': [...], ...}"


class MemorySource(Source):
    """Splits in memory, each read by a source of its own: a mapping of names to tensors, or what yields dict batches.

    Raises ConfigError for what is neither, DataError for values that are no numbers.
    """

    def __init__(self, data: Mapping[str, Any], form: BatchForm | None = None) -> None:
        self.data = data
        self.parts: dict[str, Source] = {}
        self.objects: dict[str, ObjectStore] = {}
        for split, held in data.items():
            for name in (split, *(held if isinstance(held, Mapping) else ())):
                if not isinstance(name, str):
                    raise ConfigError(f"{ORIGIN} has the key {name!r}, expected text: {SPLITS}, each by names.")
            if isinstance(held, Mapping):
                self.parts[split] = ArraySource({split: {k: _tensor(v, k, split) for k, v in held.items()}}, ORIGIN)
            elif (is_dataset(held) or isinstance(held, Iterable)) and not isinstance(
                held, Tensor | np.ndarray | str | bytes
            ):
                self.parts[split] = LoaderSource({split: held}, ORIGIN, form, self.objects)
            else:
                raise ConfigError(
                    f"{ORIGIN} has {type(held).__name__} as split {split!r}, expected a mapping of names to tensors, a "
                    f"DataLoader, a Dataset or another iterable of dict batches: {SPLITS}."
                )

    def splits(self) -> list[str]:
        return list(self.parts)

    def with_form(self, form: BatchForm) -> MemorySource:
        """Return the same splits, their batches read in another way."""
        return MemorySource(self.data, form)

    @property
    def collate(self) -> Callable[[list[Any]], Any] | None:  # type: ignore[override]
        """What makes a batch of examples."""
        loaders = [part for part in self.parts.values() if isinstance(part, LoaderSource)]
        return loaders[-1].collate if loaders else None

    def ragged(self, key: str) -> ObjectStore | None:
        loaders = [part for part in self.parts.values() if isinstance(part, LoaderSource)]
        return loaders[0].ragged(key) if loaders else None

    def sizes(self) -> dict[str, dict[str, int] | None]:
        return {split: part.sizes()[split] for split, part in self.parts.items()}

    def count(self, split: str) -> int | None:
        return self.parts[split].count(split)

    def length(self, split: str) -> int | None:
        return self.parts[split].length(split)

    def batches(self, split: str, keys: list[str], size: int, limit: int | None, seed: int) -> Iterator[Batch]:
        self.need(split)
        yield from self.parts[split].batches(split, keys, size, limit, seed)


def with_data(config: Config, data: Mapping[str, Any] | str | Path | None) -> tuple[Config, Source | None]:
    """Return the config with ``data`` in the place of its own, and the source it is where it lies in memory.

    ``data``: splits in memory (see ``MemorySource``), a LightningDataModule, the path of a file, or None for what the config
    names. Raises ConfigError, DataError.
    """
    if data is None:
        return config, None
    data = loaders_of_module(data, ORIGIN)
    own: dict[str, Any] = {"path": None, "factory": None, "kwargs": {}}
    source = None
    if isinstance(data, str | Path):
        own["path"] = str(Path.cwd() / data)
    elif isinstance(data, Mapping) and data:
        source = MemorySource(data, batch_form(config))
    else:
        found = "no splits" if isinstance(data, Mapping) else type(data).__name__
        raise ConfigError(f"{ORIGIN} is {found}, expected a mapping of splits or the path of a file: {SPLITS}.")
    return config.model_copy(update={"data": config.data.model_copy(update=own)}), source


def _tensor(value: Any, key: str, split: str) -> Tensor:
    try:
        # torch.as_tensor would copy a tensor to a default device that somebody chose.
        return need_dense(value if isinstance(value, Tensor) else torch.as_tensor(value), key, split, ORIGIN)
    except (TypeError, ValueError, RuntimeError) as e:
        raise DataError(
            f"{key!r} in split {split!r} of {ORIGIN} is {type(value).__name__} that is no tensor ({one_line(e)}): give "
            f"numbers, one row an example{LISTS if isinstance(value, list | tuple) else ''}."
        ) from None
