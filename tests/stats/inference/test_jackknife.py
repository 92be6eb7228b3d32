"""The jackknife against SciPy's t interval where both apply, and its coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from collapsekit.errors import NumericsError
from collapsekit.stats.inference.jackknife import assign_groups, assign_units, interval, interval_array, ratio_interval


def leave_out_means(x: torch.Tensor, groups: torch.Tensor, count: int) -> list[float]:
    return [float(x[groups != g].mean()) for g in range(count)]


def test_groups_are_dealt_in_turn() -> None:
    assert assign_groups(7, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert torch.bincount(assign_groups(1000)).tolist() == [63] * 8 + [62] * 8


def test_one_example_a_group_is_the_t_interval_of_a_mean() -> None:
    x = torch.randn(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = interval(float(x.mean()), leave_out_means(x, torch.arange(20), 20), level=0.9)
    theirs = stats.t.interval(0.9, 19, loc=float(x.mean()), scale=stats.sem(x.numpy()))
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


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


def _groups(values: np.ndarray, count: int = 16) -> tuple[float, list[float]]:
    group = np.arange(len(values)) % count
    return float(values.mean()), [float(values[group != g].mean()) for g in range(count)]


@given(st.integers(0, 10**6), st.floats(-1, 3), st.floats(-1, 3))
def test_fiellers_interval_holds_exactly_the_ratios_that_are_not_told_from_zero(seed: int, a: float, b: float) -> None:
    g = np.random.default_rng(seed)
    x, y = a + g.normal(size=64), b + g.normal(size=64)
    top, bottom = _groups(x), _groups(y)
    low, high = ratio_interval(top, bottom, 0.95, 2.0)
    assert 0 <= low <= high <= 2

    def holds_zero(r: float) -> bool:
        full, out = top[0] - r * bottom[0], [t - r * u for t, u in zip(top[1], bottom[1], strict=True)]
        lower, upper = interval(full, out)
        return lower <= 1e-9 and upper >= -1e-9

    held = [r for r in np.linspace(0, 2, 41) if holds_zero(float(r))]
    if held:
        assert low <= held[0] + 1e-9
        assert high >= held[-1] - 1e-9
        best = min(2.0, max(0.0, top[0] / bottom[0])) if bottom[0] > 0 else 2.0 * (top[0] > 0)
        assert holds_zero(low) or low == pytest.approx(best)
        assert holds_zero(high) or high == pytest.approx(best)
    for r in np.linspace(0, 2, 41):
        if r < low - 1e-9 or r > high + 1e-9:
            assert not holds_zero(float(r))


def test_a_sure_ratio_has_the_delta_methods_interval_and_an_unsure_one_all_of_it() -> None:
    g = np.random.default_rng(0)
    y = 2 + 0.05 * g.normal(size=1600)
    x = 0.5 * y + 0.1 * g.normal(size=1600)
    low, high = ratio_interval(_groups(x), _groups(y), 0.95, 2.0)
    ratio = x.mean() / y.mean()
    group = np.arange(1600) % 16
    plain = interval(ratio, [x[group != k].mean() / y[group != k].mean() for k in range(16)])
    assert (low, high) == pytest.approx(plain, rel=1e-3)
    noise = g.normal(size=(2, 160))
    assert ratio_interval(_groups(noise[0]), _groups(noise[1]), 0.95, 2.0) == (0.0, 2.0)
    # All but the same: the quadratic's roots are lost to rounding, the ratio is not.
    nearly = _groups(y * (1 + 1e-9))
    assert ratio_interval(nearly, _groups(y), 0.95, 2.0) == pytest.approx((1.0, 1.0), abs=1e-5)
    # Far more than the cap, surely: the cap.
    assert ratio_interval(_groups(x), _groups(y / 50), 0.95, 2.0) == (2.0, 2.0)
    assert ratio_interval(_groups(-x), _groups(y), 0.95, 2.0) == (0.0, 0.0)


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
