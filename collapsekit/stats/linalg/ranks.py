"""Ranks read off a spectrum: what each is, its interval, and the caveat for few examples."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from collapsekit.stats.inference.jackknife import interval
from collapsekit.stats.linalg import spectrum as st

CENTRED = "of the column-centred features (n examples by d dimensions), σ their singular values"
# Definition and source of each rank.
RANKS: dict[str, tuple[str, str]] = {
    "effective_rank": (
        f"exp of the entropy of σ/Σσ {CENTRED}",
        "Roy & Vetterli 2007, eq. 5; as used by Kim et al. 2025",
    ),
    "numerical_rank": (
        f"number of σ above {{rtol:g}}·σmax {CENTRED}",
        "Golub & Van Loan, Matrix Computations, 5.4.1; as in Chaudhuri et al. 2025, Figure 5",
    ),
    "stable_rank": (f"Σσ²/σmax² {CENTRED}", "Rudelson & Vershynin 2007"),
    "participation_ratio": (f"(Σσ²)²/Σσ⁴ {CENTRED}", "Gao et al. 2017, eq. 3"),
}


def rank_functions(rtol: float) -> dict[str, Callable[[Tensor], float]]:
    """Give the four ranks by name, each a function of one spectrum σ (d,); ``rtol``: tolerance of the numerical rank,
    relative to σmax."""
    return {
        "effective_rank": st.effective_rank,
        "numerical_rank": lambda sigma: float(st.numerical_rank(sigma, rtol)),
        "stable_rank": st.stable_rank,
        "participation_ratio": st.participation_ratio,
    }


def rank_interval(value: float, leave_out: list[float], d: int, level: float) -> tuple[float, float]:
    """Compute the jackknife interval of a rank on the log scale, within the 1 to d that a rank can be.

    Ranks of few examples are biased, mostly low. The jackknife's estimate of that (Quenouille 1956, Biometrika 43:353)
    moves the end on that side.

    Args:
        value: the rank over all examples.
        leave_out: the rank without each jackknife group.
        d: dimensions.
        level: coverage, such as 0.95.

    Returns:
        The lower and the upper end, in dimensions.
    """
    low, high = interval(value, leave_out, level, log=True)
    count = len(leave_out)
    missing = (count - 1) * (math.log(value) - sum(map(math.log, leave_out)) / count)
    low, high = low * math.exp(min(0.0, missing)), high * math.exp(max(0.0, missing))
    return min(value, max(1.0, low)), max(value, min(float(d), high))


def small_n(n: int, d: int) -> str | None:
    """Give the caveat for few examples: ranks are biased low under n = 10·d."""
    return f"n = {n} is under 10·d = {10 * d}: ranks are biased low" if n < 10 * d else None
