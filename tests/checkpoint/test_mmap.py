from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from collapsekit.checkpoint import mmap as mapping
from collapsekit.checkpoint.formats.handles import identity
from collapsekit.checkpoint.mmap import mapped
from collapsekit.errors import RefusedError
from tests.checkpoint.formats.reading import DTYPES, bits, numbers, views


@pytest.fixture(scope="module")
def spot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mapped") / "numbers"


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def listed(*paths: Path) -> list[list[Any]]:
    return [[str(p), *identity(p.stat())] for p in paths]


def one(
    path: Path,
    shape: Any = (2,),
    stride: Any = (1,),
    offset: int = 0,
    dtype: str = "float32",
    origin: Any = (),
    swapped: bool = False,
    file: int = 0,
) -> Tensor:
    chunk = [file, offset, list(shape), list(stride), list(origin), swapped]
    return mapped(listed(path), [["w", dtype, list(shape), [chunk]]])["w"]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(DTYPES), st.integers(1, 30), st.integers(0, 20), st.booleans(), st.data())
def test_any_view_anywhere_in_a_file(
    spot: Path, dtype: torch.dtype, count: int, before: int, swapped: bool, data: st.DataObject
) -> None:
    base = numbers(dtype, count)
    view = data.draw(views(base))
    part = dtype.itemsize // 2 if dtype.is_complex else dtype.itemsize
    raw = bits(base)
    if swapped:
        raw = b"".join(raw[i : i + part][::-1] for i in range(0, len(raw), part))
    spot.write_bytes(bytes(before) + raw)
    offset = before + view.storage_offset() * dtype.itemsize
    got = one(spot, view.shape, view.stride(), offset, name_of(dtype), swapped=swapped)
    assert (got.dtype, got.shape) == (dtype, view.shape)
    assert bits(got) == bits(view)
    assert not got.requires_grad
    assert not got.numel() or got.stride() == view.stride()


@pytest.mark.parametrize("offset", [0, 1, 4, 6, 8])
def test_writing_never_reaches_the_file_nor_the_next_read(spot: Path, offset: int) -> None:
    spot.write_bytes(bytes(64))
    for _ in range(2):
        got = one(spot, (4,), (1,), offset)
        assert got.tolist() == [0] * 4
        got += 1
        assert got.tolist() == [1] * 4
    assert spot.read_bytes() == bytes(64)


def test_what_is_aligned_shares_memory_and_what_is_not_is_copied(spot: Path) -> None:
    spot.write_bytes(bytes(64))

    def tied(offset: int, dtype: str = "float32", **more: Any) -> bool:
        chunk = [0, offset, [4], [1], [], False]
        a, b = mapped(listed(spot), [[name, dtype, [4], [chunk]] for name in "ab"]).values()
        a.fill_(1)
        return b.tolist() == a.tolist() == [1] * 4

    for offset, dtype in ((8, "float32"), (6, "float32"), (3, "uint8"), (3, "bool")):
        assert tied(offset, dtype)  # a copy is one for all
    assert one(spot, offset=8).untyped_storage().nbytes() == 64
    assert one(spot, offset=6).untyped_storage().nbytes() == 8


@settings(max_examples=60)
@given(st.binary(min_size=1, max_size=20))
def test_bytes_that_are_no_bool_are_true(spot: Path, raw: bytes) -> None:
    spot.write_bytes(raw)
    got = one(spot, (len(raw),), (1,), 0, "bool")
    assert got.tolist() == [byte != 0 for byte in raw]
    assert set(bits(got)) <= {0, 1}


def test_several_blocks_are_joined_over_files(spot: Path, tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    blocks = [whole[:2, :1], whole[:2, 1:], whole[2:, :]]
    other = tmp_path / "other"
    spot.write_bytes(bits(blocks[0]) + bits(blocks[2]))
    other.write_bytes(b"xxx" + bits(blocks[1].T))
    chunks = [
        [0, 0, [2, 1], [1, 1], [0, 0], False],
        [1, 3, [2, 3], [1, 2], [0, 1], False],
        [0, 8, [1, 4], [4, 1], [2, 0], False],
    ]
    got = mapped(listed(spot, other), [["w", "float32", [3, 4], chunks]])["w"]
    assert torch.equal(got, whole)
    assert torch.equal(one(spot, (2, 1), (1, 1), 0, origin=(0, 0)), blocks[0])
    assert mapped([], [["none", "int8", [0, 3], []]])["none"].shape == (0, 3)


# --- a child that lies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": -1},
        {"offset": -8},
        {"offset": 64},
        {"offset": 57},
        {"offset": 1 << 62},
        {"shape": (17,), "stride": (1,)},
        {"shape": (2,), "stride": (16,)},
        {"shape": (2, 2), "stride": (14, 2)},
        {"shape": (-2,)},
        {"shape": (0, -2), "stride": (1, 1)},
        {"shape": (-2, -2), "stride": (1, 1)},
        {"shape": (2,), "stride": (-1,), "offset": 8},
        {"shape": (3, 2), "stride": (-1, 5), "offset": 8},
        {"shape": (1 << 40, 1 << 40), "stride": (1, 1)},
        {"shape": (17,), "swapped": True},
        {"shape": (65,), "dtype": "bool"},
    ],
)
def test_a_place_outside_the_file(spot: Path, changes: dict[str, Any]) -> None:
    spot.write_bytes(bytes(64))
    assert one(spot, (16,)).shape == (16,)
    with pytest.raises(RefusedError, match="located outside its file"):
        one(spot, **changes)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-2, 5), st.integers(-3, 9)), max_size=3),
    st.integers(-5, 70),
    st.sampled_from(["uint8", "float32", "complex128", "bool"]),
    st.booleans(),
)
def test_every_element_lies_in_the_file_or_it_is_refused(
    spot: Path, axes: list[tuple[int, int]], offset: int, dtype: str, swapped: bool
) -> None:
    shape, stride = [n for n, _ in axes], [s for _, s in axes]
    spot.write_bytes(bytes(range(64)))
    item = getattr(torch, dtype).itemsize
    try:
        got = one(spot, shape, stride, offset, dtype, swapped=swapped)
    except RefusedError:
        return
    if got.numel():
        last = offset + (sum((n - 1) * s for n, s in axes) + 1) * item
        assert offset >= 0
        assert last <= 64
        assert got.tolist() is not None


@pytest.mark.parametrize(
    ("origin", "size", "shape"),
    [
        ((1, 0), (2, 2), (2, 2)),
        ((0, 0), (2, 2), (1, 4)),
        ((-1, 0), (2, 2), (2, 2)),
        ((0, 0), (-1, 2), (2, 2)),
        ((0,), (2, 2), (2, 2)),
        ((0, 0), (2, 2), (4,)),
        ((0, 0), (2, 2), (2, -2)),
    ],
)
def test_pieces_that_do_not_fit(spot: Path, origin: Any, size: Any, shape: Any) -> None:
    spot.write_bytes(bytes(64))
    chunk = [0, 0, list(size), [1, 1], list(origin), False]
    with pytest.raises(RefusedError, match="the pieces of the tensor 'w' do not fit into it"):
        mapped(listed(spot), [["w", "int8", list(shape), [chunk]]])


def test_files_that_are_not_those_told(spot: Path, tmp_path: Path) -> None:
    spot.write_bytes(bytes(64))
    tensors = [["w", "float32", [2], [[0, 0, [2], [1], [], False]]]]
    path, *known = listed(spot)[0]
    mapped([[path, *known]], tensors)
    for place in range(len(known)):  # another device, inode, size or time
        wrong = [n + (i == place) for i, n in enumerate(known)]
        with pytest.raises(RefusedError, match="changed while it was being read"):
            mapped([[path, *wrong]], tensors)
    os.utime(spot, ns=(1, 1))
    with pytest.raises(RefusedError, match="changed while it was being read"):
        mapped([[path, *known]], tensors)
    with pytest.raises(RefusedError, match=r"cannot be read .*No such file"):
        mapped([[str(tmp_path / "gone"), *known]], [])
    (tmp_path / "empty").touch()
    with pytest.raises(RefusedError, match="cannot be read"):
        mapped(listed(tmp_path / "empty"), [])


def test_a_dtype_that_is_not_there(spot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spot.write_bytes(bytes(64))
    for dtype in ("float7", "qint8", "load"):
        with pytest.raises(RefusedError, match=f"the tensor 'w' is of dtype {dtype}, which this torch does not have"):
            one(spot, dtype=dtype)
    monkeypatch.delitem(mapping._DTYPES, "float32")  # a torch of another version
    with pytest.raises(RefusedError, match="update it"):
        one(spot)


def test_no_more_is_copied_than_the_file_holds_and_a_little(spot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spot.write_bytes(bytes(64))
    places = [["w", "bool", [n], [[0, at, [n], [1], [], False]]] for n, at in ((40, 0), (41, 0), (42, 0))]
    assert len(mapped(listed(spot), places)) == 1
    monkeypatch.setattr(mapping, "_COPIED", 0)
    mapped(listed(spot), places[:1])
    with pytest.raises(
        RefusedError, match="numbers has a tensor 'w' that would have to be copied, and with it far more"
    ):
        mapped(listed(spot), places)


def test_too_many_open_files_are_no_fault_of_the_file(spot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spot.write_bytes(bytes(64))
    told = listed(spot)

    def exhausted(_: Path) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(mapping, "open_regular", exhausted)
    with pytest.raises(RefusedError, match=r"Too many open files.*allow more open files with `ulimit -n`"):
        mapped(told, [])


def test_maps_are_made_anew_now_and_then(spot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spot.write_bytes(bytes(64))
    made: list[Path] = []
    real = mapping.open_regular

    def opened(path: Path) -> Any:
        made.append(path)
        return real(path)

    monkeypatch.setattr(mapping, "open_regular", opened)
    places = [["w", "int8", [8], [[0, 0, [8], [1], [], False]]]] * 6
    for most, times in ((1 << 20, 1), (15, 3), (0, 6)):
        made.clear()
        monkeypatch.setattr(mapping, "_IN_TURN", most)
        assert len(list(mapping.mapped_in_turn(listed(spot), places))) == 6
        assert len(made) == times
