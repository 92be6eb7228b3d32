"""Quantiles against those of scipy.stats, to the bit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from collapsekit.stats.inference.quantiles import normal, student


@given(st.floats(0.001, 0.999), st.integers(1, 10**6))
def test_are_those_of_scipy_stats(p: float, df: int) -> None:
    assert student(p, df) == stats.t.ppf(p, df)
    assert normal(p) == stats.norm.ppf(p)
