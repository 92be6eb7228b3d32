"""Intervals from leaving out one group of examples at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.checks import finite
from collapsekit.stats.inference.quantiles import student

_LOG_MAX = math.log(torch.finfo(torch.float64).max)
FEWEST_FOR_SKEWNESS = 8  # groups; of fewer, the third cumulant is mostly chance


def assign_groups(n: int, count: int = 16) -> Tensor:
    """Assign a group to each of ``n`` examples, (n,) int64: example i goes to ``i % count``.

    Group sizes differ by at most one. The caller passes examples in an order that does not depend on how
    they were loaded. Raises NumericsError with fewer than 2 groups, or fewer examples than groups.
    """
    if count < 2:
        raise NumericsError(f"a jackknife needs at least 2 groups, found {count}: use 16.")
    if n < count:
        raise NumericsError(
            f"a jackknife over {count} groups needs at least {count} examples, found {n}: "
            "use more examples or fewer groups."
        )
    return torch.arange(n) % count


def assign_units(units: Tensor, count: int = 16) -> Tensor:
    """Assign a group to each example, (n,) int64, such that examples of one unit stay together.

    ``units`` (n,) holds a number of each example's unit (patient, speaker). They are dealt largest first to the group with
    the fewest examples yet, equally large ones in order of first appearance. Fewer groups where there are fewer units.
    Raises NumericsError with fewer than 2 units.
    """
    _, unit, sizes = torch.unique(units, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise NumericsError(
            f"a jackknife over units needs at least 2 of them, found {len(sizes)}: check the group key."
        )
    first = torch.full((len(sizes),), len(units)).scatter_reduce(0, unit, torch.arange(len(units)), "amin")
    order = sorted(range(len(sizes)), key=lambda u: (-int(sizes[u]), int(first[u])))
    filled = [0] * min(count, len(sizes))
    group = torch.empty(len(sizes), dtype=torch.long)
    for u in order:
        least = min(range(len(filled)), key=filled.__getitem__)
        group[u] = least
        filled[least] += int(sizes[u])
    return group[unit]


def interval(
    full: float,
    leave_out: Sequence[float],
    level: float = 0.95,
    log: bool = False,
) -> tuple[float, float]:
    """Compute the confidence interval of a number from its values with each of G groups left out.

    ``full ± t * SE`` with ``SE² = (G - 1)/G * Σ(θ_g - mean θ)²`` and the t quantile at G - 1 degrees of
    freedom (delete-a-group jackknife, Kott 2001, J. Official Statistics 17:521). Of 8 groups or more both ends are moved as
    skewness asks (Hall 1992, J. R. Stat. Soc. B 54:221): few examples with a large loss make a mean skewed, and then
    ``full ± t * SE`` misses on one side.

    Args:
        full: the number, of all examples.
        leave_out: G of them, each without one group.
        level: the confidence level, in (0, 1).
        log: do the same to the logarithm and map the ends back, for quantities that are positive and skewed.

    Returns:
        The lower and the upper end, in the unit of ``full``.

    Raises:
        NumericsError: with fewer than 2 groups, for values that are not finite, and for values that are not positive
            where ``log``.
    """
    values = torch.tensor(list(leave_out), dtype=torch.float64)
    centre = torch.tensor(full, dtype=torch.float64)
    if not log:
        lower, upper = interval_array(centre, values, level)
        return float(lower), float(upper)
    if full <= 0 or bool((values <= 0).any()):
        raise NumericsError(
            f"an interval on the log scale needs positive values, found {min([full, *leave_out])}: "
            "use log=False, or find why a positive quantity is not."
        )
    lower, upper = interval_array(torch.zeros_like(centre), (values / centre).log(), level)
    if float(upper) + math.log(full) > _LOG_MAX:
        raise NumericsError(
            f"the upper end of the interval is exp({float(upper) + math.log(full):.0f}), beyond float64: "
            "use more examples, or log=False."
        )
    # min and max: exp(log(x)) may round to the wrong side of x
    return min(full, full * math.exp(float(lower))), max(full, math.exp(math.log(full) + float(upper)))


def interval_array(
    full: Tensor, leave_out: Tensor, level: float = 0.95, *, skewed: bool = True
) -> tuple[Tensor, Tensor]:
    """Compute :func:`interval` for every element of a tensor.

    Args:
        full: any shape, the estimates.
        leave_out: shape (G, *), the same without each of G groups.
        level: the confidence level, in (0, 1).
        skewed: whether ends are set for skewness; if not, both are as far away.

    Returns:
        Lower and upper ends in the shape of ``full``, float64.

    Raises:
        NumericsError: for other shapes, fewer than 2 groups, and values that are not finite.
    """
    full, leave_out = finite(full, "the estimate"), finite(leave_out, "the leave-one-group-out estimates")
    if leave_out.ndim == 0 or leave_out.shape[1:] != full.shape:
        raise NumericsError(
            f"leave-one-group-out estimates must have the shape (groups, *{tuple(full.shape)}), "
            f"found {tuple(leave_out.shape)}: stack one estimate a group."
        )
    count = leave_out.shape[0]
    if count < 2:
        raise NumericsError(f"a jackknife interval needs at least 2 groups, found {count}: use 16.")
    if not 0 < level < 1:
        raise NumericsError(f"a confidence level lies between 0 and 1, found {level}: use 0.95.")
    deviation = leave_out - leave_out.mean(dim=0)
    se = ((count - 1) / count * deviation.square().sum(dim=0)).sqrt()
    quantile = student(0.5 + level / 2, count - 1)
    stretched = _stretched(deviation, se, quantile) if skewed else (1.0, 1.0)
    down, up = (quantile * se * times for times in stretched)
    return finite(full - down, "the interval"), finite(full + up, "the interval")


def _stretched(deviation: Tensor, se: Tensor, quantile: float) -> tuple[Tensor, Tensor]:
    """Say how many times as far as ``quantile * se`` the lower and the upper end lie for the skewness of the estimate.

    Hall's transformation of a studentised mean T with skewness γ is T + γT²/3 + γ²T³/27 + γ/6; its inverse at y is
    3/γ·((1 + γ(y - γ/6))^⅓ - 1).

    Args:
        deviation: leave-one-group-out estimates less their mean, (G, *).
        se: the standard error, (*).
        quantile: of the studentised estimate, above 0.
    """
    count, one = len(deviation), torch.ones_like(se)
    if count < FEWEST_FOR_SKEWNESS:
        return one, one
    # Leaving a group out moves the estimate against what the group adds, so the sign turns.
    standard = -deviation * (count - 1) / torch.where(se > 0, se, one)
    skewness = (standard**3).sum(dim=0) / (count * (count - 1) * (count - 2))
    known = torch.where(skewness.abs() > 1e-6, skewness, one)
    ends = []
    for y in (quantile, -quantile):
        cube = 1 + known * (y - known / 6)
        at = 3 / known * (cube.sign() * cube.abs() ** (1 / 3) - 1)
        ends.append(torch.where(skewness.abs() > 1e-6, at / y, one))
    return ends[0], ends[1]
