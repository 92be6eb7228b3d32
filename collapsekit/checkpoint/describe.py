"""describe: what a file is and holds, tensor by tensor, also where it is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapsekit.checkpoint.formats.detect import UnreadableError
from collapsekit.checkpoint.formats.layout import ITEM_BYTES
from collapsekit.checkpoint.formats.source import kind_of
from collapsekit.checkpoint.hashing import sha256_of, sha256_of_all
from collapsekit.checkpoint.sandbox import look_into
from collapsekit.errors import RefusedError
from collapsekit.io.hub import locate

if TYPE_CHECKING:  # imported where numbers are read: what is refused, or told by headers, does not wait for torch
    from torch import Tensor

_AT_A_TIME = 1 << 15  # elements; of more, torch gives parts to threads, which then wait for one another at each step
READ_UNASKED = 2_000_000_000  # bytes; reading so much takes a few seconds


@dataclass(frozen=True)
class TensorRow:
    """One tensor. ``norm`` is the Euclidean norm of its finite elements (numpy.linalg.norm), in float64; None where
    that is too large for a float64. All three are None where the numbers were not read."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    norm: float | None
    nan: int | None
    inf: int | None


@dataclass(frozen=True)
class Description:
    """A file as `collapsekit inspect` shows it; ``refused`` is why its weights were not read, or None."""

    path: Path
    sha256: str | None  # None for a directory that was refused, and where the files were not read whole
    format: str | None
    key: str | None
    note: str | None
    names: tuple[str, ...]  # classes and functions that unpickling it would import
    tensors: tuple[TensorRow, ...]
    refused: str | None = None
    values: bool = True  # whether the files were read whole, for their digest and the tensors' numbers
    beside: tuple[str, ...] = ()  # what files beside the weights say of them: whose they are, then sentences


def describe(path: str | Path, *, values: bool | None = None) -> Description:
    """Look at a file or directory without executing anything of it. Raises ConfigError where there is nothing, and
    RefusedError where it is no regular file.

    Names, shapes and dtypes take the headers only, of a zip archive also what its checksums are over. The digest and the
    tensors' norms take every byte, one tensor at a time: they are read if ``values`` says so, and by default where
    files and tensors hold at most READ_UNASKED bytes. A file that only unpickling could read is then read for its digest,
    by which `--trust-pickle` names it, whatever its size.
    """
    file = locate(path)
    kind = kind_of(file)
    found = _described(file, kind == "file", values)
    return replace(found, beside=tuple(_beside(file, found)))


def _described(file: Path, is_file: bool, values: bool | None) -> Description:
    try:
        found = look_into(file)
        whole = _bytes_to_read(found) <= READ_UNASKED if values is None else values
        if whole:
            rows, sha256 = _read_whole(file, found)
        else:
            rows, sha256 = tuple(_unread(*told) for told in found["tensors"]), None
    except RefusedError as e:
        known = e if isinstance(e, UnreadableError) else None
        names = tuple(known.names) if known else ()
        small = file.stat().st_size <= READ_UNASKED if values is None else values
        whole = is_file and (small or (values is None and known is not None and known.pickled))
        digest, why = _digest(file, known) if whole else (None, "")
        form = known.format or None if known else None
        return Description(file, digest, form, None, None, names, (), str(e) + why, whole)
    names = tuple(found["names"])
    return Description(file, sha256, found["format"], found["key"], found["note"], names, rows, values=whole)


def _beside(file: Path, described: Description) -> list[str]:
    """Whose the weights are and what goes into them, or why that cannot be read."""
    from collapsekit.checkpoint.sidecars.beside import describe_beside

    try:
        lines = []
        if described.refused is None and described.values and any(".lora_" in row.name for row in described.tensors):
            from collapsekit.checkpoint.read import read_checkpoint
            from collapsekit.checkpoint.sidecars.peft import describe_adapter

            adapter = read_checkpoint(file).adapter
            lines += [] if adapter is None else describe_adapter(adapter)
        found = describe_beside(file)
    except RefusedError as e:
        return [str(e)]
    if found is None:
        return lines
    inputs = [
        f"input {field.name}: {field.key}{field.part or ''}{f' ({field.about})' * bool(field.about)}"
        for field in found.inputs
    ]
    return [*lines, found.maker, *inputs, *found.sentences]


def _stored_bytes(located: dict[str, Any]) -> int:
    sizes: list[int] = [size for _, _, _, size, *_ in located["files"]]
    return sum(sizes)


def _bytes_to_read(located: dict[str, Any]) -> int:
    """What all numbers take: the files' bytes, or more, where tensors show the same ones in several ways."""
    each = {repr(t[1:]): math.prod(t[2]) * ITEM_BYTES.get(t[1], 1) for t in located["tensors"]}
    shown: int = sum(each.values())
    return max(_stored_bytes(located), shown)


def _read_whole(file: Path, located: dict[str, Any]) -> tuple[tuple[TensorRow, ...], str]:
    """Every tensor's numbers, and the digest of the files. Raises RefusedError where the files changed, and where that
    would be to read the same bytes again and again."""
    from collapsekit.checkpoint.mmap import check_unchanged, mapped_in_turn

    count = _bytes_to_read(located)
    if count > 2 * _stored_bytes(located) + READ_UNASKED:
        raise RefusedError(
            f"{file} has tensors that show the same numbers many times over, {count:,} bytes in all: look at it with "
            "--no-values."
        )
    sha256 = sha256_of_all(located["files"])
    read: dict[str, TensorRow] = {}
    rows = []
    for told, (name, tensor) in zip(
        located["tensors"], mapped_in_turn(located["files"], located["tensors"]), strict=True
    ):
        key = repr(told[1:])
        if key not in read:  # tied tensors are read once
            read[key] = _row(name, tensor)
        rows.append(read[key] if read[key].name == name else replace(read[key], name=name))
    check_unchanged(located["files"])
    return tuple(rows), sha256


def _digest(file: Path, refusal: UnreadableError | None) -> tuple[str | None, str]:
    """The digest of a file that was refused, or why there is none, as a further sentence."""
    try:
        return sha256_of(file, refusal.file if refusal else None), ""
    except RefusedError as e:
        return None, f" No SHA-256: {e}"


def _unread(name: str, dtype: str, shape: Sequence[int], chunks: object) -> TensorRow:
    """A tensor by its header alone."""
    del chunks
    if dtype not in ITEM_BYTES:
        raise RefusedError(f"the tensor {name[:60]!r} is of a dtype that is not known here: update collapsekit.")
    return TensorRow(name, tuple(shape), dtype, math.prod(shape) * ITEM_BYTES[dtype], None, None, None)


def _row(name: str, tensor: Tensor) -> TensorRow:
    import torch

    from collapsekit.checkpoint.mmap import forget

    nan = inf = 0
    total = 0.0
    flat = tensor.reshape(-1) if tensor.is_contiguous() else tensor.flatten()
    for start in range(0, flat.numel(), _AT_A_TIME):
        raw = flat[start : start + _AT_A_TIME]
        part = raw.to(torch.complex128 if raw.is_complex() else torch.float64)
        norm = float(torch.linalg.vector_norm(part))
        if not math.isfinite(norm):  # rare, and to look at every element for it takes fifty times as long
            nan += int(part.isnan().sum())
            inf += int(part.isinf().sum())
            norm = float(torch.linalg.vector_norm(part[part.isfinite()]))
        total = math.hypot(total, norm)
        forget(raw)
    finite = total if math.isfinite(total) else None
    kind = str(tensor.dtype).removeprefix("torch.")
    return TensorRow(name, tuple(tensor.shape), kind, tensor.numel() * tensor.element_size(), finite, nan, inf)
