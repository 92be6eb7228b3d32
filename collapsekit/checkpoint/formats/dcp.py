"""torch.distributed.checkpoint directories, located: the .metadata pickle as inert values, each chunk in its file.

``dcp.load`` unpickles .metadata freely; nothing of it is called.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from collapsekit.checkpoint.formats.layout import (
    ITEM_BYTES,
    Chunk,
    DamagedError,
    Extent,
    LimitError,
    Loaded,
    Located,
    Odd,
    sizes_of,
    whole,
)
from collapsekit.checkpoint.formats.pickle_vm import Name, StandIn, unpickled
from collapsekit.checkpoint.formats.source import open_file, open_part, pickle_stream
from collapsekit.checkpoint.formats.torch_save import load_torch_zip, torch_calls
from collapsekit.checkpoint.formats.zip_archive import open_archive

METADATA = ".metadata"
# What every .metadata names.
_USUAL = re.compile(r"torch\.distributed\.checkpoint\.\w+\.\w+|pathlib(\._local)?\.\w*Path")
_MAX_CHUNKS = 200_000


def is_distributed(folder: Path) -> bool:
    """Tell whether it is a directory with the .metadata of torch.distributed.checkpoint."""
    return (folder / METADATA).exists()


def load_distributed(folder: Path, names: dict[str, None]) -> Loaded:
    """Nested dicts of tensors as they were saved. Raises DamagedError, RefusedError."""
    file = open_file(folder / METADATA)
    seen: dict[str, None] = {}
    try:
        with pickle_stream(file.whole) as stream:
            metadata = _state(unpickled(stream, seen, torch_calls(_no_tensor), _no_storage))
    finally:
        names.update((n, None) for n in seen if not _USUAL.fullmatch(n))
    entries, stored = metadata.get("state_dict_metadata"), metadata.get("storage_data")
    if not isinstance(entries, dict) or not isinstance(stored, dict):
        raise DamagedError("its .metadata does not describe a checkpoint")
    items = _items(folder, stored)
    if len(items) > _MAX_CHUNKS:
        raise LimitError(f"it has {len(items):,} pieces, more than the {_MAX_CHUNKS:,} that are read")
    read: dict[Extent, Any] = {}
    tensors = {
        name: _tensor(name, _state(entry), items, read, names)
        for name, entry in entries.items()
        if isinstance(name, str) and isinstance(entry, StandIn) and entry.name.endswith(".TensorStorageMetadata")
    }
    paths = [file.path, *dict.fromkeys(extent.path for extent in read)]
    return Loaded(_nested(tensors, metadata.get("planner_data")), paths, list(names))


def _state(value: Any) -> dict[Any, Any]:
    state = value.state if isinstance(value, StandIn) else None
    if not isinstance(state, dict):
        raise DamagedError("its .metadata does not describe a checkpoint")
    return state


def _no_storage(_: Any) -> Any:
    raise DamagedError("its .metadata refers to a storage")


def _no_tensor(*_: Any) -> Any:
    raise DamagedError("its .metadata holds a tensor")


Key = tuple[str, tuple[int, ...]]


def _items(folder: Path, stored: dict[Any, Any]) -> dict[Key, Extent]:
    """(name, offsets) -> where its bytes lie."""
    items: dict[Key, Extent] = {}
    for index, info in stored.items():
        at, place = _state(index), _state(info)
        name, offset = at.get("fqn"), at.get("offset")
        file, start, length = place.get("relative_path"), place.get("offset"), place.get("length")
        if place.get("transform_descriptors"):
            raise DamagedError(f"its entry {str(name)[:60]!r} was transformed (compressed) when it was written")
        if not isinstance(name, str) or not isinstance(file, str):
            raise DamagedError("its .metadata does not describe a checkpoint")
        (begin, count) = whole([start, length], "place")
        extent = Extent(folder / base_name(file), begin, count)
        items[name, whole(() if offset is None else offset, "place")] = extent
    return items


def base_name(name: str) -> str:
    """Return ``name`` where it is a plain file name, for files that may only lie in the directory itself.

    Raises DamagedError.
    """
    if name in ("", ".", "..") or any(c in name for c in "/\\\0:"):
        raise DamagedError(f"it names a file outside its directory, {name[:100]!r}")
    return name


def _tensor(
    name: str, entry: dict[Any, Any], items: dict[Key, Extent], read: dict[Extent, Any], names: dict[str, None]
) -> Located | Odd:
    shape, pieces = sizes_of(entry.get("size")), entry.get("chunks")
    if not isinstance(pieces, list):
        raise DamagedError(f"its tensor {name[:60]!r} has no chunks")
    chunks, dtypes = [], set[str]()
    for piece in pieces:
        state = _state(piece)
        origin, size = whole(state.get("offsets"), "place"), whole(state.get("sizes"), "shape")
        extent = items.get((name, origin))
        if extent is None:
            raise DamagedError(f"a piece of its tensor {name[:60]!r} is not there")
        if extent not in read:
            read[extent] = _piece(extent, names)
        part = read[extent]
        if isinstance(part, Odd):
            return part
        if not isinstance(part, Located) or part.shape != size or len(part.chunks) != 1:
            raise DamagedError(f"a piece of its tensor {name[:60]!r} is not what .metadata says")
        dtypes.add(part.dtype)
        (only,) = part.chunks
        chunks.append(Chunk(only.path, only.offset, only.shape, only.stride, origin, only.swapped))
    _must_tile(name, shape, chunks)
    if len(dtypes) > 1:
        raise DamagedError(f"the pieces of its tensor {name[:60]!r} are of several dtypes")
    dtype = dtypes.pop() if dtypes else _dtype(entry)  # a tensor without elements may have no piece
    if dtype not in ITEM_BYTES:
        return Odd(f"a tensor of {dtype}")
    if len(chunks) == 1:  # in one piece: mapped, not joined
        chunks = [replace(chunks[0], origin=())]
    return Located(dtype, shape, tuple(chunks))


def _dtype(entry: dict[Any, Any]) -> str:
    properties = entry.get("properties")
    state = properties.state if isinstance(properties, StandIn) else None
    first = state[0] if isinstance(state, tuple) and state else None
    return first.name if isinstance(first, Name) and first.module == "torch" else "float32"


def _piece(extent: Extent, names: dict[str, None]) -> Any:
    size = open_part(extent.path).size
    if extent.start + extent.length > size:
        raise DamagedError(f"its file {extent.path.name[:60]!r} breaks off")
    return load_torch_zip(open_archive(extent), names)


def _must_tile(name: str, shape: tuple[int, ...], chunks: list[Chunk]) -> None:
    """Every element in exactly one piece: the counts add up, all are inside, and no two meet."""
    inside = all(
        len(c.origin) == len(c.shape) == len(shape)
        and all(o + n <= whole_n for o, n, whole_n in zip(c.origin, c.shape, shape, strict=True))
        for c in chunks
    )
    if not inside or sum(math.prod(c.shape) for c in chunks) != math.prod(shape) or _any_meet(chunks):
        raise DamagedError(f"the pieces of its tensor {name[:60]!r} do not fill it, each place once")


def _any_meet(chunks: list[Chunk]) -> bool:
    full = [c for c in chunks if math.prod(c.shape)]
    if len(full) < 2 or not full[0].shape:
        return len(full) > 1
    # Along the axis that is cut most often, neighbours hardly ever share a place.
    axis = max(range(len(full[0].shape)), key=lambda k: len({c.origin[k] for c in full}))
    full.sort(key=lambda c: c.origin[axis])
    for i, a in enumerate(full):
        for b in (full[j] for j in range(i + 1, len(full))):
            if b.origin[axis] >= a.origin[axis] + a.shape[axis]:
                break
            if all(x < y + m and y < x + n for x, n, y, m in zip(a.origin, a.shape, b.origin, b.shape, strict=True)):
                return True
    return False


def _nested(tensors: dict[str, Located | Odd], paths: Any) -> dict[Any, Any]:
    """The flat names put back as the nested dict that was saved, where the planner left its paths."""
    if not isinstance(paths, dict):
        return dict(tensors)
    root: dict[Any, Any] = {}
    for name, tensor in tensors.items():
        steps = _steps(paths.get(name), name)
        node = root
        for step in steps[:-1]:
            inner = node.setdefault(step, {})
            if not isinstance(inner, dict):
                raise DamagedError(f"its .metadata places {name[:60]!r} within another tensor")
            node = inner
        node[steps[-1]] = tensor
    return root


def _steps(path: Any, name: str) -> list[Any]:
    usable = isinstance(path, tuple) and 0 < len(path) <= 32 and all(isinstance(s, str | int) for s in path)
    return list(path) if usable else [name]
