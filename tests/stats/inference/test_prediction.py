"""Prediction intervals against statsmodels; what can be detected, against simulation."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st

from collapsekit.errors import NumericsError
from collapsekit.stats.inference.prediction import (
    MAX_RUNS,
    detectable_paired,
    detectable_retrained,
    examples_needed,
    prediction_half,
    prediction_p,
    runs_needed,
    spread,
)

RUNS = st.lists(st.floats(-5, 5), min_size=2, max_size=12).filter(lambda v: np.std(v) > 1e-3)


@given(RUNS, st.floats(0.5, 0.99))
def test_is_the_prediction_interval_of_statsmodels(values: list[float], level: float) -> None:
    fit = sm.OLS(np.array(values), np.ones(len(values))).fit()
    frame = fit.get_prediction([[1.0]]).summary_frame(alpha=1 - level)
    half = prediction_half(spread(values), len(values), level)
    assert np.mean(values) - half == pytest.approx(float(frame["obs_ci_lower"].iloc[0]), abs=1e-6)
    # A value at the end of the two-sided interval has half of what is left as its one-sided p-value.
    assert prediction_p(half, spread(values), len(values)) == pytest.approx((1 - level) / 2, abs=1e-6)


def test_without_spread_anything_worse_is_significant() -> None:
    assert prediction_p(0.001, 0.0, 3) == 0.0
    assert prediction_p(0.0, 0.0, 3) == prediction_p(-1.0, 0.0, 3) == 1.0
    assert detectable_retrained(0.0, 3, 0.05, 0.1) == 0.1


@pytest.mark.parametrize(("runs", "margin"), [(3, 0.0), (5, 0.0), (5, 3.0), (20, 0.5)])
def test_what_is_detectable_is_found_nine_times_in_ten(runs: int, margin: float) -> None:
    rng, alpha, trials = np.random.default_rng(runs), 0.02, 20_000
    drop = detectable_retrained(1.0, runs, alpha, margin)
    base, new = rng.normal(size=(trials, runs)), rng.normal(size=trials) - drop
    worse, sd = base.mean(1) - new, base.std(1, ddof=1)
    found = [prediction_p(float(w), float(s), runs) <= alpha and w >= margin for w, s in zip(worse, sd, strict=True)]
    assert np.mean(found) == pytest.approx(0.9, abs=0.012)


@given(st.floats(0.01, 1), st.floats(0.001, 0.2), st.floats(0, 1))
def test_what_is_detectable_in_pairs(error: float, alpha: float, margin: float) -> None:
    drop = detectable_paired(error, alpha, margin)
    rng = np.random.default_rng(0)
    z = float(-np.quantile(rng.normal(size=200_000), alpha))
    seen = drop + error * rng.normal(size=20_000)
    assert np.mean(seen >= max(margin, z * error)) == pytest.approx(0.9, abs=0.02)


@given(st.floats(0.01, 0.5), st.floats(0.005, 0.1), st.floats(0, 0.3), st.floats(0, 1))
def test_as_many_runs_as_needed_and_no_more(sd: float, alpha: float, margin: float, more: float) -> None:
    effect = margin + more
    runs = runs_needed(sd, alpha, margin, effect)
    if runs is None:
        assert detectable_retrained(sd, MAX_RUNS, alpha, margin) > effect
    else:
        assert detectable_retrained(sd, runs, alpha, margin) <= effect
        assert runs == 2 or detectable_retrained(sd, runs - 1, alpha, margin) > effect


@given(st.integers(2, 10_000), st.floats(0.001, 0.5), st.floats(0.005, 0.1), st.floats(0, 0.3), st.floats(0.001, 1))
def test_as_many_examples_as_needed(n: int, error: float, alpha: float, margin: float, more: float) -> None:
    effect = margin + more
    needed = examples_needed(n, error, alpha, margin, effect)
    assert needed is not None
    assert detectable_paired(error * (n / needed) ** 0.5, alpha, margin) <= effect * (1 + 1e-6)
    if needed > 1:
        assert detectable_paired(error * (n / (needed - 1)) ** 0.5, alpha, margin) >= effect * (1 - 1e-6)
    assert examples_needed(n, error, alpha, margin, margin) is None


def test_one_run_has_no_spread() -> None:
    with pytest.raises(NumericsError, match="at least 2"):
        spread([0.5])
    assert detectable_paired(float("inf"), 0.05, 0.1) == float("inf")
