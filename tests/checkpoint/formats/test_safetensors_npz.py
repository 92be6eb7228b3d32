from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from collapsekit.checkpoint.formats import safetensors_npz as arrays
from collapsekit.checkpoint.formats.layout import DamagedError
from collapsekit.checkpoint.formats.safetensors_npz import (
    is_npz,
    is_safetensors,
    load_npz,
    load_safetensors,
    parse_json,
)
from collapsekit.checkpoint.formats.source import open_file
from collapsekit.checkpoint.formats.zip_archive import open_archive
from tests.checkpoint.formats.reading import DTYPES, any_json, assert_same, numbers, read, refused

SAFE = [d for d in DTYPES if d not in (torch.complex128,)]
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).filter(lambda n: n != "__metadata__")


@pytest.fixture(scope="module")
def spot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arrays") / "weights"


# --- safetensors ----------------------------------------------------------------------------------------------


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from(SAFE))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    return numbers(dtype, int(np.prod(shape)), seed=draw(st.integers(0, 9))).reshape(shape)


@settings(max_examples=120, deadline=None)
@given(st.dictionaries(names, tensors(), min_size=1, max_size=5), st.booleans())
def test_safetensors_are_those_the_library_loads(spot: Path, weights: dict[str, Tensor], told: bool) -> None:
    safetensors.torch.save_file(weights, spot, metadata={"format": "pt"} if told else None)
    try:
        want = safetensors.torch.load_file(spot)
    except KeyError:  # a dtype that it writes and does not read
        want = weights
    assert_same(want, weights, order=False)
    assert_same(read(spot), want, order=False)


def written(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else any_json(header)
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def one(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_tensors_may_be_told_in_any_order_of_their_bytes(spot: Path) -> None:
    written(spot, {"b": one(offsets=(8, 16)), "none": one(shape=(0,), offsets=(8, 8)), "a": one()}, bytes(range(16)))
    got = read(spot)
    assert list(got) == ["b", "none", "a"]
    assert got["a"].view(torch.uint8).tolist() == list(range(8))
    assert got["b"].view(torch.uint8).tolist() == list(range(8, 16))


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        ({"w": one()}, bytes(7), "lies outside the file"),
        ({"w": one()}, bytes(9), "its tensors take 8 of 9 bytes"),
        ({"w": one(offsets=(1, 9))}, bytes(9), "leave a hole at byte 1"),
        ({"w": one(), "v": one(offsets=(7, 15))}, bytes(15), "overlap at byte 7"),
        ({"w": one(shape=(3,))}, bytes(8), "claims 12 bytes of a storage of 8"),
        ({"w": one(shape=(1,))}, bytes(8), "has 8 bytes, its shape needs 4"),
        ({"w": one(shape=(-2,))}, bytes(8), "shape is not made of non-negative integers"),
        ({"w": one(offsets=(8, 0))}, bytes(8), "lies outside the file"),
        ({"w": one(offsets=(0, 8.0))}, bytes(8), "lies outside the file"),
        ({"w": one(offsets=(False, 8))}, bytes(8), "lies outside the file"),
        ({"w": one(offsets=(0,))}, bytes(8), "describes 'w' wrongly"),
        ({"w": one(dtype="F128")}, bytes(8), "describes 'w' wrongly, or with an unknown dtype"),
        ({"w": {"dtype": "F32"}}, bytes(8), "describes 'w' wrongly"),
        ({"w": 7}, bytes(8), "describes 'w' wrongly"),
        ({"w": one(dtype=[])}, bytes(8), "describes 'w' wrongly"),  # type: ignore[arg-type]
        (b'{"w": 1, "w": 2}', b"", "a key stands twice"),
        (b'{"w": NaN}', b"", "NaN is no number"),
        (b'{"w": -Infinity}', b"", "-Infinity is no number"),
        (b'{"w": \xff}', b"", "not the JSON it should be"),
        (b'{"w": ' + b"[" * 100_000, b"", "not the JSON it should be"),
        (b"{", b"", "not the JSON it should be"),
    ],
)
def test_safetensors_that_lie(spot: Path, header: Any, data: bytes, words: str) -> None:
    refused(written(spot, header, data), words, "safetensors")


def test_a_header_longer_than_the_file_or_than_any(spot: Path) -> None:
    named = spot.with_suffix(".safetensors")
    for length in (3, 1 << 20):
        refused(written(spot, {}, length=length), f"claims {length} bytes" if length > 2 else "")
    written(named, {}, length=1 << 40)
    refused(named, f"its header claims {1 << 40} bytes")
    assert is_safetensors(open_file(named))
    assert not is_safetensors(open_file(written(spot, {}, length=1 << 40)))
    assert not is_safetensors(open_file(written(spot, b"[]")))


def test_a_header_that_is_no_object(spot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "parse_json", lambda *_: [])
    with pytest.raises(DamagedError, match="its header is no JSON object"):
        load_safetensors(open_file(written(spot, {})))


@pytest.mark.parametrize("about", [[], "", 0, ["x"], {"x": 1}, {"x": None}, {"x": {"y": "z"}}])
def test_metadata_that_is_no_object_of_strings(spot: Path, about: Any) -> None:
    header = {"a": one(), "__metadata__": about}
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(written(spot, header, bytes(8)).read_bytes())
    refused(spot, "the __metadata__ in its header is no object of strings")
    assert list(read(written(spot, {**header, "__metadata__": {"x": "y"}}, bytes(8)))) == ["a"]
    assert list(read(written(spot, {**header, "__metadata__": None}, bytes(8)))) == ["a"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_json_is_as_json_reads_it(value: Any) -> None:
    assert parse_json(json.dumps(value).encode(), "it") == value


# --- npz ------------------------------------------------------------------------------------------------------

KINDS = [
    f"{order}{kind}" for kind in ("f2", "f4", "f8", "i2", "i4", "i8", "u2", "u4", "u8", "c8", "c16") for order in "<>"
]
KINDS += ["|i1", "|u1", "|b1"]
members = st.text("abc.é_", min_size=1, max_size=6)


@settings(max_examples=120, deadline=None)
@given(
    st.dictionaries(
        members,
        st.sampled_from(KINDS).flatmap(
            lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(["C", "F"]),
)
def test_npz_arrays_are_those_numpy_loads(spot: Path, arrays_: dict[str, np.ndarray[Any, Any]], order: Any) -> None:
    if len({name.lower() for name in arrays_}) < len(arrays_) or "file" in arrays_:
        return
    with spot.open("wb") as stream:
        np.savez(stream, **{k: np.asarray(v, order=order) for k, v in arrays_.items()})
    with np.load(spot) as loaded:
        want = {name: torch.from_numpy(np.array(a, a.dtype.newbyteorder("="), order="C")) for name, a in loaded.items()}
    assert_same(read(spot), want)


def npz(path: Path, raw: bytes, name: str = "a.npy") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, raw)
        archive.writestr("b.npy", npy(np.arange(2)))
    return path


def npy(array: Any, version: tuple[int, int] | None = None) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), version)
    return buffer.getvalue()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_npy(spot: Path, version: tuple[int, int]) -> None:
    array = np.arange(6.0).reshape(2, 3)
    got = read(npz(spot, npy(array, version)))
    assert got["a"].tolist() == array.tolist()


@pytest.mark.parametrize(
    "array",
    [
        np.array(["x"]),
        np.array([b"x"]),
        np.array(["2020-01-01"], dtype="datetime64[s]"),
        np.array([(1, 2)], dtype=[("Offset", "<i4"), ("b", "<f4")]),
        np.zeros(2, np.longdouble),
    ],
)
def test_arrays_that_are_not_of_numbers_are_left_out(spot: Path, array: Any) -> None:
    npz(spot, npy(array))
    file = open_file(spot)
    content = load_npz(open_archive(file.whole), file).content
    assert content["a"] is None
    assert list(read(spot)) == ["b"]


@pytest.mark.parametrize("array", [np.array([{}], dtype=object), np.array([(1, [])], dtype=[("a", "i4"), ("b", "O")])])
def test_arrays_of_objects_are_refused(spot: Path, array: Any) -> None:
    refused(npz(spot, npy(array)), "arrays of Python objects", "np.savez")


HEADER = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"


def by_hand(
    header: bytes = HEADER, data: bytes = bytes(8), magic: bytes = b"\x93NUMPY\x01\x00", more: int = 0
) -> bytes:
    return magic + struct.pack("<H", len(header) + 1 + more) + header + b"\n" + data


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "'a.npy' is no .npy array"),
        (b"\x93NUMPY\x01\x00\x01\x00{", "'a.npy' is no .npy array"),
        (by_hand(magic=b"\x93NUMPX\x01\x00"), "'a.npy' is no .npy array"),
        (by_hand(magic=b"\x93NUMPY\x04\x00"), "'a.npy' is no .npy array"),
        (by_hand(more=100), "the header of its member 'a.npy' is not what NumPy writes"),
        (by_hand(HEADER.replace(b"False", b"0")), "is not what NumPy writes"),
        (by_hand(HEADER.replace(b"(2,)", b"(-2,)")), "is not what NumPy writes"),
        (by_hand(HEADER.replace(b"'shape'", b"'more': 1, 'shape'")), "is not what NumPy writes"),
        (by_hand(data=bytes(7)), "claims 8 bytes of a storage of 7"),
        (by_hand(data=bytes(9)), "has 9 bytes, its shape needs 8"),
        (by_hand(HEADER.replace(b"2,", b"9" * 19)), "shape is not made of"),
    ],
)
def test_npz_that_lies(spot: Path, raw: bytes, words: str) -> None:
    assert read(npz(spot, by_hand()))["a"].tolist() == [0, 0]
    refused(npz(spot, raw), words)


def test_a_zip_of_arrays_alone_is_npz(spot: Path) -> None:
    def told(name: str) -> bool:
        return is_npz(open_archive(open_file(npz(spot, npy([1]), name)).whole))

    assert told("a.npy")
    assert not told("a.txt")
    with zipfile.ZipFile(spot, "w"):
        pass
    assert not is_npz(open_archive(open_file(spot).whole))


def test_more_than_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    safetensors.torch.save_file({"a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "w")
    monkeypatch.setattr(arrays, "MAX_TENSORS", 1)
    said = "is a safetensors file beyond what is read here (it has 2 tensors, more than the 1 that are read): save the"
    refused(tmp_path / "w", said)
    monkeypatch.setattr(arrays, "JSON_LIMIT", 10)
    refused(tmp_path / "w", "more than the 10 that are read")
    monkeypatch.undo()
    monkeypatch.setattr("collapsekit.checkpoint.formats.detect._NAMES", 1)
    refused(tmp_path / "w", "the names of its tensors take more than the 1 characters that are read")
