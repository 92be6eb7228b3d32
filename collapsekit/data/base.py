"""Where examples come from: arrays in a file (memory-mapped), or a factory of DataLoaders or Datasets."""

from __future__ import annotations

import math
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, default_collate

from collapsekit.config.imports import import_callable, importable_from, one_line
from collapsekit.config.schema import Config
from collapsekit.errors import (
    CollapsekitError,
    ConfigError,
    DataError,
    NothingEvaluatedError,
    RefusedError,
    did_you_mean,
)
from collapsekit.user_code.process_state import each_of, user_code

SPLITS = ("train", "val", "test")
Batch = dict[str, Tensor]  # inputs by key, first axis the example


def need_split(split: str, there: Collection[str]) -> None:
    """Raises ConfigError where ``split`` is none of those that are there."""
    if split not in there:
        raise ConfigError(
            f"there is no split {split!r}{did_you_mean(split, there)}: "
            f"the data has {', '.join(there) or 'none'}; choose one with --split."
        )


def need_key(key: str, there: Collection[str], split: str, origin: str) -> None:
    """Raises DataError where a split's arrays do not have ``key``."""
    if key not in there:
        raise DataError(
            f"split {split!r} of {origin} has no {key!r}{did_you_mean(key, there)}: "
            f"it has {', '.join(there) or 'no arrays'} (arrays of text, or of another length than a `split` "
            "tensor, are left out)."
        )


def need_dense(value: Tensor, key: str, split: str, origin: str) -> Tensor:
    """The tensor. Raises DataError where it has no rows of numbers: sparse, nested, or without any."""
    odd = "nested" if value.is_nested else "on the meta device" if value.is_meta else None
    if odd is None and value.layout is not torch.strided:
        odd = str(value.layout).removeprefix("torch.")
    if odd is not None:
        raise DataError(
            f"{key!r} in split {split!r} of {origin} is a tensor that is {odd}: give dense ones, padded to one shape."
        )
    return value


class Source(ABC):
    """Named splits of dict batches; every value's first axis is the example."""

    @abstractmethod
    def splits(self) -> list[str]:
        """Names of the splits there are."""

    @abstractmethod
    def batches(self, split: str, keys: list[str], size: int, limit: int | None, seed: int) -> Iterator[Batch]:
        """Batches with exactly ``keys``, at most ``limit`` examples in all. Raises DataError."""

    def count(self, split: str) -> int | None:
        """Number of examples where it is known beforehand."""
        return None

    def sizes(self) -> dict[str, dict[str, int] | None]:
        """Bytes of every array by split and name; None for a split that says nothing before it is read."""
        return dict.fromkeys(self.splits())

    def need(self, split: str) -> None:
        """Raises ConfigError where ``split`` is not there."""
        need_split(split, self.splits())


class ArraySource(Source):
    """Arrays by split and name, as read from safetensors or npz; rows are taken where they lie."""

    def __init__(self, arrays: Mapping[str, Mapping[str, Tensor]], origin: str) -> None:
        self.arrays = {s: dict(a) for s, a in arrays.items()}
        self.origin = origin

    def splits(self) -> list[str]:
        return list(self.arrays)

    def sizes(self) -> dict[str, dict[str, int] | None]:
        return {s: {k: t.numel() * t.element_size() for k, t in held.items()} for s, held in self.arrays.items()}

    def count(self, split: str) -> int | None:
        return max((len(t) for t in self.arrays[split].values() if t.ndim), default=0)

    def batches(self, split: str, keys: list[str], size: int, limit: int | None, seed: int) -> Iterator[Batch]:
        self.need(split)
        there = self.arrays[split]
        for key in keys:
            need_key(key, there, split, self.origin)
            if there[key].ndim == 0:
                raise DataError(f"{key!r} in split {split!r} of {self.origin} is one number: give one row an example.")
        lengths = {k: len(there[k]) for k in keys}
        if len(set(lengths.values())) > 1:
            raise DataError(f"split {split!r} of {self.origin} has unequal numbers of examples: {lengths}.")
        total = next(iter(lengths.values()), 0)
        if total == 0:
            raise NothingEvaluatedError(f"split {split!r} of {self.origin} is empty: there is nothing to evaluate.")
        rows = None
        if limit is not None and limit < total:
            rows, total = _drawn(total, limit, seed), limit
        for start in range(0, total, size):
            stop = min(start + size, total)
            index = slice(start, stop) if rows is None else rows[start:stop]
            yield {k: there[k][index] for k in keys}


class LoaderSource(Source):
    """A mapping of split names to DataLoaders or Datasets that yield dicts, as the user's factory made it."""

    def __init__(self, loaders: Mapping[str, Any], origin: str) -> None:
        self.loaders, self.origin = dict(loaders), origin

    def splits(self) -> list[str]:
        return list(self.loaders)

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
                    loader = Subset(loader, _drawn(total, limit, seed).tolist())
                loader = DataLoader(loader, batch_size=size, collate_fn=default_collate)
            given = 0
            for given, batch in enumerate(each_of(loader, f"split {split!r} of {self.origin}"), 1):  # noqa: B007
                yield batch
            _need_all(loader, given, f"split {split!r} of {self.origin}")
        except CollapsekitError:
            raise
        except Exception as e:
            raise DataError(
                f"reading split {split!r} from {self.origin} failed: {one_line(e)}; it must be a DataLoader, a Dataset "
                "or another iterable of dict batches."
            ) from e


def _need_all(loader: Any, given: int, what: str) -> None:
    """Raises DataError where a loader ended early: a StopIteration in a user's dataset passes for its end."""
    guessed = isinstance(getattr(loader, "dataset", None), IterableDataset)  # whose length may be anything
    if hasattr(loader, "__len__") and not guessed and given < len(loader):
        raise DataError(f"{what} gave {given} of its {len(loader)} batches: look for a StopIteration in its dataset.")


def _drawn(total: int, limit: int, seed: int) -> Tensor:
    """``limit`` of ``total`` rows, ascending: files are often sorted by class, so rows are drawn, not cut."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:limit].sort().values


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


def need_one_origin(config: Config) -> None:
    """Raises ConfigError unless the config says in one way where the data lie."""
    if (config.data.path is None) == (config.data.factory is None):
        raise ConfigError(f"{config.origin} needs exactly one of data.path and data.factory.")


def make_source(config: Config) -> Source:
    """The source ``config.data`` names. Raises ConfigError, RefusedError."""
    need_one_origin(config)
    data = config.data
    if data.factory is not None:
        made = _call_factory(config)
        if not isinstance(made, Mapping):
            made = {s: getattr(made, s) for s in SPLITS if hasattr(made, s)}
        if not made:
            raise ConfigError(f"data.factory {data.factory!r} gave no splits: return {{'train': ..., 'test': ...}}.")
        return LoaderSource(made, data.factory)
    path = config.resolve(str(data.path))
    return ArraySource(by_split(read_arrays(path), path), path.name)


def _call_factory(config: Config) -> Any:
    spec, kwargs = str(config.data.factory), config.data.kwargs
    factory = import_callable(spec, config.base, "data.factory")
    try:
        with user_code(f"data.factory {spec!r}", stays=True), importable_from(config.base):
            return factory(**kwargs)
    except Exception as e:
        raise ConfigError(f"data.factory {spec!r} failed with data.kwargs {kwargs}: {one_line(e)}.") from e


def read_arrays(path: Path) -> dict[str, Tensor]:
    """Named arrays of a safetensors or npz file, memory-mapped where the file stores them plainly."""
    with reading_arrays(path) as is_npz:
        if is_npz:
            return {k: _as_tensor(v) for k, v in _read_npz(path).items() if v.dtype.kind in "biufc"}
        from safetensors import safe_open

        with safe_open(str(path), framework="pt", device="cpu") as file:
            return {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a mapping


@contextmanager
def reading_arrays(path: Path) -> Iterator[bool]:
    """Whether a file of arrays is an npz, else it is taken for safetensors; what reading it raises, in words."""
    from safetensors import SafetensorError

    if not path.is_file():
        raise ConfigError(f"data.path {path} is not a file: give a .safetensors or .npz file.")
    try:
        with path.open("rb") as f:
            head = f.read(4)
        yield head[:2] == b"PK"
    except SafetensorError as e:
        raise RefusedError(f"{path} is neither safetensors nor npz ({e}): convert it to one of them.") from None
    except CollapsekitError:
        raise
    except Exception as e:  # noqa: BLE001
        # Damaged bytes make zipfile, zlib, struct and NumPy raise almost anything.
        raise RefusedError(f"{path} cannot be read as arrays ({one_line(e)}): save it again.") from None


def _as_tensor(values: np.ndarray[Any, Any]) -> Tensor:
    """The array as a tensor, in the machine's byte order and a kind that torch can index."""
    if values.dtype.kind == "u" and values.dtype.itemsize > 1:
        values = values.astype(np.int64)
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    return torch.from_numpy(values)


def _read_npz(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Members of an npz; stored ones are mapped, compressed ones read. Object arrays are refused by NumPy."""
    out = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name == info.filename:  # no array
                continue
            if info.compress_type != zipfile.ZIP_STORED:
                with archive.open(info) as member:
                    out[name] = np.lib.format.read_array(member, allow_pickle=False)
                continue
            raw.seek(info.header_offset)
            name_len, extra_len = struct.unpack("<26xHH", raw.read(30))
            raw.seek(info.header_offset + 30 + name_len + extra_len)
            version = np.lib.format.read_magic(raw)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = header(raw)
            if dtype.hasobject:
                raise ValueError(f"array {name!r} holds Python objects, which are never loaded")
            size = math.prod(shape) * dtype.itemsize
            if size == 0:
                out[name] = np.empty(shape, dtype)
                continue
            # Copy-on-write: torch wants writable memory, the file stays as it is.
            mapped = np.memmap(path, dtype, "c", raw.tell(), shape, "F" if fortran else "C")
            out[name] = np.asarray(mapped)
    return out


def need_splits(names: Collection[str], path: Path) -> None:
    """Raises ConfigError where nothing in a file without SPLIT/NAME keys says which split its rows are of."""
    if "split" not in names:
        raise ConfigError(
            f"{path} has neither SPLIT/NAME keys (train/image, test/label, ...) nor a `split` tensor: "
            f"it has {', '.join(list(names)[:8]) or 'nothing'}."
        )


def by_split(arrays: Mapping[str, Tensor], path: Path) -> dict[str, dict[str, Tensor]]:
    """``SPLIT/NAME`` keys, or ``NAME`` beside a ``split`` tensor of 0/1/2, as arrays by split and name."""
    if any("/" in k for k in arrays):
        out: dict[str, dict[str, Tensor]] = {}
        for key, value in arrays.items():
            split, slash, name = key.partition("/")
            if slash:
                out.setdefault(split, {})[name] = value
        return out
    need_splits(arrays, path)
    which = arrays["split"]
    bad = [v for v in which.unique().tolist() if v not in (0, 1, 2)]
    if which.ndim != 1 or bad:
        found = f"shape {tuple(which.shape)}" if which.ndim != 1 else ", ".join(map(str, bad[:5]))
        raise ConfigError(
            f"the `split` tensor of {path} must hold 0 (train), 1 (val), 2 (test) an example, found {found}."
        )
    out = {}
    for number, split in enumerate(SPLITS):
        rows = (which == number).nonzero()[:, 0]
        if len(rows):
            named = {k: v for k, v in arrays.items() if k != "split" and v.ndim and len(v) == len(which)}
            out[split] = {k: v[rows] for k, v in named.items()}
    return out
