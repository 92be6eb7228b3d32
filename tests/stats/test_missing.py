"""Masks of absent modalities, and nearest examples against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.missing import absence, nearest

QUICK = settings(max_examples=30, deadline=None, derandomize=True)


def uniforms(seed: int, n: int, m: int) -> Tensor:
    return torch.rand(n, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@QUICK
@given(st.integers(0, 99), st.integers(1, 5), st.floats(0, 1), st.floats(0, 1))
def test_masks_are_nested_and_leave_something(seed: int, m: int, a: float, b: float) -> None:
    u = uniforms(seed, 50, m)
    low, high = absence(u, min(a, b)), absence(u, max(a, b))
    assert not bool((low & ~high).any())
    assert bool((~high).any(1).all())
    # A modality is there only if its number says so, or as the last one.
    assert bool((high == (u < max(a, b))).all(1)[(u >= max(a, b)).any(1)].all())


@QUICK
@given(st.integers(0, 99), st.floats(0, 1))
def test_masks_follow_the_columns(seed: int, rate: float) -> None:
    u = uniforms(seed, 40, 4)
    order = [2, 0, 3, 1]
    assert torch.equal(absence(u[:, order], rate), absence(u, rate)[:, order])


@pytest.mark.parametrize(("rate", "m"), [(0.3, 2), (0.95, 2), (0.7, 4), (1.0, 3)])
def test_the_share_of_absent_entries_is_the_stated_one(rate: float, m: int) -> None:
    found = absence(uniforms(1, 20_000, m), rate).double().mean()
    assert float(found) == pytest.approx(rate - rate**m / m, abs=0.01)


def test_impossible_rates_and_shapes_are_refused() -> None:
    with pytest.raises(NumericsError, match=r"0\.\.1, found 1\.5"):
        absence(uniforms(0, 3, 2), 1.5)
    with pytest.raises(NumericsError, match="shape"):
        absence(torch.rand(3), 0.5)


def everyone(n: int, m: int) -> Tensor:
    return torch.ones(1, n, m, dtype=torch.bool)


def by_sklearn(query: list[Tensor], bank: list[Tensor], chosen: list[int], neighbours: int = 1) -> np.ndarray:
    ours, theirs = [], []
    for i in chosen:
        scaler = StandardScaler().fit(bank[i].double())
        root = bank[i].shape[1] ** 0.5
        ours.append(scaler.transform(query[i].double()) / root)
        theirs.append(scaler.transform(bank[i].double()) / root)
    found = NearestNeighbors(n_neighbors=neighbours).fit(np.hstack(theirs))
    return found.kneighbors(np.hstack(ours), return_distance=False)[:, -1]


@pytest.mark.parametrize("chosen", [[0], [1], [2], [0, 2], [0, 1, 2]])
def test_neighbours_are_those_of_scikit_learn(chosen: list[int]) -> None:
    bank = [normal(0, 300, 4) * 5 + 100, normal(1, 300, 9), normal(2, 300, 2) * torch.tensor([1.0, 50.0])]
    query = [normal(3, 80, 4) * 5 + 100, normal(4, 80, 9), normal(5, 80, 2) * torch.tensor([1.0, 50.0])]
    present = torch.zeros(1, 80, 3, dtype=torch.bool)
    present[:, :, chosen] = True
    np.testing.assert_array_equal(nearest(query, bank, present)[0], by_sklearn(query, bank, chosen))


def test_neighbours_are_found_by_what_each_example_has() -> None:
    bank, query = [normal(0, 50, 3), normal(1, 50, 5)], [normal(2, 20, 3), normal(3, 20, 5)]
    present = torch.zeros(2, 20, 2, dtype=torch.bool)
    present[0, :, 0] = True
    present[1, :10, 1] = present[1, 10:] = True
    found = nearest(query, bank, present)
    np.testing.assert_array_equal(found[0], by_sklearn(query, bank, [0]))
    np.testing.assert_array_equal(found[1, :10], by_sklearn(query, bank, [1])[:10])
    np.testing.assert_array_equal(found[1, 10:], by_sklearn(query, bank, [0, 1])[10:])


def test_an_example_is_not_its_own_neighbour_within_the_bank() -> None:
    x = [normal(0, 60, 3), normal(1, 60, 2)]
    np.testing.assert_array_equal(nearest(x, x, everyone(60, 2))[0], np.arange(60))
    found = nearest(x, x, everyone(60, 2), within=True)[0]
    np.testing.assert_array_equal(found, by_sklearn(x, x, [0, 1], neighbours=2))


def test_large_banks_are_gone_through_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, query = [normal(0, 50, 3), normal(1, 50, 5)], [normal(2, 23, 3), normal(3, 23, 5)]
    present = uniforms(0, 23, 2)[None] < 0.5
    present[0, :, 0] |= ~present[0].any(1)
    whole = nearest(query, bank, present)
    monkeypatch.setattr("collapsekit.stats.missing._BLOCK", 50 * 2 * 4)
    assert torch.equal(nearest(query, bank, present), whole)


def test_the_first_of_equals_wins_and_constant_columns_say_nothing() -> None:
    bank = torch.tensor([[3.0, 7.0], [1.0, 7.0], [1.0, 7.0], [2.0, 7.0]])
    assert nearest([torch.tensor([[0.9, 1000.0]])], [bank], everyone(1, 1)).tolist() == [[1]]


def test_the_order_of_modalities_does_not_matter() -> None:
    bank, query = [normal(i, 40, 3) for i in range(3)], [normal(9 + i, 30, 3) for i in range(3)]
    present = torch.rand(4, 30, 3, generator=torch.Generator().manual_seed(0)) < 0.6
    present[:, :, 1] |= ~present.any(2)
    order = [2, 0, 1]
    again = nearest([query[i] for i in order], [bank[i] for i in order], present[:, :, order])
    assert torch.equal(again, nearest(query, bank, present))


def test_refusals() -> None:
    x = [normal(0, 5, 2)]
    with pytest.raises(NumericsError, match="at least one present"):
        nearest(x, x, ~everyone(5, 1))
    with pytest.raises(NumericsError, match="needs 2 to look among, found 1"):
        nearest([x[0][:1]], [x[0][:1]], everyone(1, 1), within=True)
