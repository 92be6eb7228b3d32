"""safetensors files whose header and bytes do not agree with each other, or with the format."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tests.hostile.assemble import FLOATS, floats, good_bytes, safe
from tests.hostile.catalogue import add, read, refused

if TYPE_CHECKING:
    from collapsekit.checkpoint.read import Checkpoint

DAMAGED = "not a sound safetensors file"
_ENTRY = json.dumps(floats())

# header -> refused; each beside sixteen bytes of numbers
HEADERS: dict[str, bytes | dict[str, Any]] = {
    "overlapping_tensors": {"w": floats(), "v": floats([2], 4, 12)},
    "hole_between_tensors": {"w": floats([1], 0, 4), "v": floats([2], 8, 16)},
    "hole_at_the_start": {"w": floats([3], 4, 16)},
    "bytes_left_over": {"w": floats([3], 0, 12)},
    "offsets_past_the_end": {"w": floats([8], 0, 32)},
    "begin_after_end": {"w": floats([4], 16, 0)},
    "begin_negative": {"w": floats([8], -16, 16)},
    "end_of_2_63": {"w": floats([1 << 61], 0, 1 << 63)},
    "shape_overflows": {"w": floats([1 << 32, 1 << 32], 0, 0), "v": floats()},
    "shape_overflows_to_the_right_size": {"w": floats([(1 << 62) + 4])},
    "shape_negative": {"w": floats([-4])},
    "shape_negative_twice": {"w": floats([-2, -2])},
    "shape_float": {"w": floats([4.0])},
    "shape_true": {"w": floats([True], 0, 4), "v": floats([3], 4, 16)},
    "shape_text": {"w": floats(["4"])},
    "shape_object": {"w": {**floats(), "shape": {"0": 4}}},
    "shape_of_65_dimensions": {"w": floats([4] + [1] * 64)},
    "shape_exponent": b'{"w":' + _ENTRY.replace("[4]", "[4e0]").encode() + b"}",
    "shape_of_10000_digits": b'{"w":' + _ENTRY.replace("[4]", "[" + "9" * 10_000 + "]").encode() + b"}",
    "dtype_unknown_to_the_format": {"w": floats(dtype="F128")},
    "dtype_with_an_escape": {"w": floats(dtype="\x1b[31m\n::error::")},
    "dtype_a_number": {"w": {**floats(), "dtype": 32}},
    "dtype_and_size_disagree": {"w": floats(dtype="F64")},
    "shape_and_size_disagree": {"w": floats([5])},
    "offsets_of_three": {"w": {**floats(), "data_offsets": [0, 16, 16]}},
    "offsets_float": {"w": {**floats(), "data_offsets": [0.0, 16.0]}},
    "offsets_missing": {"w": {"dtype": "F32", "shape": [4]}},
    "entry_not_an_object": {"w": [4]},
    "entry_null": {"w": None},
    "metadata_not_an_object": {"__metadata__": ["x"], "w": floats()},
    "metadata_not_of_strings": {"__metadata__": {"x": {"y": 1}}, "w": floats()},
    "header_not_json": b"{not json}",
    "header_cut_json": b'{"w": {"dtype"',
    "header_with_a_second_object": b'{"w":' + _ENTRY.encode() + b"}{}",
    "header_with_nan": b'{"w":' + _ENTRY.replace("[4]", "[NaN]").encode() + b"}",
    "header_with_infinity": b'{"w":' + _ENTRY.replace("[4]", "[Infinity]").encode() + b"}",
    "header_not_utf8": b'{"\xff\xfe":' + _ENTRY.encode() + b"}",
    "header_with_a_raw_control": b'{"w\x1b":' + _ENTRY.encode() + b"}",
    "keys_twice": b'{"w":' + _ENTRY.encode() + b',"w":' + _ENTRY.encode() + b"}",
    "keys_twice_within_an_entry": b'{"w":{"dtype":"F64","shape":[2],"data_offsets":[0,16],"dtype":"F32","shape":[4]}}',
    "nested_brackets": b'{"w":' + b"[" * 200_000,
    "nested_objects": b'{"a":' * 200_000,
    "nested_and_closed": b'{"w":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
}
for key, header in HEADERS.items():

    def _headed(folder: Path, header: bytes | dict[str, Any] = header) -> Path:
        return safe(folder / "m.safetensors", header)

    add(_headed, f"safetensors_{key}", says=DAMAGED)


@refused("no named tensors")
def safetensors_without_tensors(folder: Path) -> Path:
    """An empty header and no bytes: lawful, and of no use."""
    return safe(folder / "m.safetensors", b"{}", b"")


@refused("not a checkpoint")
def safetensors_header_of_no_bytes(folder: Path) -> Path:
    """A header length of zero."""
    return safe(folder / "m.safetensors", b"", b"")


@refused("not a checkpoint")
def safetensors_with_a_byte_order_mark(folder: Path) -> Path:
    """The format's header begins with a brace and nothing before it."""
    return safe(folder / "m.safetensors", b"\xef\xbb\xbf" + json.dumps({"w": floats()}).encode())


@refused("header claims")
def safetensors_header_length_2_63(folder: Path) -> Path:
    """A header length that is negative where it is read as signed."""
    return safe(folder / "m.safetensors", {"w": floats()}, length=1 << 63)


@refused("header claims")
def safetensors_header_of_101_megabytes(folder: Path) -> Path:
    """One byte more than the library's limit would do; the file is sparse."""
    path = safe(folder / "m.safetensors", {"w": floats()}, length=101 << 20)
    with path.open("r+b") as stream:
        stream.truncate(102 << 20)
    return path


@refused(DAMAGED)
def safetensors_header_longer_than_the_file(folder: Path) -> Path:
    """The header breaks off."""
    return safe(folder / "m.safetensors", {"w": floats()}, length=4096)


@refused(DAMAGED)
def safetensors_trailing_bytes(folder: Path) -> Path:
    """Bytes behind the last tensor, where something may hide."""
    return safe(folder / "m.safetensors", {"w": floats()}, FLOATS + b"junk")


@refused(DAMAGED)
def safetensors_cut(folder: Path) -> Path:
    """The last byte is missing."""
    return safe(folder / "m.safetensors", {"w": floats()}, FLOATS[:-1])


@read()
def safetensors_metadata_of_hostile_strings(folder: Path) -> Path:
    """Metadata is free text; none of it is shown raw."""
    texts = {"\x1b]0;owned\x07": "<script>alert(1)</script>", "format": "[/x]\n::error::x", "\u202e": "\0" * 100}
    return safe(folder / "m.safetensors", {"__metadata__": texts, "w": floats()})


def _shaped(checkpoint: Checkpoint) -> None:
    assert checkpoint.tensors["empty"].shape == (0, 1 << 40)
    assert checkpoint.tensors["w"].tolist() == [0, 1, 2]
    assert checkpoint.tensors["scalar"].item() == 3


@read(_shaped)
def safetensors_empty_and_scalar(folder: Path) -> Path:
    """Lawful: no elements in spite of a huge dimension, and no dimension at all."""
    header = {"w": floats([3], 0, 12), "empty": floats([0, 1 << 40], 12, 12), "scalar": floats([], 12, 16)}
    return safe(folder / "m.safetensors", header)


def _padded(checkpoint: Checkpoint) -> None:
    assert checkpoint.tensors["w"].tolist() == [0, 1, 2, 3]


@read(_padded)
def safetensors_padded_header(folder: Path) -> Path:
    """Lawful: spaces after the header, so that the numbers are aligned."""
    return safe(folder / "m.safetensors", json.dumps({"w": floats()}).encode() + b" " * 61)


def _many(folder: Path, count: int) -> Path:
    entries = b"".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},' % i for i in range(count))
    return safe(folder / "m.safetensors", b"{" + entries + b'"w":' + _ENTRY.encode() + b"}")


@read()
def safetensors_of_five_thousand_names(folder: Path) -> Path:
    """Lawful: more tensors than any model has, all but one without elements."""
    return _many(folder, 5_000)


@refused("more than|many", slow=True)
def safetensors_of_a_million_names(folder: Path) -> Path:
    """10^6 tensors without elements: 57 MB of header for no weights but one."""
    return _many(folder, 1_000_000)


@read()
def safetensors_under_a_torch_name(folder: Path) -> Path:
    """Lawful: the content decides, not the extension."""
    return safe(folder / "m.pt", {"w": floats()})


@refused(DAMAGED)
def safetensors_zip_polyglot(folder: Path) -> Path:
    """A safetensors file with a zip archive behind it, which zip readers would open."""
    return safe(folder / "m.pt", {"w": floats()}, FLOATS + good_bytes())


def _eight(checkpoint: Checkpoint) -> None:
    assert checkpoint.tensors["w"].view(torch.uint8).tolist() == [0] + [1] * 15


@read(_eight)
def safetensors_bool_that_is_neither(folder: Path) -> Path:
    """Bytes other than 0 and 1 in a tensor of booleans."""
    return safe(folder / "m.safetensors", {"w": floats([16], dtype="BOOL")}, struct.pack("16B", *range(16)))


@refused("dimensions|shape|size|large")
def safetensors_no_elements_of_overflowing_dimensions(folder: Path) -> Path:
    """Sizes of 0, 2^62 and 2^62: no element, and strides that no integer holds."""
    return safe(folder / "m.safetensors", {"e": floats([0, 1 << 62, 1 << 62], 0, 0), "w": floats()})
