"""Intervals of quantities that have ends: a share lies in 0 to 1, a loss is not below 0."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.checks import finite
from collapsekit.stats.inference.bounds import UNBOUNDED, Bounds
from collapsekit.stats.inference.jackknife import interval_array
from collapsekit.stats.inference.quantiles import normal

_EXP_MAX = 700.0  # the largest power of e that is taken


def wilson(share: float, count: float, level: float = 0.95) -> tuple[float, float]:
    """Compute Wilson's interval of a share of right answers (Wilson 1927, J. Am. Stat. Assoc. 22:209).

    Of none wrong among n its lower end lies near 1 - 3.8/n at 95 %: the rule of three, two-sided.

    Args:
        share: the part of the examples that are hits, 0 to 1.
        count: how many independent examples that is of, above 0; not a whole number where they count in part.
        level: the confidence level, in (0, 1).

    Returns:
        The lower and the upper end, within 0 to 1.

    Raises:
        NumericsError: for arguments outside of these.
    """
    if not (0 <= share <= 1 and 0 < count < math.inf and 0 < level < 1):
        raise NumericsError(
            f"Wilson's interval needs a share and a level in 0 to 1 and a count above 0, found {share}, {level} and "
            f"{count}: give the mean of hits."
        )
    z = normal(0.5 + level / 2)
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (0.0 if share == 0 else max(0.0, centre - half)), (1.0 if share == 1 else min(1.0, centre + half))


def bounded_interval(
    full: Tensor,
    leave_out: Tensor,
    level: float,
    bounds: Bounds = UNBOUNDED,
    count: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute jackknife intervals within bounds, each of which holds its estimate.

    The delete-a-group standard error is carried to the logit between two bounds, or to the logarithm of the distance from
    one (delta method), and the ends are mapped back; without bounds this is the plain interval. The scale turns most of the
    skewness; away from a single bound the end is at least the plain one, which is set for it. At a bound itself neither
    scale has a place: there the interval is the plain one cut at the bound and, where ``count`` is given, at least
    Wilson's, as no number of equal groups makes a share certain.

    Args:
        full: any shape, the estimates.
        leave_out: shape ``(G, *)``, the same without each of G groups.
        level: the confidence level, in (0, 1).
        bounds: the least and the most that an estimate can be.
        count: for means of hits, how many independent examples they are of; None: unknown.

    Returns:
        Lower and upper ends in the shape of ``full``, float64.

    Raises:
        NumericsError: for other shapes, fewer than 2 groups, and values that are not finite.
    """
    plain = interval_array(full, leave_out, level)
    if bounds == UNBOUNDED:
        return plain
    full = full.double()
    half = interval_array(full, leave_out, level, skewed=False)[1] - full
    below, above = full - bounds.low, bounds.high - full
    inside = (below > 0) & (above > 0)
    # By what the distance to each bound is multiplied or divided for one half width; a bound that is not there is far off.
    rate = torch.where(inside, 1 / below + 1 / above, torch.ones_like(full))
    odds = torch.exp((half * rate).clamp_max(_EXP_MAX))
    if math.isfinite(bounds.low) and math.isfinite(bounds.high):
        low = bounds.low + (bounds.high - bounds.low) * below / (below + above * odds)
        high = bounds.high - (bounds.high - bounds.low) * above / (above + below * odds)
    elif math.isfinite(bounds.low):  # away from the one bound a tail may be longer than the scale makes it
        low, high = bounds.low + below / odds, torch.maximum(bounds.low + below * odds, plain[1])
    else:
        low, high = torch.minimum(bounds.high - above * odds, plain[0]), bounds.high - above / odds
    cut = _at_a_bound(full, plain, level, bounds, count)
    low, high = (torch.where(inside, mapped, end) for mapped, end in zip((low, high), cut, strict=True))
    # Rounding may carry an end beyond the estimate.
    return finite(torch.minimum(low, full), "the interval"), finite(torch.maximum(high, full), "the interval")


def _at_a_bound(
    full: Tensor, plain: tuple[Tensor, Tensor], level: float, bounds: Bounds, count: float | None
) -> tuple[Tensor, Tensor]:
    """Both ends of estimates that lie at a bound."""
    low, high = (end.clamp(bounds.low, bounds.high) for end in plain)
    if count is None or bounds.ends is None or None in bounds.ends:
        return low, high
    size = bounds.high - bounds.low
    least = bounds.low + size * wilson(1.0, count, level)[0]
    most = bounds.low + size * wilson(0.0, count, level)[1]
    low = torch.where(full >= bounds.high, low.clamp_max(least), low)
    return low, torch.where(full <= bounds.low, high.clamp_min(most), high)
