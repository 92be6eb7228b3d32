"""The sign-flip test against SciPy, and what makes it a test."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test, sem

from collapsekit.errors import NumericsError
from collapsekit.stats.inference import signflip
from collapsekit.stats.inference.signflip import sign_flip, standard_error, unit_sums

# Millionths: sums that differ by rounding alone are ties to us, and not to SciPy where one value is 1e-12 of another.
FEW = st.lists(st.integers(-(10**7), 10**7).map(lambda v: v / 1e6), min_size=1, max_size=10)


@given(FEW)
@settings(max_examples=40)
def test_exact_is_scipys(values: list[float]) -> None:
    x = np.array(values)
    if not len(np.flatnonzero(x)) or len(x) < 2:
        return
    theirs = permutation_test(
        (x,), lambda v, axis: v.sum(axis), permutation_type="samples", alternative="greater", n_resamples=np.inf
    )
    assert sign_flip(x) == pytest.approx(theirs.pvalue, abs=1e-9)


def test_sampled_is_near_the_exact_one() -> None:
    x = np.random.default_rng(0).normal(0.4, 1, 12)
    exact = sign_flip(x)
    assert sign_flip(x, draws=3_000, seed=1) == pytest.approx(exact, abs=4 * (exact / 3_000) ** 0.5)
    assert sign_flip(x, draws=3_000, seed=1) != exact


@given(FEW, st.integers(0, 3))
def test_p_values_of_both_signs_reach_one_and_order_does_not_matter(values: list[float], seed: int) -> None:
    x = np.array(values)
    shuffled = np.random.default_rng(seed).permutation(x)
    assert sign_flip(x) == pytest.approx(sign_flip(shuffled))
    assert sign_flip(x) + sign_flip(-x) >= 1 - 1e-9  # the observed one counts on both sides


def test_same_p_each_time_and_never_zero() -> None:
    x = np.ones(300)
    assert sign_flip(x) == sign_flip(x) == 1 / (1 + signflip.DRAWS)
    assert sign_flip(np.zeros(5)) == 1.0


def test_level_under_the_null_with_units_that_differ_together() -> None:
    """Examples of one unit share their difference: p-values that take them for independent are too small."""
    rng, aware, unaware = np.random.default_rng(0), [], []
    for trial in range(200):
        units = np.repeat(np.arange(20), 10)
        x = rng.normal(size=20)[units] + 0.1 * rng.normal(size=200)
        aware.append(sign_flip(x, units, draws=199, seed=trial) <= 0.05)
        unaware.append(sign_flip(x, draws=199, seed=trial) <= 0.05)
    assert np.mean(aware) < 0.1 < np.mean(unaware)


def test_blocks_keep_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signflip, "BLOCKS", 30)
    rng = np.random.default_rng(0)
    under = np.mean([sign_flip(rng.normal(size=200), draws=199, seed=i) <= 0.05 for i in range(200)])
    found = np.mean([sign_flip(rng.normal(0.4, 1, 200), draws=199, seed=i) <= 0.05 for i in range(20)])
    assert under < 0.1
    assert found > 0.9


def test_unit_sums_and_standard_errors() -> None:
    x, units = np.array([1.0, 2.0, 3.0, 4.0]), np.array([7, 3, 7, 3])
    assert unit_sums(x, units).tolist() == [6.0, 4.0]
    assert standard_error(unit_sums(x), 4) == pytest.approx(sem(x))
    assert standard_error(unit_sums(x, units), 4) == pytest.approx(sem([6.0, 4.0]) * 2 / 4)
    assert standard_error(np.array([1.0]), 1) == float("inf")


@pytest.mark.parametrize("wrong", [np.array([]), np.array([1.0, np.nan]), np.ones((2, 2))])
def test_refuses_what_is_no_difference(wrong: np.ndarray) -> None:
    with pytest.raises(NumericsError, match="differences"):
        sign_flip(wrong)
    with pytest.raises(NumericsError, match="unit"):
        sign_flip(np.ones(3), np.zeros(2, dtype=np.int64))
