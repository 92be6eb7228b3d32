"""Values that do not stack: kept once by what they hold, padded as the model is given them, and described by numbers."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from collapsekit.data.objects import ObjectStore, describe, pad_rows, unpad_rows
from collapsekit.data.paths import MISSING, field_names, find_field, named_parts, replace_field
from collapsekit.errors import DataError


def test_a_value_is_known_by_what_it_holds() -> None:
    store = ObjectStore("x")
    values: list[Any] = [
        torch.arange(3),
        torch.arange(3.0),
        torch.arange(3)[None],
        "a",
        b"a",
        None,
        0,
        False,
        0.0,
        ["a"],
    ]
    ids = store.add(values)
    assert len(set(ids.tolist())) == len(values)
    again = ObjectStore("x").add([torch.arange(3).clone(), "a", ["a"]])
    assert again.tolist() == [ids[0], ids[3], ids[9]]  # in another store and order, too
    assert torch.equal(store.take(ids[:1])[0], torch.arange(3))
    assert store.add([np.arange(3)]).tolist() == ids[:1].tolist()


def test_what_cannot_be_told_is_refused() -> None:
    deep: Any = "x"
    for _ in range(12):
        deep = [deep]
    with pytest.raises(DataError, match="deeper than 8 levels"):
        ObjectStore("x").add([deep])
    with pytest.raises(DataError, match="'x' is object, expected"):
        ObjectStore("x").add([object()])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 2**31 - 1), st.sampled_from([0.0, -1.0]))
def test_padding_is_taken_off_again(lengths: list[int], seed: int, padding: float) -> None:
    g = torch.Generator().manual_seed(seed)
    rows = [torch.rand(length, 2, generator=g) + 0.5 for length in lengths]
    padded = pad_rows(rows, padding, "x")
    assert padded.shape == (len(rows), max(lengths), 2)
    for row, plain in zip(unpad_rows(padded, padding), rows, strict=True):
        assert torch.equal(row, plain)
    wider = torch.cat(
        [padded, torch.full((len(rows), 3, 2), padding)], 1
    )  # the same rows in the company of longer ones
    assert all(torch.equal(a, b) for a, b in zip(unpad_rows(wider, padding), rows, strict=True))


def test_what_a_model_is_given() -> None:
    rows = [torch.ones(2), torch.ones(3)]
    padded, listed = ObjectStore("x", "padded", -1.0), ObjectStore("x", "list")
    assert padded.collect(padded.add(rows)).tolist() == [[1, 1, -1], [1, 1, 1]]
    found = listed.collect(listed.add(rows))
    assert [v.tolist() for v in found] == [[1, 1], [1, 1, 1]]
    found[0][0] = 7  # a model may write into what it is given
    assert listed.collect(listed.add(rows))[0].tolist() == [1, 1]
    assert listed.collect(listed.add([None, None])) == [None, None]  # a list, as the others are
    assert listed.collect(listed.add([None, None]), optional=True) is None
    assert padded.collect(padded.add([None, None])) is None
    listed.whole = True
    assert listed.collect(listed.add([None, None])) is None  # as batches of the data have it
    with pytest.raises(DataError, match="NoneType and Tensor"):
        padded.collect(padded.add([None, torch.ones(2)]))


def test_values_of_one_kind_are_described_by_as_many_numbers() -> None:
    for values in ([torch.rand(3, 4), torch.rand(5, 4)], [torch.tensor([1, 2]), torch.tensor([300])], ["a b", "c"]):
        assert len({len(describe(v)) for v in values}) == 1
    bag = describe(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    assert bag.tolist() == [1.0, 2.0, 2.0, 4.0, 3.0, 6.0, 1.0, 2.0]  # there, two of them, mean, largest, least
    image = torch.rand(3, 2, 5)
    assert torch.allclose(describe(image)[2:5], image.mean((1, 2)))
    assert torch.equal(describe("One two, two"), describe("two one TWO"))
    store = ObjectStore("x")
    numbers = store.numbers(store.add([None, torch.rand(2, 4), torch.rand(3, 4)]))
    assert numbers.shape == (3, 14)
    assert not bool(numbers[0].any())
    with pytest.raises(DataError, match="of different kinds"):
        store.numbers(store.add([torch.rand(2, 4), torch.rand(2, 4, 3)]))


@dataclass(frozen=True)
class Sample:
    image: Tensor
    nested: Any


Pair = namedtuple("Pair", ["image", "label"])


def test_an_axis_that_all_share_is_told_apart_wherever_it_is() -> None:
    """As of edges, (2, E): whatever axis varies, there are as many numbers of each, and more values may come."""
    store = ObjectStore("edges")
    edges = [torch.tensor([[0, 1], [1, 5]]), torch.tensor([[0], [3]]), torch.zeros(2, 0, dtype=torch.int64)]
    first = store.numbers(store.add(edges[:1]))  # one alone: the last axis is as good
    found = store.numbers(store.add(edges))
    assert first.shape == (1, 8)
    assert found[:, :2].tolist() == [[1, 2], [1, 1], [1, 0]]
    assert found[0, 2:].tolist() == [0.5, 3.0, 1.0, 5.0, 0.0, 1.0]  # mean, largest, least of both rows
    assert found[1, 2:].tolist() == [0.0, 3.0, 0.0, 3.0, 0.0, 3.0]


def test_values_of_one_shape_are_told_as_they_are() -> None:
    """A model may want a list of pictures: what is in them lies where it lies all the same."""
    store = ObjectStore("images", form="list")
    images = [torch.rand(3, 4, 5), torch.randint(0, 255, (3, 4, 5), dtype=torch.uint8), None]
    found = store.numbers(store.add(images))
    assert found.shape == (3, 3, 4, 5)
    assert torch.equal(found[0], images[0])  # type: ignore[arg-type]
    assert torch.equal(found[1], images[1].float())  # type: ignore[union-attr]
    assert not bool(found[2].any())
    ids = ObjectStore("ids")
    assert ids.numbers(ids.add([torch.tensor([4, 2]), torch.tensor([2, 2])])).shape == (2, 258)  # counted, as ever


def test_tensors_that_differ_in_every_axis_are_told_as_a_whole() -> None:
    store = ObjectStore("scans")
    found = store.numbers(store.add([torch.arange(6.0).reshape(2, 3), torch.ones(1, 4)]))
    assert found.tolist() == [[1, 6, 2.5, 5, 0], [1, 4, 1, 1, 1]]


def test_fields_by_path() -> None:
    x = torch.zeros(2)
    assert find_field({"a.b": x}, "a.b") is x
    assert find_field({"a": {"b.c": x}}, "a.b.c") is x
    assert find_field(Sample(x, [{"k": 3}]), "nested.0.k") == 3
    assert find_field(Pair(x, 1), "label") == 1
    assert find_field((x, 1), "1") == 1
    assert find_field({"a": 1}, "a.b") is MISSING
    assert find_field({"a": 1}, "__class__") is MISSING
    assert find_field(Sample(x, 1), "__class__.__name__") is MISSING  # what is no field is not reached
    assert named_parts((x, 1), ["image"]) == {"image": x, "1": 1}
    assert field_names(Sample(x, 1)) == ["image", "nested"]


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a.b": 1, "c": 2}, "a.b"),
        ({"a": {"b": [1, (2, 3)]}}, "a.b.1.0"),
        (Sample(torch.zeros(2), {"k": 1}), "nested.k"),
        (Pair(1, {"x": 2}), "label.x"),
        (Pair(1, 2), "0"),
    ],
)
def test_a_field_is_replaced_in_a_copy(value: Any, path: str) -> None:
    before = find_field(value, path)
    new = replace_field(value, path, "new")
    assert find_field(new, path) == "new"
    assert find_field(value, path) == before
    assert type(new) is type(value)
    with pytest.raises(KeyError):
        replace_field(value, path + ".nowhere", 1)
