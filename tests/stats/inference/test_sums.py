"""Intervals of sums and ratios: against the jackknife where nothing has ends, and how often they hold what is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.inference.bounds import NOT_NEGATIVE, SHARE
from collapsekit.stats.inference.jackknife import interval, interval_array
from collapsekit.stats.inference.leave_out import leave_out_means
from collapsekit.stats.inference.sums import Part, difference_interval, ratio_interval, sum_interval


def left_out(values: np.ndarray, count: int = 16) -> Tensor:
    return leave_out_means(torch.as_tensor(values), torch.arange(len(values)) % count)


def ratio(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    return ratio_interval([Part(left_out(x))], [Part(left_out(y))], 0.95, 2.0)


@given(st.integers(0, 10**6), st.floats(-1, 3), st.floats(-1, 3))
def test_fiellers_interval_holds_exactly_the_ratios_that_are_not_told_from_zero(seed: int, a: float, b: float) -> None:
    g = np.random.default_rng(seed)
    x, y = a + g.normal(size=64), b + g.normal(size=64)
    top, bottom = left_out(x), left_out(y)
    low, high = ratio(x, y)
    assert 0 <= low <= high <= 2

    def holds_zero(r: float) -> bool:
        difference = top - r * bottom
        lower, upper = interval(float(difference[0]), difference[1:].tolist())
        return lower <= 1e-9 and upper >= -1e-9

    held = [r for r in np.linspace(0, 2, 41) if holds_zero(float(r))]
    if held:
        assert low <= held[0] + 1e-9
        assert high >= held[-1] - 1e-9
        best = min(2.0, max(0.0, float(top[0] / bottom[0]))) if bottom[0] > 0 else 2.0 * float(top[0] > 0)
        assert holds_zero(low) or low == pytest.approx(best)
        assert holds_zero(high) or high == pytest.approx(best)
    for r in np.linspace(0, 2, 41):
        if r < low - 1e-9 or r > high + 1e-9:
            assert not holds_zero(float(r))


def test_a_sure_ratio_has_the_delta_methods_interval_and_an_unsure_one_all_of_it() -> None:
    g = np.random.default_rng(0)
    y = 2 + 0.05 * g.normal(size=1600)
    x = 0.5 * y + 0.1 * g.normal(size=1600)
    low, high = ratio(x, y)
    quotient = x.mean() / y.mean()
    group = np.arange(1600) % 16
    plain = interval(quotient, [x[group != k].mean() / y[group != k].mean() for k in range(16)])
    assert (low, high) == pytest.approx(plain, rel=1e-3)
    noise = g.normal(size=(2, 160))
    assert ratio(noise[0], noise[1]) == (0.0, 2.0)
    # All but the same: the quadratic's roots are lost to rounding, the ratio is not.
    assert ratio(y * (1 + 1e-9), y) == pytest.approx((1.0, 1.0), abs=1e-5)
    # Far more than the cap, surely: the cap.
    assert ratio(x, y / 50) == (2.0, 2.0)
    assert ratio(-x, y) == (0.0, 0.0)


def test_without_ends_a_difference_is_the_jackknifes() -> None:
    g = torch.Generator().manual_seed(0)
    one, other = (torch.randn(17, 3, generator=g, dtype=torch.float64) for _ in range(2))
    found = difference_interval(Part(one), Part(other), 0.9)
    for ours, theirs in zip(found, interval_array((one - other)[0], (one - other)[1:], 0.9), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(NumericsError):
        sum_interval([Part(one, SHARE)], 1.5)


@given(st.integers(0, 10**6), st.floats(0.01, 3), st.sampled_from([7, 16]))
def test_ends_make_it_wider_and_far_away_they_do_not(seed: int, scale: float, groups: int) -> None:
    """Of fewer than eight groups none is set for its skewness, in which parts differ from their difference."""
    g = np.random.default_rng(seed)
    one, other = (left_out(1000 + scale * g.normal(size=64), groups) for _ in range(2))
    ends = difference_interval(Part(one, NOT_NEGATIVE), Part(other, NOT_NEGATIVE), 0.95)
    plain = interval_array((one - other)[0], (one - other)[1:])
    assert float(ends[0]) <= float(plain[0])
    assert float(ends[1]) >= float(plain[1])
    if groups < 8:
        assert [float(end) for end in ends] == pytest.approx([float(end) for end in plain], rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("alike", [False, True])
def test_a_difference_of_losses_near_zero_is_held_as_often_as_it_says(alike: bool) -> None:
    """3,000 data sets of 160, a loss whose logarithm scatters by 2 less one that scatters by 0.5: the jackknife of the
    difference holds it too rarely."""
    torch.manual_seed(1)
    a, b = torch.randn(2, 3000, 160, dtype=torch.float64)
    b = a if alike else b
    one, other = torch.exp(2 * a - 2), torch.exp(0.5 * b - 0.125)
    groups = torch.arange(160) % 16
    both = [torch.stack([leave_out_means(row, groups) for row in values], 1) for values in (one, other)]
    ends = difference_interval(*(Part(values, NOT_NEGATIVE) for values in both), 0.95)
    held = float(((ends[0] <= 0) & (ends[1] >= 0)).double().mean())
    values = both[0] - both[1]
    half = 2.1314 * (15 / 16 * (values[1:] - values[1:].mean(0)).square().sum(0)).sqrt()
    plain = float((values[0].abs() <= half).double().mean())
    assert plain < 0.86
    assert held > plain + 0.05


def test_a_ratio_of_what_is_nearly_the_same_is_sure() -> None:
    """What numerator and denominator share has no part in the interval."""
    g = np.random.default_rng(2)
    common, little = g.normal(size=320), 0.01 * g.random(320)
    low, high = ratio_interval(
        [Part(left_out(3 + common)), Part(left_out(-little), NOT_NEGATIVE.of_negatives)],
        [Part(left_out(3 + common)), Part(left_out(-little / 2), NOT_NEGATIVE.of_negatives)],
        0.95,
        2.0,
    )
    assert low < 1 - 0.0025 / 3 < high
    assert high - low < 0.001


def rare_losses(seed: int, n: int = 400, groups: int = 16) -> Tensor:
    """Mean losses over all examples and without each group, (1 + G,): two examples in a hundred make them."""
    g = torch.Generator().manual_seed(seed)
    losses = (torch.rand(n, generator=g) < 0.02).double() * 3
    return leave_out_means(losses, torch.arange(n) % groups)


def test_a_small_loss_by_itself_reaches_farther_than_within_a_larger_one() -> None:
    """Near its bound a loss can be many times what it is; added to a large one before, that would not be seen."""
    large, gained = (torch.full((17,), x, dtype=torch.float64) for x in (0.8, 1.1))
    bottom = [Part(torch.full((17,), 0.3, dtype=torch.float64))]
    farther = 0
    for seed in range(20):
        loss = rare_losses(seed)
        apart = [Part(-loss, NOT_NEGATIVE.of_negatives), Part(-large, NOT_NEGATIVE.of_negatives), Part(gained)]
        merged = [Part(-loss - large, NOT_NEGATIVE.of_negatives), Part(gained)]
        low, low_merged = (ratio_interval(top, bottom, 0.95, 2.0)[0] for top in (apart, merged))
        assert low <= low_merged + 1e-9
        farther += low < low_merged - 1e-3
    assert farther >= 10


def test_reaches_are_added_in_squares() -> None:
    """With a sure bottom, both ends of a ratio are those of the top, whose half widths are added in squares."""
    one, other = rare_losses(5), rare_losses(6)
    parts = [Part(one, NOT_NEGATIVE), Part(other, NOT_NEGATIVE)]
    low, high = ratio_interval(parts, [Part(torch.ones(17, dtype=torch.float64))], 0.95, 2.0)
    total = one + other
    plain = interval_array(total[0], total[1:], 0.95)
    reaches = [part.reach(0.95) for part in parts]
    down = float(((total[0] - plain[0]) ** 2 + sum(r.below**2 for r in reaches)) ** 0.5)
    up = float(((plain[1] - total[0]) ** 2 + sum(r.above**2 for r in reaches)) ** 0.5)
    assert low == pytest.approx(max(0.0, float(total[0]) - down), abs=1e-9)
    assert high == pytest.approx(float(total[0]) + up, abs=1e-9)
