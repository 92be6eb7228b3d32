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
MOST_RUNS = 100
_QUANTILES = (np.arange(400) + 0.5) / 400


def spread(values: Sequence[float]) -> float:
    """Standard deviation s of baseline runs, with n - 1. Raises NumericsError with fewer than two."""
    if len(values) < 2:
        raise NumericsError(f"how training runs vary needs at least 2 of them, found {len(values)}: add some.")
    return float(np.std(np.asarray(values, dtype=np.float64), ddof=1))


def prediction_p(worse: float, sd: float, runs: int) -> float:
    """One-sided p-value that one more run would be worse than the mean of ``runs`` by ``worse`` or more.

    ``worse / (s·√(1 + 1/B))`` against Student's t at B - 1 degrees of freedom: the upper end of the prediction interval
    (Hahn & Meeker 1991, Statistical Intervals, section 4.7; ``statsmodels`` OLS ``get_prediction`` with ``obs=True``).
    Without any spread, 0 for what is worse and 1 for what is not.
    """
    if sd == 0:
        return 0.0 if worse > 0 else 1.0
    return float(t.sf(worse / (sd * math.sqrt(1 + 1 / runs)), runs - 1))


def prediction_half(sd: float, runs: int, level: float) -> float:
    """Half the two-sided prediction interval around the mean of ``runs``: t·s·√(1 + 1/B)."""
    return float(t.ppf(0.5 + level / 2, runs - 1)) * sd * math.sqrt(1 + 1 / runs)


def detectable_retrained(sd: float, runs: int, alpha: float, margin: float, power: float = POWER) -> float:
    """The worsening of a new run that is found with probability ``power``: significant at ``alpha`` (one-sided, by
    :func:`prediction_p`) and at least ``margin``, where ``sd`` is the true spread."""
    if sd == 0:
        return margin
    scale, df = sd * math.sqrt(1 + 1 / runs), runs - 1
    reached = np.maximum(t.isf(alpha, df) * scale * _spreads(df), margin)  # what has to be seen, at each spread seen

    def found(worse: float) -> float:
        return float(norm.sf((reached - worse) / scale).mean())

    return _solve(found, power, margin, scale + float(reached.max()))


@lru_cache(maxsize=256)
def _spreads(df: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Spread seen over true spread of df + 1 runs, at equally likely places."""
    return np.asarray(chi.ppf(_QUANTILES, df) / math.sqrt(df), dtype=np.float64)


def detectable_paired(error: float, alpha: float, margin: float, power: float = POWER) -> float:
    """The same for a mean difference over examples with standard error ``error`` (normal approximation)."""
    if math.isinf(error):
        return error
    return max(margin, float(norm.isf(alpha)) * error) + float(norm.ppf(power)) * error


def examples_needed(
    examples: int, error: float, alpha: float, margin: float, effect: float, power: float = POWER
) -> int | None:
    """How many examples bring :func:`detectable_paired` down to ``effect``, where ``examples`` give ``error``; None where
    none do, as the effect is no more than the margin."""
    quantile = float(norm.ppf(power))
    enough = min((effect - margin) / quantile, effect / (float(norm.isf(alpha)) + quantile))
    return math.ceil(examples * (error / enough) ** 2) if enough > 0 else None


def runs_needed(sd: float, alpha: float, margin: float, effect: float, power: float = POWER) -> int | None:
    """The fewest runs with which a worsening of ``effect`` is found with probability ``power``; None where no number up
    to MOST_RUNS does, as one new run alone varies too much."""
    enough: Callable[[int], bool] = lambda runs: detectable_retrained(sd, runs, alpha, margin, power) <= effect  # noqa: E731
    if not enough(MOST_RUNS):
        return None
    low, high = 1, MOST_RUNS  # more runs never find less
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _solve(found: Callable[[float], float], power: float, low: float, step: float) -> float:
    """Where the increasing ``found`` reaches ``power``, from ``low`` on."""
    if found(low) >= power:
        return low
    high = low + step
    while found(high) < power:
        high += step
    return float(brentq(lambda x: found(x) - power, low, high, xtol=1e-9))
