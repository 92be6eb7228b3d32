"""Is a mean difference over the same examples above 0? By flipping signs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from collapsekit.errors import NumericsError

DRAWS = 9_999
BLOCKS = 4_096  # of examples that flip together, where there are more
_CHUNK = 512
_TIE = 1e-12  # sums that differ by rounding alone are equal

Floats = NDArray[np.float64]


def unit_sums(differences: Floats, units: NDArray[np.int64] | None = None) -> Floats:
    """Sum ``differences`` (n,) over units (n,), such as patients: (u,), float64. Without units, the differences themselves.

    Raises NumericsError for values that are not finite, and where there are none.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise NumericsError("differences must be one finite number an example, at least one: leave out what is not.")
    if units is None:
        return values
    if units.shape != values.shape:
        raise NumericsError(f"there must be one unit an example, found {units.shape} for {values.shape}.")
    _, place = np.unique(units, return_inverse=True)
    return np.bincount(place, weights=values).astype(np.float64)


def sign_flip(
    differences: Floats, units: NDArray[np.int64] | None = None, *, draws: int = DRAWS, seed: int = 0
) -> float:
    """Compute the one-sided p-value that a mean difference is above 0, by flipping signs.

    Under the null, each difference is as likely with the other sign (Fisher 1935, The Design of Experiments, section 21);
    those of one unit flip together. Exact where 2^u is at most ``draws`` + 1, else over random flips, the
    observed one counted (Phipson & Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9:39). Beyond BLOCKS units, random blocks
    of them flip together, which keeps the level. As ``scipy.stats.permutation_test`` of one sample with
    ``permutation_type="samples"`` and ``alternative="greater"``.

    Args:
        differences: (n,), one an example.
        units: (n,), whole numbers, what each example belongs to; None where each stands for itself.
        draws: how many random flips.
        seed: of those.

    Returns:
        The p-value, in (0, 1].

    Raises:
        NumericsError: as :func:`unit_sums`.
    """
    sums = unit_sums(differences, units)
    generator = np.random.default_rng(seed)
    if len(sums) > BLOCKS:
        block = generator.permutation(len(sums)) % BLOCKS
        sums = np.bincount(block, weights=sums).astype(np.float64)
    sums = sums[sums != 0]  # flipping those changes nothing
    total, size = sums.sum(), np.abs(sums).sum()
    least = total - _TIE * size
    count = len(sums)
    if count < 60 and 2**count <= draws + 1:
        every = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        return float((2 * (every @ sums) - total >= least).mean())
    reached = 0
    for start in range(0, draws, _CHUNK):
        bits = generator.integers(0, 2, (min(_CHUNK, draws - start), count), dtype=np.int8)
        reached += int((2 * (bits.astype(np.float64) @ sums) - total >= least).sum())
    return (1 + reached) / (1 + draws)


def standard_error(sums: Floats, examples: int) -> float:
    """Compute the standard error of a mean over ``examples`` from its sums over units, ``sums`` (u,).

    As if units were drawn anew: with one example a unit it is sd / √n (``scipy.stats.sem``). Infinite for a single unit.
    """
    if len(sums) < 2:
        return float("inf")
    return float(np.sqrt(len(sums)) * sums.std(ddof=1) / examples)
