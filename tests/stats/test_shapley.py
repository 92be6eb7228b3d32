"""Shapley values against the mean over all orders, and the axioms that define them."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collapsekit.errors import NumericsError
from collapsekit.stats.shapley import exact, sampled

QUICK = settings(max_examples=25, deadline=None, derandomize=True)


def worths(seed: int, m: int, *shape: int) -> torch.Tensor:
    return torch.randn(2**m, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def over_all_orders(values: torch.Tensor, m: int) -> torch.Tensor:
    credits = torch.zeros(m, *values.shape[1:], dtype=torch.float64)
    orders = list(itertools.permutations(range(m)))
    for order in orders:
        mask = 0
        for player in order:
            credits[player] += (values[mask | 1 << player] - values[mask]) / len(orders)
            mask |= 1 << player
    return credits


@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_equals_the_mean_over_all_orders(m: int) -> None:
    values = worths(0, m, 3, 2)
    torch.testing.assert_close(exact(values), over_all_orders(values, m), rtol=1e-12, atol=1e-12)


@QUICK
@given(seed=st.integers(0, 999), m=st.integers(1, 8))
def test_credits_add_up_to_the_whole_gain(seed: int, m: int) -> None:
    values = worths(seed, m)
    assert float(exact(values).sum()) == pytest.approx(float(values[-1] - values[0]), abs=1e-10)


@QUICK
@given(seed=st.integers(0, 999), order=st.permutations(range(4)))
def test_permuting_players_permutes_credits(seed: int, order: list[int]) -> None:
    values = worths(seed, 4)
    renamed = torch.empty_like(values)
    for mask in range(16):
        renamed[sum(1 << order[i] for i in range(4) if mask >> i & 1)] = values[mask]
    torch.testing.assert_close(exact(renamed)[order], exact(values), rtol=1e-12, atol=1e-12)


@QUICK
@given(seed=st.integers(0, 999), player=st.integers(0, 3))
def test_null_and_symmetric_players(seed: int, player: int) -> None:
    values = worths(seed, 4)
    other = (player + 1) % 4
    null, twins = values.clone(), values.clone()
    for mask in range(16):
        null[mask] = values[mask & ~(1 << player)]
        swapped = mask & ~(1 << player | 1 << other)
        swapped |= (mask >> player & 1) << other | (mask >> other & 1) << player
        twins[mask] = values[mask] + values[swapped]
    assert float(exact(null)[player]) == pytest.approx(0.0, abs=1e-12)
    assert float(exact(twins)[player]) == pytest.approx(float(exact(twins)[other]), abs=1e-12)
    drawn, error = sampled(lambda mask: null[mask], 4, 3, torch.Generator().manual_seed(seed))
    assert float(drawn[player]) == 0.0
    assert float(error[player]) == 0.0


def test_redundant_players_share_what_leave_one_out_credits_to_none() -> None:
    values = torch.tensor([0.0, 0.9, 0.9, 0.9])
    assert exact(values).tolist() == pytest.approx([0.45, 0.45])


def test_sampling_converges_within_its_standard_error() -> None:
    values = worths(1, 6, 50)
    mean, error = sampled(lambda mask: values[mask], 6, 400, torch.Generator().manual_seed(0))
    z = (mean - exact(values)) / error
    assert mean.shape == error.shape == (6, 50)
    # 300 standardised errors; they are dependent within an output, so the limits are wide.
    assert 0.8 < float(z.square().mean().sqrt()) < 1.2
    assert float(error.max()) < 0.1


def test_a_draw_adds_up_and_each_subset_is_asked_once() -> None:
    values = worths(2, 5, 4)
    asked: list[int] = []

    def worth(mask: int) -> torch.Tensor:
        asked.append(mask)
        return values[mask]

    mean, error = sampled(worth, 5, 7, torch.Generator().manual_seed(3))
    again, _ = sampled(lambda mask: values[mask], 5, 7, torch.Generator().manual_seed(3))
    assert torch.equal(mean, again)
    assert len(asked) == len(set(asked))
    torch.testing.assert_close(mean.sum(dim=0), values[-1] - values[0], rtol=0, atol=1e-12)
    assert bool((error >= 0).all())


def test_reversed_orders_cancel_what_pairs_of_players_do_together() -> None:
    """With interactions of at most two players a draw is exact, which single orders are not."""
    g = torch.Generator().manual_seed(4)
    own, together = torch.randn(5, generator=g), torch.randn(5, 5, generator=g)
    masks = torch.tensor([[float(mask >> i & 1) for i in range(5)] for mask in range(32)])
    values = (masks @ own + torch.einsum("bi,ij,bj->b", masks, together, masks)).double()
    mean, error = sampled(lambda mask: values[mask], 5, 2, torch.Generator().manual_seed(5))
    torch.testing.assert_close(mean, exact(values), rtol=1e-5, atol=1e-5)
    assert float(error.max()) < 1e-5


def test_input_without_shapley_values_is_refused() -> None:
    for values in (
        torch.zeros(3),
        torch.zeros(1),
        torch.zeros(0),
        torch.tensor(1.0),
        torch.full((4,), float("nan")),
    ):
        with pytest.raises(NumericsError):
            exact(values)
    g = torch.Generator()
    for m, draws in ((0, 5), (3, 1)):
        with pytest.raises(NumericsError):
            sampled(lambda mask: torch.tensor(1.0), m, draws, g)
    with pytest.raises(NumericsError):
        sampled(lambda mask: torch.tensor(float("inf")), 2, 2, g)
    with pytest.raises(NumericsError, match="shape"):
        sampled(lambda mask: torch.zeros(1 + mask % 2), 2, 2, g)
