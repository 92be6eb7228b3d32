"""Pickles put together opcode by opcode, and the torch files, archives and headers that carry them."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FLOATS = struct.pack("<4f", 0, 1, 2, 3)
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # torch.serialization's marks of a legacy file
SYSTEM = {"protocol_version": VERSION, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def plain(value: Any) -> bytes:
    """Opcodes that leave a plain value on the stack; they write no memo."""
    return pickletools.optimize(pickle.dumps(value, 2))[2:-1]


def named(module: str, name: str) -> bytes:
    """Opcodes that leave a class or function on the stack."""
    return f"c{module}\n{name}\n".encode()


def dotted(module: str, name: str) -> bytes:
    """The same by STACK_GLOBAL, whose names may be dotted."""
    return plain(module) + plain(name) + b"\x93"


def tuple_of(*parts: bytes) -> bytes:
    """Opcodes of a tuple."""
    return b"(" + b"".join(parts) + b"t"


def called(what: bytes, *args: bytes) -> bytes:
    """Opcodes of a call."""
    return what + tuple_of(*args) + b"R"


def mapping(*items: tuple[bytes, bytes]) -> bytes:
    """Opcodes of a dict."""
    return b"}(" + b"".join(key + value for key, value in items) + b"u"


def persistent(*parts: bytes) -> bytes:
    """Opcodes of a persistent identifier that is a tuple."""
    return tuple_of(*parts) + b"Q"


def storage(key: str = "0", numel: bytes | int = 4, kind: str = "FloatStorage", legacy: bool = False) -> bytes:
    """Opcodes of a storage as torch pickles it."""
    count = plain(numel) if isinstance(numel, int) else numel
    view = [plain(None)] if legacy else []
    return persistent(plain("storage"), named("torch", kind), plain(key), plain("cpu"), count, *view)


def tensor(
    stored: bytes | None = None,
    offset: bytes | int = 0,
    shape: bytes | tuple[Any, ...] = (4,),
    stride: bytes | tuple[Any, ...] = (1,),
    hooks: bytes | None = None,
) -> bytes:
    """Opcodes of a dense tensor; without arguments, four floats of storage "0"."""
    parts = [p if isinstance(p, bytes) else plain(p) for p in (offset, shape, stride)]
    hooks = hooks if hooks is not None else called(named("collections", "OrderedDict"))
    return called(named("torch._utils", "_rebuild_tensor_v2"), stored or storage(), *parts, plain(False), hooks)


def beside(what: bytes, protocol: int = 4) -> bytes:
    """A pickle of {"w": four floats, "x": what}."""
    return bytes([0x80, protocol]) + mapping((plain("w"), tensor()), (plain("x"), what)) + b"."


def tensors(*items: tuple[bytes, bytes]) -> bytes:
    """A pickle of a dict of any opcodes."""
    return b"\x80\x02" + mapping(*items) + b"."


def torch_zip(
    path: Path,
    pickled: bytes,
    stored: Mapping[str, bytes] | None = None,
    extra: Iterable[tuple[str, bytes]] = (),
    byteorder: bytes = b"little",
    root: str = "archive",
) -> Path:
    """A file as torch.save writes it, around a pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{root}/data.pkl", pickled)
        archive.writestr(f"{root}/byteorder", byteorder)
        for key, data in ({"0": FLOATS} if stored is None else stored).items():
            archive.writestr(f"{root}/data/{key}", data)
        archive.writestr(f"{root}/version", b"3\n")
        for name, data in extra:
            archive.writestr(name, data)
    return path


def torch_legacy(
    path: Path,
    pickled: bytes,
    magic: bytes | None = None,
    system: bytes | None = None,
    keys: bytes | None = None,
    stored: Mapping[str, bytes] | None = None,
) -> Path:
    """A file as torch.save wrote it before 1.6: five pickles, then each storage with its length."""
    data = {"0": FLOATS} if stored is None else stored
    parts = [
        magic or pickle.dumps(MAGIC, 2),
        pickle.dumps(VERSION, 2),
        system or pickle.dumps(SYSTEM, 2),
        pickled,
        keys or pickle.dumps(list(data), 2),
        *(struct.pack("<q", len(d) // 4) + d for d in data.values()),
    ]
    path.write_bytes(b"".join(parts))
    return path


def legacy_weights() -> bytes:
    """The pickle of {"w": four floats} in a legacy file."""
    return tensors((plain("w"), tensor(storage(legacy=True))))


def good_zip(path: Path) -> Path:
    """A sound file: {"w": four floats}."""
    return torch_zip(path, tensors((plain("w"), tensor())))


def good_bytes() -> bytes:
    """The bytes of a sound file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in good_members():
            archive.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def good_members() -> list[tuple[str, bytes]]:
    """The members of a sound file, without its folder."""
    pickled = tensors((plain("w"), tensor()))
    return [("data.pkl", pickled), ("byteorder", b"little"), ("data/0", FLOATS), ("version", b"3\n")]


def safe(path: Path, header: bytes | dict[str, Any], data: bytes = FLOATS, length: int | None = None) -> Path:
    """A safetensors file around a header that may be any bytes, and say any length."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def floats(shape: list[Any] | None = None, begin: int = 0, end: int = 16, dtype: str = "F32") -> dict[str, Any]:
    """One tensor of a safetensors header; four floats where nothing else is said."""
    return {"dtype": dtype, "shape": [4] if shape is None else shape, "data_offsets": [begin, end]}
