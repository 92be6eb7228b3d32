"""Quantiles that intervals are made of; by scipy.special, since importing scipy.stats takes as long as half of torch."""

from __future__ import annotations

from scipy.special import ndtri, stdtrit


def student(p: float, df: int) -> float:
    """Compute the ``p``-quantile of Student's t distribution at ``df`` degrees of freedom; equals ``scipy.stats.t.ppf``."""
    return float(stdtrit(df, p))


def normal(p: float) -> float:
    """Compute the ``p``-quantile of the standard normal distribution; equals ``scipy.stats.norm.ppf(p)``."""
    return float(ndtri(p))
