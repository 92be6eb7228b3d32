"""The jackknife against SciPy's t interval where both apply, and its coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq

from collapsekit.errors import NumericsError
from collapsekit.stats.inference.jackknife import assign_groups, assign_units, interval, interval_array


def leave_out_means(x: torch.Tensor, groups: torch.Tensor, count: int) -> list[float]:
    return [float(x[groups != g].mean()) for g in range(count)]


def test_groups_are_dealt_in_turn() -> None:
    assert assign_groups(7, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert torch.bincount(assign_groups(1000)).tolist() == [63] * 8 + [62] * 8


def test_one_example_a_group_is_the_t_interval_of_a_mean() -> None:
    """What is not skewed, that is: of fewer than eight groups, or with as much on either side."""
    x = torch.randn(10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for values in (x[:7], torch.cat([3 + x, 3 - x])):
        n = len(values)
        ours = interval(float(values.mean()), leave_out_means(values, torch.arange(n), n), level=0.9)
        theirs = stats.t.interval(0.9, n - 1, loc=float(values.mean()), scale=stats.sem(values.numpy()))
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", ["exponential", "one far away"])
def test_a_skewed_mean_has_halls_ends(kind: str, sign: int) -> None:
    """Hall's transformation is inverted numerically here, with SciPy's skewness."""
    x = np.random.default_rng(3).exponential(size=24)
    if kind == "one far away":
        x = np.concatenate([np.linspace(-0.1, 0.1, 23), [50.0]])
    x = sign * x
    low, high = interval(float(x.mean()), leave_out_means(torch.tensor(x), torch.arange(24), 24))
    t, se = stats.t.ppf(0.975, 23), stats.sem(x)
    skew = float(stats.skew(x, bias=False)) / math.sqrt(24)

    def studentised(w: float, y: float) -> float:
        return w + skew * w**2 / 3 + skew**2 * w**3 / 27 + skew / 6 - y

    halls = [x.mean() - se * brentq(studentised, -100, 100, args=(y,)) for y in (t, -t)]
    assert (low, high) == pytest.approx(halls, rel=1e-7)
    assert (high > x.mean() + 1.05 * t * se) == (sign > 0)
    assert (low < x.mean() - 1.05 * t * se) == (sign < 0)
    leave = torch.tensor(leave_out_means(torch.tensor(x), torch.arange(24), 24), dtype=torch.float64)
    plain = interval_array(torch.tensor(x.mean()), leave, skewed=False)
    assert [float(end) for end in plain] == pytest.approx([x.mean() - t * se, x.mean() + t * se], rel=1e-9)


def test_log_scale_is_the_interval_of_the_logarithm() -> None:
    values = [3.0, 3.5, 2.8, 3.1]
    lower, upper = interval(3.1, values, log=True)
    log_lower, log_upper = interval(math.log(3.1), [math.log(v) for v in values])
    assert (lower, upper) == pytest.approx((math.exp(log_lower), math.exp(log_upper)), rel=1e-12)
    assert 0 < lower < 3.1 < upper


def test_arrays_are_done_element_by_element() -> None:
    g = torch.Generator().manual_seed(1)
    full, leave_out = torch.randn(2, 3, generator=g), torch.randn(5, 2, 3, generator=g)
    lower, upper = interval_array(full, leave_out, 0.9)
    for i in range(2):
        for j in range(3):
            ours = interval(float(full[i, j]), leave_out[:, i, j].tolist(), 0.9)
            assert (float(lower[i, j]), float(upper[i, j])) == pytest.approx(ours, rel=1e-12)


def test_no_variation_is_no_width() -> None:
    assert interval(2.5, [2.5] * 4) == (2.5, 2.5)
    assert interval(2.5, [2.5] * 4, log=True) == pytest.approx((2.5, 2.5), rel=1e-15)


@pytest.mark.parametrize("statistic", ["mean", "log-variance", "variance"])
def test_covers_as_often_as_it_says(statistic: str) -> None:
    """400 data sets of 160: a 95 % interval should miss about 20 times; binomial limits, 0.1 % a side."""
    generator = torch.Generator().manual_seed(2)
    groups = assign_groups(160)
    hits = 0
    for _ in range(400):
        x = 5 + 2 * torch.randn(160, generator=generator, dtype=torch.float64)
        parts = [x, *(x[groups != g] for g in range(16))]
        if statistic == "mean":
            full, *rest = (float(p.mean()) for p in parts)
            truth, (lower, upper) = 5.0, interval(full, rest)
        elif statistic == "log-variance":
            full, *rest = (math.log(p.var()) for p in parts)
            truth, (lower, upper) = math.log(4.0), interval(full, rest)
        else:
            full, *rest = (float(p.var()) for p in parts)
            truth, (lower, upper) = 4.0, interval(full, rest, log=True)
        hits += lower <= truth <= upper
    low, high = stats.binom.interval(0.998, 400, 0.95)
    assert low <= hits <= high


def test_input_without_an_interval_is_refused() -> None:
    nan = float("nan")
    for call in (
        lambda: interval(1.0, [1.0]),
        lambda: interval(1.0, []),
        lambda: interval(nan, [1.0, 2.0]),
        lambda: interval(1.0, [1.0, nan]),
        lambda: interval(1.0, [1.0, 2.0], level=1.0),
        lambda: interval(1.0, [1.0, 0.0], log=True),
        lambda: interval(-1.0, [1.0, 2.0], log=True),
        lambda: interval(1.0, [1e-300, 1e300], log=True),
        lambda: interval(0.0, [1e300, -1e300]),
        lambda: interval_array(torch.zeros(2), torch.zeros(4, 3)),
        lambda: interval_array(torch.zeros(2), torch.tensor(1.0)),
        lambda: assign_groups(10, 1),
        lambda: assign_groups(10, 16),
    ):
        with pytest.raises(NumericsError):
            call()


@given(st.lists(st.integers(0, 40), min_size=2, max_size=200).filter(lambda u: len(set(u)) > 1))
def test_units_stay_together_and_groups_are_as_even_as_they_can_be(units: list[int]) -> None:
    groups = assign_units(torch.tensor(units), 16)
    home: dict[int, set[int]] = {}
    for unit, group in zip(units, groups.tolist(), strict=True):
        home.setdefault(unit, set()).add(group)
    assert all(len(g) == 1 for g in home.values())
    assert sorted(set(groups.tolist())) == list(range(min(16, len(home))))
    sizes = torch.bincount(groups)
    assert int(sizes.max() - sizes.min()) <= max(units.count(u) for u in set(units))
    names = {u: -7 * u for u in set(units)}  # what units are called does not matter
    assert torch.equal(assign_units(torch.tensor([names[u] for u in units]), 16), groups)


def test_one_unit_is_refused() -> None:
    with pytest.raises(NumericsError, match="at least 2 of them, found 1"):
        assign_units(torch.zeros(9))


def test_units_make_the_interval_of_a_clustered_mean_cover() -> None:
    """Examples of one unit share half their variance: intervals over examples are too short, over units they hold."""
    g = np.random.default_rng(0)
    held = {"examples": 0, "units": 0}
    for _ in range(300):
        unit = np.repeat(np.arange(48), 10)
        x = g.normal(size=48)[unit] + g.normal(size=480)
        for how, groups in (("examples", assign_groups(480)), ("units", assign_units(torch.tensor(unit)))):
            low, high = interval(float(x.mean()), leave_out_means(torch.tensor(x), groups, 16))
            held[how] += low <= 0 <= high
    assert 0.92 <= held["units"] / 300 <= 0.98
    assert held["examples"] / 300 < 0.85
