"""Which examples are of which kind, whatever says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from collapsekit.data.objects import ObjectStore
from collapsekit.errors import DataError
from collapsekit.features.categories import FEWEST, MOST, read_categories

N = 320
GROUPS = torch.arange(N) % 16


def names(column: Tensor, objects: Any = None) -> dict[str, list[int]]:
    found = read_categories({"kind": column}, "kind", objects or {}, GROUPS, "test")
    return {c.name: c.rows.tolist() for c in found}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (torch.tensor([10, 9]), ["kind 9", "kind 10"]),
        (torch.tensor([[2.5], [-1.0]]), ["kind -1", "kind 2.5"]),
        (torch.tensor([True, False]), ["kind 0", "kind 1"]),
        (torch.tensor([1234567, 1234568]), ["kind 1234567", "kind 1234568"]),  # no digit is lost
        (torch.tensor([2**60, 2**60 + 1]), [f"kind {2**60}", f"kind {2**60 + 1}"]),
        (torch.tensor([float("nan"), 0.0]), ["(none)", "kind 0"]),
    ],
)
def test_numbers_are_in_their_order(values: Tensor, expected: list[str]) -> None:
    found = names(values.repeat(N // 2, *[1] * (values.ndim - 1)))
    assert list(found) == expected
    rows = {0: list(range(0, N, 2)), 1: list(range(1, N, 2))}
    turned = expected[0].endswith(("9", "-1", "kind 0"))
    assert list(found.values()) == ([rows[1], rows[0]] if turned else [rows[0], rows[1]])


def test_texts_are_in_theirs_behind_numbers() -> None:
    store = ObjectStore("kind", "list")
    column = store.add(["where", None, "how many", 3] * (N // 4))
    assert list(names(column, {"kind": store})) == ["(none)", "kind 3", "how many", "where"]


def test_groups_are_counted_without_those_that_no_example_is_in() -> None:
    column = (GROUPS % 4 == 1).long()
    few = read_categories({"kind": column}, "kind", {}, GROUPS, "test")[1]
    assert few.numbers.tolist() == [1, 5, 9, 13]
    assert few.groups.tolist() == [0, 1, 2, 3] * (N // 16)
    assert few.places.tolist() == [0, 2, 6, 10, 14]
    assert "4 jackknife groups" in str(few.why_not)
    assert few.rows.numel() > FEWEST


def test_more_kinds_than_that_are_no_kinds() -> None:
    assert len(names(torch.arange(N) % MOST)) == MOST
    with pytest.raises(DataError, match=f"has {MOST + 1} different values"):
        names(torch.arange(N) % (MOST + 1))


def test_without_a_key_there_are_none() -> None:
    assert read_categories({}, None, {}, GROUPS, "test") == ()
