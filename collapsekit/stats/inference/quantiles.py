"""Quantiles that intervals are made of; by scipy.special, since importing scipy.stats takes as long as half of torch."""

from __future__ import annotations

from scipy.special import ndtri, stdtrit


def student(p: float, df: int) -> float:
    """The ``p``-quantile of Student's t distribution; equals ``scipy.stats.t.ppf(p, df)``."""
    return float(stdtrit(df, p))


def normal(p: float) -> float:
    """The ``p``-quantile of the standard normal distribution; equals ``scipy.stats.norm.ppf(p)``."""
    return float(ndtri(p))
