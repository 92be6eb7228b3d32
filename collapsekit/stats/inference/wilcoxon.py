"""Do two methods differ over matched runs? By ranks of their differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from collapsekit.errors import NumericsError

MIN_PAIRS = 6  # pairs with which a two-sided p-value can be under 0.05: 2/2^6 = 0.03125, 2/2^5 = 0.0625
MAX_EXACT = 200  # pairs that differ; beyond that, the normal approximation
_DIGITS = 12  # differences that agree to so many digits of the largest number are tied: the rest is rounding


@dataclass(frozen=True)
class SignedRank:
    """A signed-rank test.

    ``statistic`` is the smaller of the rank sums of either sign; ``differing`` counts pairs that are not tied.
    """

    statistic: float
    p: float
    differing: int
    exact: bool


def signed_rank(first: Sequence[float], second: Sequence[float]) -> SignedRank:
    """Compute the two-sided p-value, in [0, 1], that ``first`` and ``second``, n matched numbers each, differ by chance.

    Equal pairs are left out (Wilcoxon 1945, Biometrics Bulletin 1:80); where all are equal, p is 1. Tied differences get
    their mean rank, and the null distribution is exact over all signs of the ranks as they are, ties included, for at most
    MAX_EXACT pairs that differ; else the normal approximation with the variance of those ranks. Equals
    ``scipy.stats.wilcoxon(first, second)`` where that is exact. Raises NumericsError for unequal lengths, no pairs, and
    numbers that are not finite.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or not len(a) or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise NumericsError(f"matched numbers must be finite and as many on both sides, found {a.shape} and {b.shape}.")
    scale = max(float(np.abs(a).max()), float(np.abs(b).max())) or 1.0
    differences = np.round(a / scale - b / scale, _DIGITS)
    differences = differences[differences != 0]
    if not len(differences):
        return SignedRank(0.0, 1.0, 0, True)
    ranks = _doubled_ranks(np.abs(differences))
    total, above = int(ranks.sum()), int(ranks[differences > 0].sum())
    least = min(above, total - above)
    exact = len(ranks) <= MAX_EXACT
    p = min(1.0, 2 * _tail(ranks, least)) if exact else _normal(ranks, least)
    return SignedRank(least / 2, p, len(ranks), exact)


def least_p(pairs: int) -> float:
    """Compute the smallest two-sided p-value that so many pairs can give: 2/2^pairs, at most 1."""
    return min(1.0, 2.0 ** (1 - pairs))


def _doubled_ranks(sizes: np.ndarray) -> np.ndarray:
    """Twice the rank of each of ``sizes`` (n,), from 2 on, the mean where tied; whole numbers."""
    _, place, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    doubled: np.ndarray = (2 * last - counts + 1)[place]
    return doubled


def _tail(ranks: np.ndarray, least: int) -> float:
    """Probability that the ranks of a random half, each in it as likely as not, sum to at most ``least``."""
    chances = np.zeros(int(ranks.sum()) + 1)
    chances[0] = 1.0
    for rank in ranks:
        moved = np.zeros_like(chances)
        moved[rank:] = chances[:-rank]
        chances = (chances + moved) / 2
    return float(chances[: least + 1].sum())


def _normal(ranks: np.ndarray, least: int) -> float:
    middle, spread = float(ranks.sum()) / 2, math.sqrt(float((ranks.astype(np.float64) ** 2).sum())) / 2
    return math.erfc((middle - least) / spread / math.sqrt(2))
