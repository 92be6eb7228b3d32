"""Quantiles against those of scipy.stats, to the bit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from collapsekit.stats.inference.quantiles import binomial, normal, student


@given(st.floats(0.001, 0.999), st.integers(1, 10**6))
def test_are_those_of_scipy_stats(p: float, df: int) -> None:
    assert student(p, df) == stats.t.ppf(p, df)
    assert normal(p) == stats.norm.ppf(p)


@given(st.floats(0.001, 0.999), st.integers(1, 5000), st.floats(0, 1) | st.sampled_from([0.0, 1.0, 1e-9, 0.5]))
def test_binomials_are_those_of_scipy_stats(p: float, n: int, chance: float) -> None:
    ours, theirs = binomial(p, n, chance), stats.binom.ppf(p, n, chance)
    # Where k or fewer have the very probability p, rounding decides which of the two it is in SciPy.
    assert ours == theirs or abs(stats.binom.cdf(min(ours, theirs), n, chance) - p) < 1e-9
    assert binomial(0.5, 39, 0.5) == 19
    assert binomial(0.5, 41, 0.5) == 20
