"""Arrays in a safetensors or npz file, or one that torch.save wrote, memory-mapped, as splits of examples."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from collapsekit.checkpoint.read import read_checkpoint
from collapsekit.data.base import SPLITS, Batch, Source, draw_rows, need_key
from collapsekit.errors import CollapsekitError, ConfigError, DataError, NothingEvaluatedError, RefusedError
from collapsekit.io.safe_text import inline
from collapsekit.user_code.frames import one_line

FOLDER = " A folder of files is read by a function of yours: name it as data.factory (docs/data.md has some)."


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
            rows, total = draw_rows(total, limit, seed), limit
        for start in range(0, total, size):
            stop = min(start + size, total)
            index = slice(start, stop) if rows is None else rows[start:stop]
            yield {k: there[k][index] for k in keys}


def read_arrays(path: Path) -> dict[str, Tensor]:
    """Read the arrays (n, ...) of a file by name, memory-mapped where the file stores them plainly."""
    with reading_arrays(path) as is_npz:
        if is_npz:
            if is_torch_file(path):
                return read_torch_file(path)
            read = {k: split_numbers(v, path) if k == "split" else v for k, v in _read_npz(path).items()}
            return {k: _as_tensor(v) for k, v in read.items() if v.dtype.kind in "biufc"}
        from safetensors import safe_open

        with safe_open(str(path), framework="pt", device="cpu") as file:
            return {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a mapping


def is_torch_file(path: Path) -> bool:
    """Tell a zip that torch.save wrote from an npz."""
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """Read what torch.save wrote of a dict of tensors (n, ...), by splits or flat; as of a checkpoint, nothing is run."""
    tensors = read_checkpoint(path).tensors
    nested = {k: k.partition(".") for k in tensors}
    if all(split in SPLITS and name for split, _, name in nested.values()):
        return {f"{split}/{name}": tensors[k] for k, (split, _, name) in nested.items()}
    return tensors


def split_numbers(which: np.ndarray[Any, Any], path: Path) -> np.ndarray[Any, Any]:
    """Return a `split` array (n,) as numbers, 0 (train), 1 (val), 2 (test), where it is these words. Raises ConfigError."""
    if which.dtype.kind not in "SU":
        return which
    places = {word: place for place, word in enumerate(SPLITS)}
    words, back = np.unique(which.astype(str), return_inverse=True)
    unknown = [inline(str(word), 40) for word in words if word not in places]
    if unknown:
        raise ConfigError(
            f"the `split` array of {path} must hold {', '.join(SPLITS)}, or 0, 1, 2, for each example, found "
            f"{', '.join(unknown[:5])}: rename these."
        )
    return np.array([places[str(word)] for word in words], np.int64)[back].reshape(which.shape)


@contextmanager
def reading_arrays(path: Path) -> Iterator[bool]:
    """Open a file of arrays, and say whether it is an npz; else it is taken for safetensors.

    What reading it raises becomes a ConfigError or RefusedError that says what to do.
    """
    from safetensors import SafetensorError

    if not path.is_file():
        raise ConfigError(
            f"data.path {path} is not a file: give a .safetensors, .npz or .pt file.{FOLDER * path.is_dir()}"
        )
    try:
        with path.open("rb") as f:
            head = f.read(4)
        yield head[:2] == b"PK"
    except SafetensorError as e:
        raise RefusedError(
            f"{path} is neither safetensors nor npz, nor of torch.save ({e}): {_instead(path)}."
        ) from None
    except CollapsekitError:
        raise
    except Exception as e:  # noqa: BLE001
        # Damaged bytes make zipfile, zlib, struct and NumPy raise almost anything.
        raise RefusedError(f"{path} cannot be read as arrays ({one_line(e)}): save it again.") from None


def _instead(path: Path) -> str:
    """What to do with a file of another kind."""
    with path.open("rb") as f:
        head = f.read(4)
    if head == b"PAR1":
        return "it is Parquet: a function of yours that reads it goes into data.factory, as docs/data.md shows"
    return "convert it to one of them"


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
    """Raise ConfigError where nothing in a file without SPLIT/NAME keys says which split its rows are of."""
    if "split" not in names:
        raise ConfigError(
            f"{path} has neither SPLIT/NAME keys (train/image, test/label, ...) nor a `split` tensor: "
            f"it has {', '.join(list(names)[:8]) or 'nothing'}."
        )


def by_split(arrays: Mapping[str, Tensor], path: Path) -> dict[str, dict[str, Tensor]]:
    """Sort arrays (n, ...) by split and name: of ``SPLIT/NAME`` keys, or ``NAME`` beside a ``split`` (n,) of 0/1/2."""
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
