"""Tensors in shards: files of rows, each written by who holds them, and an index in JSON that says where each row lies.

Safetensors and JSON alone, so that reading one executes nothing: the index of torch.distributed.checkpoint is a pickle.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from collapsekit.io.files import read_text, write_atomic

INDEX = ".index.json"
LARGEST = 2**26  # bytes of an index
_SHARD = re.compile(r"[\w.]{1,64}-\d{5}-of-\d{5}\.safetensors")
DTYPES = {str(kind): kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)}
_Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Rows:
    """Some rows of a tensor: (r, ...) of ``shape``, from row ``start`` on; of a scalar it is the whole."""

    value: Tensor
    start: int
    shape: tuple[int, ...]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class RowRange(_Strict):
    """Which rows of a tensor a shard holds."""

    shard: _Count
    start: _Count
    rows: _Count


class TensorPlace(_Strict):
    """Where the rows of a tensor lie."""

    dtype: str
    shape: list[_Count]
    pieces: list[RowRange]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """Its numbers are of a kind that torch has, and every row lies in one piece, in their order."""
        if self.dtype not in DTYPES:
            raise ValueError("a tensor has no known dtype")
        if not self.shape and len(self.pieces) != 1:
            raise ValueError("a scalar has one place")
        reached = 0
        for piece in self.pieces:
            if piece.start != reached:
                raise ValueError("rows are missing, or there twice")
            reached += piece.rows
        if reached != (self.shape[0] if self.shape else 1):
            raise ValueError("rows are missing")
        return self


class ShardFile(_Strict):
    """A shard: its file beside the index, and the digest of what it holds."""

    file: str
    sha256: str


class ShardIndex(_Strict):
    """What is written in the index, beside the digest of it."""

    metadata: dict[str, str]
    shards: list[ShardFile]
    tensors: dict[str, TensorPlace]

    @model_validator(mode="after")
    def _inside(self) -> Self:
        """Shards lie beside the index, and pieces in them."""
        if not all(_SHARD.fullmatch(shard.file) for shard in self.shards):
            raise ValueError("a shard's file has another name than shards have")
        places = (piece.shard for place in self.tensors.values() for piece in place.pieces)
        if max(places, default=0) >= max(1, len(self.shards)):
            raise ValueError("a piece lies in a shard that is not there")
        return self


def digest_of(tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, str]) -> str:
    """Compute the SHA-256 of tensors of any shape, which have to come in the order of their names, and of what is said of
    them."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True, allow_nan=False).encode())
    for name, value in tensors:
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)], allow_nan=False).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def need_regular(path: Path) -> None:
    """Raise OSError where ``path`` is no regular file: opening a pipe would wait for a writer for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("it is not a regular file")


def shard_name(stem: str, rank: int, size: int) -> str:
    """Name the file of a shard.

    Args:
        stem: what all of them begin with.
        rank: which one, from 0.
        size: how many there are.

    Returns:
        The name.
    """
    return f"{stem}-{rank:05d}-of-{size:05d}.safetensors"


def write_shard(path: Path, parts: Mapping[str, Rows], metadata: Mapping[str, str]) -> tuple[ShardFile, dict[str, Any]]:
    """Write one shard, whole or not at all.

    Args:
        path: of its file, as shard_name has it.
        parts: the rows that it holds, by name, on the CPU.
        metadata: what is said of all shards.

    Returns:
        The shard, and of each tensor its dtype, its shape, and the first of its rows and their number.

    Raises:
        ConfigError: where it cannot be written.
    """
    plain = {k: parts[k].value.contiguous() for k in sorted(parts)}
    digest = digest_of(plain.items(), metadata)
    write_atomic(path, save(plain, {**metadata, "sha256": digest}))
    rows = {k: (str(v.dtype), parts[k].shape, parts[k].start, len(v) if v.ndim else 1) for k, v in plain.items()}
    return ShardFile(file=path.name, sha256=digest), rows


def write_index(path: Path, written: Sequence[tuple[ShardFile, dict[str, Any]]], metadata: Mapping[str, str]) -> None:
    """Write the index of shards that are there, whole or not at all.

    Args:
        path: of the index, beside the shards.
        written: what write_shard returned for each.
        metadata: what was said of all.

    Raises:
        ConfigError: where it cannot be written.
    """
    tensors: dict[str, dict[str, Any]] = {}
    for number, (_, rows) in enumerate(written):
        for name, (dtype, shape, start, count) in rows.items():
            place = tensors.setdefault(name, {"dtype": dtype, "shape": list(shape), "pieces": []})
            if count or not place["pieces"]:
                place["pieces"].append({"shard": number, "start": start, "rows": count})
    shards = [shard.model_dump() for shard, _ in written]
    content = {"metadata": dict(metadata), "shards": shards, "tensors": tensors}
    ShardIndex.model_validate(content)
    write_atomic(path, json.dumps({**content, "sha256": _digest_of_index(content)}, sort_keys=True, allow_nan=False))


def _digest_of_index(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def read_index(path: Path) -> ShardIndex:
    """Read an index.

    Raises:
        OSError, ConfigError: where it cannot be read.
        ValueError: where it is not what was written.
    """
    need_regular(path)
    content = json.loads(read_text(path, LARGEST))
    if not isinstance(content, dict) or content.pop("sha256", None) != _digest_of_index(content):
        raise ValueError("its content is not what was written")
    try:
        return ShardIndex.model_validate(content)
    except ValidationError as e:
        raise ValueError(e.errors()[0]["msg"]) from None


@contextmanager
def open_shards(path: Path) -> Iterator[ShardReader]:
    """Open the index at ``path`` and its shards. Raises what read_index raises, and SafetensorError."""
    index = read_index(path)
    with ExitStack() as stack:
        files = []
        for shard in index.shards:
            need_regular(path.parent / shard.file)
            files.append(stack.enter_context(safe_open(str(path.parent / shard.file), framework="pt", device="cpu")))
        yield ShardReader(index, files)


class ShardReader:
    """Shards that are open."""

    def __init__(self, index: ShardIndex, files: Sequence[Any]) -> None:
        self.index, self.files = index, files

    def need_written(self) -> None:
        """Raise ValueError where a shard is not what was written. All of it is read, a tensor at a time."""
        for shard, file in zip(self.index.shards, self.files, strict=True):
            metadata = dict(file.metadata() or {})
            told = metadata.pop("sha256", "")
            content = digest_of(((k, file.get_tensor(k)) for k in sorted(file.keys())), metadata)
            if not told == content == shard.sha256 or metadata != self.index.metadata:
                raise ValueError(f"the content of {shard.file} is not what was written")

    def rows(self, name: str, wanted: tuple[int, int] | None = None) -> Tensor:
        """Read a tensor of any shape, or its rows from one to before another.

        Raises ValueError where a shard holds something else.
        """
        place = self.index.tensors[name]
        if not place.shape:
            return self._fitting(self.files[place.pieces[0].shard].get_tensor(name), place, [])
        first, last = wanted or (0, place.shape[0])
        parts = [torch.empty(0, *place.shape[1:], dtype=DTYPES[place.dtype])]
        for piece in place.pieces:
            begin, end = max(first - piece.start, 0), min(last - piece.start, piece.rows)
            if begin < end:
                value = self.files[piece.shard].get_slice(name)[begin:end]
                parts.append(self._fitting(value, place, [end - begin, *place.shape[1:]]))
        return torch.cat(parts)

    def _fitting(self, value: Tensor, place: TensorPlace, shape: Sequence[int]) -> Tensor:
        if list(value.shape) != list(shape) or str(value.dtype) != place.dtype:
            raise ValueError("a shard holds other rows than the index says")
        return value
