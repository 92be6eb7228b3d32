"""Is a new training run worse than earlier ones? By the prediction interval of one more draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.stats import chi, norm, t

from collapsekit.errors import NumericsError

POWER = 0.9
MAX_RUNS = 100
_QUANTILES = (np.arange(400) + 0.5) / 400


def spread(values: Sequence[float]) -> float:
    """Compute the standard deviation s of baseline runs, with n - 1, in their unit.

    Raises NumericsError with fewer than two.
    """
    if len(values) < 2:
        raise NumericsError(f"how training runs vary needs at least 2 of them, found {len(values)}: add some.")
    return float(np.std(np.asarray(values, dtype=np.float64), ddof=1))


def prediction_p(worse: float, sd: float, runs: int) -> float:
    """Compute the one-sided p-value that one more run would be worse than the mean of earlier ones by so much or more.

    ``worse / (s·√(1 + 1/B))`` against Student's t at B - 1 degrees of freedom: the upper end of the prediction interval
    (Hahn & Meeker 1991, Statistical Intervals, section 4.7; ``statsmodels`` OLS ``get_prediction`` with ``obs=True``).

    Args:
        worse: how far the new run lies below the mean.
        sd: standard deviation s of the earlier runs, with n - 1, in the same unit.
        runs: how many there are, B; at least 2.

    Returns:
        The p-value, in [0, 1]. Without any spread, 0 for what is worse and 1 for what is not.
    """
    if sd == 0:
        return 0.0 if worse > 0 else 1.0
    return float(t.sf(worse / (sd * math.sqrt(1 + 1 / runs)), runs - 1))


def prediction_half(sd: float, runs: int, level: float) -> float:
    """Compute half the two-sided prediction interval around the mean of earlier runs: t·s·√(1 + 1/B).

    Args:
        sd: standard deviation s of the runs, with n - 1.
        runs: how many there are, B; at least 2.
        level: of the interval, in (0, 1).

    Returns:
        The half width, in the unit of ``sd``.
    """
    return float(t.ppf(0.5 + level / 2, runs - 1)) * sd * math.sqrt(1 + 1 / runs)


def detectable_retrained(sd: float, runs: int, alpha: float, margin: float, power: float = POWER) -> float:
    """Compute the worsening of a new run that would be found: significant by :func:`prediction_p`, and at least the margin.

    Args:
        sd: the true standard deviation of runs.
        runs: how many earlier ones there are; at least 2.
        alpha: the one-sided level, in (0, 1).
        margin: what is no worsening to fail for, in the unit of ``sd``.
        power: the probability with which it is found, in (0, 1).

    Returns:
        The worsening, in the unit of ``sd``; at least ``margin``.
    """
    if sd == 0:
        return margin
    scale, df = sd * math.sqrt(1 + 1 / runs), runs - 1
    reached = np.maximum(t.isf(alpha, df) * scale * _spreads(df), margin)  # what has to be seen, at each spread seen

    def power_at(worse: float) -> float:
        return float(norm.sf((reached - worse) / scale).mean())

    return _solve(power_at, power, margin, scale + float(reached.max()))


@lru_cache(maxsize=256)
def _spreads(df: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Spread seen over true spread of df + 1 runs, at equally likely places."""
    return np.asarray(chi.ppf(_QUANTILES, df) / math.sqrt(df), dtype=np.float64)


def detectable_paired(error: float, alpha: float, margin: float, power: float = POWER) -> float:
    """Compute the same for a mean difference over examples (normal approximation).

    Args:
        error: its standard error.
        alpha: the one-sided level, in (0, 1).
        margin: what is no worsening to fail for, in the unit of ``error``.
        power: the probability with which it is found, in (0, 1).

    Returns:
        The worsening, in the unit of ``error``; infinite where that is.
    """
    if math.isinf(error):
        return error
    return max(margin, float(norm.isf(alpha)) * error) + float(norm.ppf(power)) * error


def examples_needed(
    examples: int, error: float, alpha: float, margin: float, effect: float, power: float = POWER
) -> int | None:
    """Compute how many examples bring :func:`detectable_paired` down to an effect.

    Args:
        examples: how many there are.
        error: the standard error that they give.
        alpha: the one-sided level, in (0, 1).
        margin: what is no worsening to fail for, in the unit of ``error``.
        effect: the worsening to be found, in the same.
        power: the probability with which it is found, in (0, 1).

    Returns:
        Their number; None where none do, as the effect is no more than the margin.
    """
    quantile = float(norm.ppf(power))
    enough = min((effect - margin) / quantile, effect / (float(norm.isf(alpha)) + quantile))
    return math.ceil(examples * (error / enough) ** 2) if enough > 0 else None


def runs_needed(sd: float, alpha: float, margin: float, effect: float, power: float = POWER) -> int | None:
    """Find the fewest runs with which a worsening is found.

    Args:
        sd: the true standard deviation of runs.
        alpha: the one-sided level, in (0, 1).
        margin: what is no worsening to fail for, in the unit of ``sd``.
        effect: the worsening to be found, in the same.
        power: the probability with which it is found, in (0, 1).

    Returns:
        Their number; None where no number up to MAX_RUNS does, as one new run alone varies too much.
    """
    enough: Callable[[int], bool] = lambda runs: detectable_retrained(sd, runs, alpha, margin, power) <= effect  # noqa: E731
    if not enough(MAX_RUNS):
        return None
    low, high = 1, MAX_RUNS  # more runs never find less
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _solve(power_at: Callable[[float], float], power: float, low: float, step: float) -> float:
    """Where the increasing ``power_at`` reaches ``power``, from ``low`` on."""
    if power_at(low) >= power:
        return low
    high = low + step
    while power_at(high) < power:
        high += step
    return float(brentq(lambda x: power_at(x) - power, low, high, xtol=1e-9))
