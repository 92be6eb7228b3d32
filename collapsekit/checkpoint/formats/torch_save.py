"""What torch.save writes, zip or legacy, located: what a checkpoint's pickle needs is answered here, by name."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from collapsekit.checkpoint.formats.handles import stream_of
from collapsekit.checkpoint.formats.layout import (
    ITEM_BYTES,
    DamagedError,
    Extent,
    LimitError,
    Loaded,
    Located,
    Odd,
    dense,
)
from collapsekit.checkpoint.formats.pickle_vm import Call, Name, StandIn, unpickled
from collapsekit.checkpoint.formats.source import Opened, Window, pickle_stream, read_bytes
from collapsekit.checkpoint.formats.zip_archive import MAGIC, Archive

PICKLE_BYTES = 1 << 30
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # torch/serialization.py
_PROTOCOL = 1001
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "UntypedStorage": "uint8",
}


@dataclass(frozen=True)
class TorchStorage:
    """A run of numbers that tensors are views of; ``extent`` is None until a legacy file's tail has been read."""

    dtype: str  # as torch names it, or the storage class where that is not one of plain numbers
    key: str
    extent: Extent | None
    first: int = 0  # where a legacy view begins in it, in elements


@dataclass(frozen=True)
class _Pending:
    """A tensor of a legacy file, whose storages lie behind the pickle."""

    storage: TorchStorage
    view: tuple[Any, Any, Any]  # offset, size, stride


def is_torch_zip(file: Opened) -> bool:
    """Tell whether it is a zip archive; its content is told apart by its members."""
    return file.head.startswith(MAGIC)


def load_torch_zip(archive: Archive, names: dict[str, None]) -> Any:
    """Return the object torch.save was given, Located in the place of tensors. Raises DamagedError."""
    pickle = archive.member("data.pkl")
    if pickle is None:
        raise DamagedError("it has no data.pkl")
    order = archive.member("byteorder")
    written = b"little" if order is None else read_bytes(order, 16, "byteorder")
    if written not in (b"little", b"big"):
        raise DamagedError(f"its byteorder is {written!r}, neither little nor big")
    named: dict[str, tuple[str, int]] = {}

    def persistent(pid: Any) -> Any:
        dtype, key, count = _storage_id(pid, 5)
        extent = archive.member(f"data/{key}")
        if named.setdefault(key, (dtype, count)) != (dtype, count):  # torch goes by the first
            raise DamagedError(f"its pickle describes the storage {key[:60]!r} twice, and differently")
        if dtype in ITEM_BYTES and extent is None:
            raise DamagedError(f"its storage {key[:60]!r} is not there")
        if extent is not None and dtype in ITEM_BYTES and count * ITEM_BYTES[dtype] > extent.length:
            raise DamagedError(f"its storage {key[:60]!r} claims {count} {dtype} numbers in {extent.length} bytes")
        return TorchStorage(dtype, key, extent)

    if pickle.length > PICKLE_BYTES:
        raise LimitError(f"its data.pkl has {pickle.length:,} bytes, more than the {PICKLE_BYTES:,} that are read")
    with pickle_stream(pickle) as stream:
        return unpickled(stream, names, torch_calls(_view(written == b"big")), persistent)


def is_torch_legacy(file: Opened) -> bool:
    """Tell whether it is a bare pickle: torch.save before 1.6 (or ``_use_new_zipfile_serialization=False``), or one of
    any maker.
    """
    return file.head[:1] == b"\x80" and file.head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def load_torch_legacy(file: Opened, names: dict[str, None]) -> Loaded:
    """Return the object torch.save was given: five pickles, then the storages one after the other.

    Raises DamagedError.
    """
    storages: dict[str, TorchStorage] = {}

    def persistent(pid: Any) -> Any:
        if type(pid) is tuple and len(pid) == 4 and pid[0] == "module":  # a module's class, with its source text
            return pid[1]
        dtype, key, _ = _storage_id(pid, 6)
        if storages.setdefault(key, TorchStorage(dtype, key, None)).dtype != dtype:
            raise DamagedError(f"its pickle describes the storage {key[:60]!r} as of two dtypes")
        first = _view_start(pid[5])
        return TorchStorage(dtype, key, None, first)

    def view(storage: TorchStorage, offset: Any, size: Any, stride: Any, dtype: str) -> Any:
        return _Pending(TorchStorage(dtype or storage.dtype, storage.key, None, storage.first), (offset, size, stride))

    with pickle_stream(file.whole) as stream:
        calls = torch_calls(view)
        if unpickled(stream, names, calls, persistent) != _MAGIC_NUMBER:
            return Loaded(StandIn("a pickle that torch.save did not write"), [file.path], list(names))
        if unpickled(stream, names, calls, persistent) != _PROTOCOL:
            raise DamagedError("its protocol is not one that torch ever wrote")
        unpickled(stream, names, calls, persistent)  # about the machine; the numbers are little-endian on each
        content = unpickled(stream, names, calls, persistent)
        keys = unpickled(stream, names, calls, persistent)
        at = stream.tell()
    with stream_of(file.path) as raw:
        places = _tail(Window(raw, file.whole), at, file, keys, storages)
    return Loaded(_placed(content, places), [file.path], list(names), checksummed=False)


def _tail(stream: Window, at: int, file: Opened, keys: Any, storages: Mapping[str, TorchStorage]) -> dict[str, Extent]:
    """Where each storage's numbers lie: a count of eight bytes before each."""
    if not isinstance(keys, list) or not all(isinstance(k, str) and k in storages for k in keys):
        raise DamagedError("its list of storages names others than its tensors do")
    places = {}
    for key in keys:
        stream.seek(at)
        count = struct.unpack("<q", stream.read(8))[0] if at + 8 <= file.size else -1
        dtype = storages[key].dtype
        length = count * (4 if dtype == "torch.QInt32Storage" else ITEM_BYTES.get(dtype, 1))
        if count < 0 or at + 8 + length > file.size:
            raise DamagedError("it breaks off before its last storage")
        places[key] = Extent(file.path, at + 8, length)
        at += 8 + length
    return places


def _placed(content: Any, places: Mapping[str, Extent]) -> Any:
    """``content`` with each pending tensor located; walked without recursion, each container once."""
    done: set[int] = set()
    todo: list[Any] = []

    def placed(value: Any) -> Any:
        if not isinstance(value, _Pending):
            if isinstance(value, dict | list | StandIn):
                todo.append(value)
            return value
        extent = places.get(value.storage.key)
        if extent is None:
            return Odd("a tensor whose numbers are not in the file")
        offset, size, stride = value.view
        return _view(False)(
            TorchStorage(value.storage.dtype, "", extent, value.storage.first), offset, size, stride, ""
        )

    root = placed(content)
    while todo:
        container = todo.pop()
        if id(container) in done:
            continue
        done.add(id(container))
        mapping = container.mapping if isinstance(container, StandIn) else container
        for key, value in list(mapping.items() if isinstance(mapping, dict) else enumerate(mapping)):
            mapping[key] = placed(value)
    return root


def _storage_id(pid: Any, length: int) -> tuple[str, str, int]:
    """dtype, key and count of a persistent id ("storage", class, key, location, count, ...)."""
    if type(pid) is not tuple or len(pid) != length or pid[0] not in ("storage", b"storage"):
        raise DamagedError("its pickle refers to something that is no storage")
    kind, key, count = pid[1], pid[2], pid[4]
    if not isinstance(kind, Name) or type(key) is not str or type(count) is not int or count < 0:
        raise DamagedError("its pickle describes a storage wrongly")
    return _STORAGES.get(kind.name, kind.full), key, count


def _view_start(metadata: Any) -> int:
    if metadata is None:
        return 0
    if type(metadata) is not tuple or len(metadata) != 3 or type(metadata[1]) is not int or metadata[1] < 0:
        raise DamagedError("its pickle describes a view of a storage wrongly")
    return int(metadata[1])


View = Callable[[TorchStorage, Any, Any, Any, str], Any]


def _view(swapped: bool) -> View:
    def view(storage: TorchStorage, offset: Any, size: Any, stride: Any, dtype: str) -> Any:
        kind = dtype or storage.dtype
        if kind not in ITEM_BYTES or storage.extent is None:
            return Odd(f"a tensor of {kind}")
        start = offset + storage.first if type(offset) is int else offset
        return dense(kind, size, stride, start, storage.extent, swapped=swapped and ITEM_BYTES[kind] > 1)

    return view


def torch_calls(view: View) -> dict[str, Call]:
    """Answer for what torch's own pickles call; ``view`` makes a tensor of a storage."""

    def tensor(args: tuple[Any, ...]) -> Any:
        storage, offset, size, stride = args[:4]
        if not isinstance(storage, TorchStorage):
            return Odd("a tensor without a storage")
        if any(isinstance(a, dict) and (a.get("conj") or a.get("neg")) for a in args[6:]):
            return Odd("a conjugated or negated view")  # the numbers are not those stored
        # _rebuild_tensor_v3 names the dtype, where no class of storage does.
        named = args[6].name if len(args) > 6 and isinstance(args[6], Name) else ""
        return view(storage, offset, size, stride, named)

    def typed(args: tuple[Any, ...]) -> Any:
        function, kind, inner = args[:3]
        if isinstance(kind, Name) and kind.full in _PLAIN_TENSORS and isinstance(function, Name):
            # Of torch._utils alone: a tensor of a type is rebuilt of none of another type, nor that without end.
            known = function.module == "torch._utils" and function.full in calls
            made = calls[function.full](inner) if known else Odd(function.full)
            return made if isinstance(made, Located | _Pending | Odd) else Odd(function.full)
        return Odd(kind.full if isinstance(kind, Name) else "a tensor of an unknown class")

    def first(args: tuple[Any, ...]) -> Any:
        return args[0]

    calls: dict[str, Call] = {
        **_PLAIN_CALLS,
        **{f"torch._utils._rebuild_tensor{v}": tensor for v in ("", "_v2", "_v3")},
        **{f"torch._utils._rebuild_parameter{v}": first for v in ("", "_with_state")},
        **{f"torch._tensor._rebuild_from_type{v}": typed for v in ("", "_v2")},
        "torch.nn.parameter.Parameter": first,
        **{name: _odd(name) for name in _ODD_CALLS},
    }
    return calls


def _odd(name: str) -> Call:
    return lambda _: Odd(name.rpartition("._rebuild_")[2].replace("_", " "))


def _as_dict(args: tuple[Any, ...]) -> dict[Any, Any]:
    """OrderedDict, dict, Counter, defaultdict: of a dict, of pairs, or empty."""
    given = next((a for a in args if isinstance(a, dict | list)), {})
    if isinstance(given, dict):
        return dict(given)
    return {k: v for k, v in (tuple(pair) for pair in given) if isinstance(k, str | int)}


def _as_list(args: tuple[Any, ...]) -> list[Any]:
    return list(args[0]) if args and isinstance(args[0], list | tuple) else []


def _encoded(args: tuple[Any, ...]) -> Any:
    """_codecs.encode(text, "latin1"): bytes, in protocols before 3."""
    return args[0].encode("latin-1") if type(args[0]) is str and args[1:] in (("latin1",), ("latin-1",)) else b""


def _as_bytes(args: tuple[Any, ...]) -> Any:
    """bytes, bytearray: empty (in protocols before 3), of bytes, or of Latin-1 text; never copied."""
    return args[0] if args and isinstance(args[0], bytes) else _encoded(args or ("", "latin-1"))


_PLAIN_TENSORS = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
_ODD_CALLS = tuple(
    f"torch._utils._rebuild_{kind}"
    for kind in (
        "sparse_tensor",
        "qtensor",
        "nested_tensor",
        "meta_tensor_no_storage",
        "wrapper_subclass",
        "device_tensor_from_numpy",
        "device_tensor_from_cpu_tensor",
    )
)
_PLAIN_CALLS: dict[str, Call] = {
    **dict.fromkeys(("collections.OrderedDict", "collections.Counter", "collections.defaultdict"), _as_dict),
    **dict.fromkeys(("builtins.dict", "__builtin__.dict"), _as_dict),
    **{f"{m}.{c}": _as_list for m in ("builtins", "__builtin__") for c in ("list", "set", "frozenset")},
    **{f"{m}.{c}": _as_bytes for m in ("builtins", "__builtin__") for c in ("bytes", "bytearray")},
    "_codecs.encode": _encoded,
    "torch.Size": lambda args: tuple(_as_list(args)),
}
