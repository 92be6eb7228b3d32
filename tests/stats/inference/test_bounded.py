"""Intervals within bounds: Wilson's against statsmodels, others against the delta method by hand; their properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import t as student_t
from statsmodels.stats.proportion import proportion_confint
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.inference.bounded import bounded_interval, wilson
from collapsekit.stats.inference.bounds import NOT_NEGATIVE, SHARE, UNBOUNDED, Bounds
from collapsekit.stats.inference.jackknife import interval, interval_array
from collapsekit.stats.inference.leave_out import leave_out_means


def left_out(values: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    found = leave_out_means(values.double(), torch.arange(len(values)) % groups)
    return found[0], found[1:]


@given(st.integers(1, 400), st.floats(0, 1), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_wilson_is_that_of_statsmodels(count: int, part: float, level: float) -> None:
    hits = round(part * count)
    truth = proportion_confint(hits, count, alpha=1 - level, method="wilson")
    assert wilson(hits / count, count, level) == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("n", [20, 157])
def test_all_right_or_all_wrong_is_no_point(n: int, right: bool) -> None:
    """Where groups are single examples this is the interval of a binomial share."""
    values = torch.full((n,), float(right))
    low, high = bounded_interval(*left_out(values, n), 0.95, SHARE, n)
    truth = proportion_confint(n * right, n, method="wilson")
    assert (float(low), float(high)) == pytest.approx(truth, abs=1e-12)
    assert float(high - low) == pytest.approx(3.84 / (n + 3.84), abs=1e-3)  # the rule of three, two-sided
    grouped = bounded_interval(*left_out(values, 16), 0.95, SHARE, n / 4)
    assert float(grouped[1] - grouped[0]) > 2 * float(high - low)  # fewer independent ones say less


@pytest.mark.parametrize("wrong", [1, 2, 5])
def test_a_few_wrong_of_many_is_about_wilsons_interval(wrong: int) -> None:
    hits = torch.ones(160)
    hits[:wrong] = 0
    low, high = bounded_interval(*left_out(hits, 16), 0.95, SHARE, 160)
    truth = proportion_confint(160 - wrong, 160, method="wilson")
    assert float(low) == pytest.approx(truth[0], abs=0.025)
    assert float(high) == pytest.approx(truth[1], abs=0.01)


def test_without_a_count_an_end_is_the_plain_one_cut() -> None:
    low, high = bounded_interval(*left_out(torch.ones(32), 16), 0.95, SHARE)
    assert (float(low), float(high)) == (1.0, 1.0)
    full, leave = torch.tensor(0.0).double(), torch.tensor([0.0, 0.1, 0.0, 0.2]).double()
    low, high = bounded_interval(full, leave, 0.95, NOT_NEGATIVE)
    assert float(low) == 0.0
    assert float(high) == interval(0.0, leave.tolist())[1]


@given(
    st.lists(st.floats(0.001, 0.999), min_size=8, max_size=60),
    st.sampled_from([0.8, 0.95]),
    st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, math.inf), (-math.inf, 1.0)]),
)
def test_ends_are_the_delta_method_on_the_scale(values: list[float], level: float, ends: tuple[float, float]) -> None:
    x, groups = np.array(values), 8
    full, leave = left_out(torch.tensor(values, dtype=torch.float64), groups)
    low, high = bounded_interval(full, leave, level, Bounds(*ends))
    out = [float(x[np.arange(len(x)) % groups != g].mean()) for g in range(groups)]
    m = float(x.mean())
    half = np.sqrt((groups - 1) / groups * np.square(out - np.mean(out)).sum()) * student_t.ppf(
        0.5 + level / 2, groups - 1
    )
    plain = interval(m, out, level)
    if ends == (0.0, 1.0):
        truth = expit(logit(m) - half / (m * (1 - m))), expit(logit(m) + half / (m * (1 - m)))
    elif ends == (-1.0, 1.0):  # Fisher's z
        truth = math.tanh(math.atanh(m) - half / (1 - m * m)), math.tanh(math.atanh(m) + half / (1 - m * m))
    elif ends == (0.0, math.inf):
        truth = m * math.exp(-half / m), max(m * math.exp(half / m), plain[1])
    else:
        truth = min(1 - (1 - m) * math.exp(half / (1 - m)), plain[0]), 1 - (1 - m) * math.exp(-half / (1 - m))
    assert (float(low), float(high)) == pytest.approx(truth, rel=1e-6, abs=1e-9)


@given(
    st.lists(st.floats(0, 1), min_size=17, max_size=80),
    st.sampled_from([UNBOUNDED, SHARE, NOT_NEGATIVE, Bounds(-1.0, 1.0), Bounds(high=1.0)]),
)
def test_within_bounds_and_around_the_estimate(values: list[float], bounds: Bounds) -> None:
    full, leave = left_out(torch.tensor(values), 16)
    low, high = bounded_interval(full, leave, 0.95, bounds, len(values))
    assert bounds.low <= float(low) <= float(full) <= float(high) <= bounds.high
    narrower = bounded_interval(full, leave, 0.8, bounds, len(values))
    assert float(low) <= float(narrower[0]) <= float(narrower[1]) <= float(high)


def test_far_from_the_bounds_it_is_the_plain_interval() -> None:
    g = torch.Generator().manual_seed(0)
    hits = torch.rand(40_000, generator=g) < 0.5
    full, leave = left_out(hits, 16)
    plain, mapped = (
        interval_array(full, leave, skewed=False),
        bounded_interval(full, leave, 0.95, SHARE),
    )
    assert [float(x) for x in mapped] == pytest.approx([float(x) for x in plain], abs=1e-5)
    assert [
        torch.equal(a, b) for a, b in zip(bounded_interval(full, leave, 0.95), interval_array(full, leave), strict=True)
    ] == [True, True]


def test_each_of_several_has_its_own() -> None:
    g = torch.Generator().manual_seed(1)
    rows = [(torch.rand(64, generator=g) < p).double() for p in (0.0, 0.3, 0.99, 1.1)]
    both = [left_out(r, 16) for r in rows]
    low, high = bounded_interval(
        torch.stack([f for f, _ in both]), torch.stack([o for _, o in both], 1), 0.95, SHARE, 64
    )
    for i, (full, leave) in enumerate(both):
        assert (low[i], high[i]) == bounded_interval(full, leave, 0.95, SHARE, 64)


def test_a_mean_of_zero_and_one_swaps_with_its_mirror() -> None:
    g = torch.Generator().manual_seed(2)
    hits = (torch.rand(90, generator=g) < 0.93).double()
    low, high = bounded_interval(*left_out(hits, 16), 0.95, SHARE, 90)
    mirrored = bounded_interval(*left_out(1 - hits, 16), 0.95, SHARE, 90)
    assert (1 - float(mirrored[1]), 1 - float(mirrored[0])) == pytest.approx((float(low), float(high)), abs=1e-12)


def test_what_is_no_bound_or_no_share_is_refused() -> None:
    with pytest.raises(NumericsError, match="swap"):
        Bounds(1.0, 0.0)
    for bad in ((1.2, 10.0), (0.5, 0.0), (0.5, math.inf)):
        with pytest.raises(NumericsError, match="mean of hits"):
            wilson(*bad)
    assert SHARE.of_differences == Bounds(-1.0, 1.0)
    assert NOT_NEGATIVE.of_differences == UNBOUNDED
    assert [b.ends for b in (UNBOUNDED, SHARE, NOT_NEGATIVE)] == [None, (0.0, 1.0), (0.0, None)]
