from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collapsekit.checkpoint.formats.layout import ITEM_BYTES, DamagedError, Extent, contiguous, dense, whole

HERE = Path("weights")


@pytest.mark.parametrize("name", ITEM_BYTES)
def test_sizes_of_elements_are_those_of_torch(name: str) -> None:
    assert getattr(torch, name).itemsize == ITEM_BYTES[name]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=4),
    st.integers(0, 9),
    st.integers(0, 60),
    st.sampled_from(["uint8", "int16", "float32", "complex128"]),
)
def test_a_view_is_taken_where_torch_takes_it(axes: list[tuple[int, int]], offset: int, count: int, dtype: str) -> None:
    shape, stride = [n for n, _ in axes], [s for _, s in axes]
    item = ITEM_BYTES[dtype]
    extent = Extent(HERE, 100, count * item + item - 1)  # a part of a number at the end is none
    storage = torch.zeros(count, dtype=getattr(torch, dtype))
    try:
        view = storage.as_strided(shape, stride, offset)
    except RuntimeError:
        with pytest.raises(DamagedError, match="claims"):
            dense(dtype, shape, stride, offset, extent)
        return
    if not view.numel() and offset > count:  # torch does not look where an empty view begins
        with pytest.raises(DamagedError, match="claims"):
            dense(dtype, shape, stride, offset, extent)
        return
    got = dense(dtype, shape, stride, offset, extent, swapped=True)
    (chunk,) = got.chunks
    assert (got.dtype, got.shape, got.bytes) == (dtype, tuple(shape), view.numel() * item)
    assert (chunk.path, chunk.offset) == (HERE, 100 + offset * item)
    assert (chunk.shape, chunk.stride, chunk.origin, chunk.swapped) == (tuple(shape), tuple(stride), (), True)


@given(st.lists(st.integers(0, 5), max_size=5))
def test_contiguous_is_as_torch_lays_a_tensor_out(shape: list[int]) -> None:
    assert contiguous(shape) == torch.empty(shape).stride()
    if 0 not in shape:
        assert dense("int8", shape, None, 0, Extent(HERE, 0, 5**5)).chunks[0].stride == torch.empty(shape).stride()


def test_contiguous_of_more_than_can_be_is_no_stride() -> None:
    assert contiguous([1, 1 << 40, 1 << 40]) == (0, 1 << 40, 1)


@pytest.mark.parametrize(
    ("dtype", "shape", "stride", "offset", "says"),
    [
        ("quint8", [1], [1], 0, "'quint8'"),
        ("int8", [1, 1], [1], 0, "2 dimensions and 1 strides"),
        ("int8", [1] * 65, None, 0, "65 dimensions"),
        ("int8", [-1], [1], 0, "shape is not"),
        ("int8", [1], [-1], 0, "stride is not"),
        ("int8", [1], [1], -1, "offset is not"),
        ("int8", [1 << 63], [0], 0, "shape is not"),
        ("int8", [0, 1 << 40, 1 << 40], [0, 0, 0], 0, "shape 0 x 1099511627776 x 1099511627776 claims more elements"),
        ("int8", [2, 3, 4], [0, 0, 1 << 62], 0, "shape 2 x 3 x 4 (int8)"),
        ("int16", [], [], 5, "shape () (int16) claims 12 bytes of a storage of 8"),
    ],
)
def test_a_layout_that_is_no_view_of_its_bytes_is_refused(
    dtype: str, shape: list[int], stride: list[int] | None, offset: int, says: str
) -> None:
    with pytest.raises(DamagedError) as e:
        dense(dtype, shape, stride, offset, Extent(HERE, 0, 8))
    assert says in str(e.value)


@pytest.mark.parametrize("numbers", [None, "12", {1: 2}, [1.0], [True], ["1"], [None], (1, -1), [1 << 63], range(2)])
def test_shapes_that_are_no_sizes_are_refused(numbers: Any) -> None:
    with pytest.raises(DamagedError, match="a tensor's shape is not made of non-negative integers"):
        whole(numbers, "shape")
    assert whole([0, (1 << 63) - 1], "shape") == (0, (1 << 63) - 1)
