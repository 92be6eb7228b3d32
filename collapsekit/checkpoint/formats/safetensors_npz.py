"""Files of bare arrays, safetensors and NumPy's .npz, located. Neither format can carry code; both can lie."""

from __future__ import annotations

import json
import re
import struct
from typing import Any

from collapsekit.checkpoint.formats.layout import (
    ITEM_BYTES,
    MAX_TENSORS,
    DamagedError,
    Extent,
    LimitError,
    Loaded,
    Located,
    contiguous,
    dense,
)
from collapsekit.checkpoint.formats.source import Opened, read_bytes
from collapsekit.checkpoint.formats.zip_archive import Archive
from collapsekit.errors import RefusedError

HEADER_LIMIT = 100_000_000  # the safetensors library's own: beyond it nothing is a safetensors file
JSON_LIMIT = 40_000_000  # 400 bytes a tensor
_SAFETENSORS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}
_NUMPY = {
    **{f"f{n}": f"float{8 * n}" for n in (2, 4, 8)},
    **{f"i{n}": f"int{8 * n}" for n in (1, 2, 4, 8)},
    **{f"u{n}": f"uint{8 * n}" for n in (1, 2, 4, 8)},
    **{f"c{n}": f"complex{8 * n}" for n in (8, 16)},
    "b1": "bool",
}
_NPY_MAGIC = b"\x93NUMPY"
_NPY_HEADER = re.compile(
    r"\{'descr': (?P<descr>.+), 'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>[\d, ]*)\),? ?\}\s*",
    re.DOTALL,
)
_NPY_HEADER_LIMIT = 1 << 16
_NPY_USUAL = 1 << 10  # read first: an archive may have very many members


def is_safetensors(file: Opened) -> bool:
    """Eight bytes of little-endian header length, then a JSON object."""
    if file.head[8:9] != b"{":
        return False
    # Where the name says so, a length that cannot be is said to be wrong, not taken for another format.
    return struct.unpack("<Q", file.head[:8])[0] <= HEADER_LIMIT or file.path.suffix == ".safetensors"


def load_safetensors(file: Opened) -> Loaded:
    """Return name -> tensor, each where the header says, which must leave no byte out. Raises DamagedError."""
    length = struct.unpack("<Q", file.head[:8])[0]
    if length > min(HEADER_LIMIT, file.size - 8):
        raise DamagedError(f"its header claims {length} bytes, so it is truncated or no safetensors file at all")
    header = parse_json(read_json(Extent(file.path, 8, length), "its header"), "its header")
    if not isinstance(header, dict):
        raise DamagedError("its header is no JSON object")
    about = header.pop("__metadata__", None)
    about = {} if about is None else about
    if not isinstance(about, dict) or not all(isinstance(v, str) for v in about.values()):
        raise DamagedError("the __metadata__ in its header is no object of strings")
    check_count(len(header), "tensors")
    data = Extent(file.path, 8 + length, file.size - 8 - length)
    tensors, spans = {}, []
    for name, entry in header.items():
        tensors[name], span = _entry(name, entry, data)
        spans.append(span)
    end = 0
    for begin, stop in sorted(spans):
        if begin != end:
            raise DamagedError(f"its tensors {'overlap' if begin < end else 'leave a hole'} at byte {begin}")
        end = stop
    if end != data.length:
        raise DamagedError(f"its tensors take {end} of {data.length} bytes")
    # safetensors.torch.save_model leaves out all but one of the names of a tensor, and says so here.
    ties = {name: kept for name, kept in about.items() if kept in tensors and name not in tensors}
    return Loaded(tensors, [file.path], checksummed=False, ties=ties)


def _entry(name: str, entry: Any, data: Extent) -> tuple[Located, tuple[int, int]]:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        kind = _SAFETENSORS[dtype]
    except (KeyError, TypeError, ValueError):
        raise DamagedError(f"its header describes {name[:60]!r} wrongly, or with an unknown dtype") from None
    if type(begin) is not int or type(end) is not int or not 0 <= begin <= end <= data.length:
        raise DamagedError(f"its tensor {name[:60]!r} lies outside the file")
    located = dense(kind, shape, None, 0, Extent(data.path, data.start + begin, end - begin))
    if located.bytes != end - begin:
        raise DamagedError(f"its tensor {name[:60]!r} has {end - begin} bytes, its shape needs {located.bytes}")
    return located, (begin, end)


def check_count(count: int, what: str) -> None:
    """Raise LimitError where there are more than MAX_TENSORS."""
    if count > MAX_TENSORS:
        raise LimitError(f"it has {count:,} {what}, more than the {MAX_TENSORS:,} that are read")


def read_json(extent: Extent, what: str) -> bytes:
    """Return the bytes of an extent of at most JSON_LIMIT. Raises LimitError, and DamagedError where it breaks off."""
    if extent.length > JSON_LIMIT:
        raise LimitError(f"{what} has {extent.length:,} bytes, more than the {JSON_LIMIT:,} that are read")
    return read_bytes(extent, JSON_LIMIT, what)


def parse_json(data: bytes, what: str) -> Any:
    """JSON without duplicate keys, NaN or endless nesting. Raises DamagedError."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            raise ValueError("a key stands twice")
        return found

    def constant(name: str) -> float:
        raise ValueError(f"{name} is no number")

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError) as e:
        raise DamagedError(f"{what} is not the JSON it should be: {str(e)[:100]}") from None


def is_npz(archive: Archive) -> bool:
    """Tell whether it is a zip of which every member is a .npy array."""
    return bool(archive.members) and all(name.endswith(".npy") for name in archive.members)


def load_npz(archive: Archive, file: Opened) -> Loaded:
    """Return name -> tensor, with None for an array that is not of numbers. Raises DamagedError, RefusedError."""
    tensors = {name.removesuffix(".npy"): _npy(name, extent) for name, extent in archive.members.items()}
    if any(isinstance(t, str) for t in tensors.values()):
        raise RefusedError(
            f"{file.path} holds arrays of Python objects, which only unpickling could read: save plain numeric arrays "
            "with np.savez."
        )
    return Loaded(tensors, [file.path], checksummed=archive.checksummed)


def _first(extent: Extent, most: int, name: str) -> bytes:
    return read_bytes(Extent(extent.path, extent.start, min(extent.length, most)), most, name)


def _npy(name: str, extent: Extent) -> Located | str | None:
    """The array of one .npy member; None where it is not of numbers, text where it is of pickled objects."""
    start = _first(extent, _NPY_USUAL, name)
    sized = {1: ("<H", 10), 2: ("<I", 12), 3: ("<I", 12)}.get(start[6] if len(start) > 12 else 0)
    if not start.startswith(_NPY_MAGIC) or sized is None:
        raise DamagedError(f"its member {name[:60]!r} is no .npy array")
    form, begin = sized
    end = begin + struct.unpack_from(form, start, 8)[0]
    if end > len(start):
        start = _first(extent, _NPY_HEADER_LIMIT, name)
    header = _NPY_HEADER.fullmatch(start[begin:end].decode("latin-1")) if end <= len(start) else None
    if header is None:
        raise DamagedError(f"the header of its member {name[:60]!r} is not what NumPy writes")
    descr = header["descr"].strip("'")
    if descr.lstrip("<>|=")[:1] == "O" or "'|O'" in header["descr"]:
        return "pickled objects"
    kind = _NUMPY.get(descr[1:]) if descr[:1] in "<>|=" else None
    if kind is None:
        return None
    shape = [int(n[:20]) for n in re.findall(r"\d+", header["shape"])]  # 20 digits are too many already
    body = Extent(extent.path, extent.start + end, extent.length - end)
    strides = tuple(reversed(contiguous(shape[::-1]))) if header["fortran"] == "True" else None
    located = dense(kind, shape, strides, 0, body, swapped=descr[0] == ">" and ITEM_BYTES[kind] > 1)
    if located.bytes != body.length:
        raise DamagedError(f"its member {name[:60]!r} has {body.length} bytes, its shape needs {located.bytes}")
    return located
