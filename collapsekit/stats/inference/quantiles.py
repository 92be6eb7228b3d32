"""Quantiles that intervals are made of; by scipy.special, since importing scipy.stats takes as long as half of torch."""

from __future__ import annotations

import bisect

from scipy.special import bdtr, ndtri, stdtrit


def student(p: float, df: int) -> float:
    """Compute the ``p``-quantile of Student's t distribution at ``df`` degrees of freedom; equals ``scipy.stats.t.ppf``."""
    return float(stdtrit(df, p))


def normal(p: float) -> float:
    """Compute the ``p``-quantile of the standard normal distribution; equals ``scipy.stats.norm.ppf(p)``."""
    return float(ndtri(p))


def binomial(p: float, n: int, chance: float) -> int:
    """Compute the ``p``-quantile of how many of ``n`` happen, each with ``chance``; equals ``scipy.stats.binom.ppf``.

    Args:
        p: in (0, 1).
        n: how many there are, at least 1.
        chance: of each, in [0, 1].

    Returns:
        The least k, 0 to n, with a probability of at least ``p``, but for rounding, for k or fewer.
    """
    return bisect.bisect_left(range(n), p * (1 - 1e-12), key=lambda k: float(bdtr(k, n, chance)))
