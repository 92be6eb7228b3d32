"""Intervals of sums, differences and ratios of quantities that have ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from collapsekit.stats.checks import finite
from collapsekit.stats.inference.bounded import bounded_interval
from collapsekit.stats.inference.bounds import UNBOUNDED, Bounds
from collapsekit.stats.inference.jackknife import interval_array

GRID, ZOOMS = 64, 6  # places at which a ratio is tried at once, and how often between two of them


@dataclass(frozen=True)
class Part:
    """One of several quantities that are added up."""

    values: Tensor  # over all examples, then without each group, (1 + G, ...)
    bounds: Bounds = UNBOUNDED  # the least and the most that it can be
    count: float | None = None  # of a mean of hits: how many independent examples it is of; None: unknown

    def reach(self, level: float) -> Reach:
        """Compare its interval within bounds with ``t * SE``, in the shape of one estimate."""
        full, left_out = self.values[0].double(), self.values[1:]
        low, high = bounded_interval(full, left_out, level, self.bounds, self.count)
        half = interval_array(full, left_out, level, skewed=False)[1] - full
        return Reach((full - low - half).clamp_min(0.0), (high - full - half).clamp_min(0.0), half)


@dataclass(frozen=True)
class Reach:
    """How much farther a part's interval within bounds reaches than ``t * SE``, which is ``half``."""

    below: Tensor
    above: Tensor
    half: Tensor

    def subtracted(self, r: Tensor) -> Reach:
        """Give that of minus ``r`` times the part, for ratios r of 0 or more (k,): each (k,)."""
        return Reach(r * self.above, r * self.below, r * self.half)


def sum_interval(parts: Sequence[Part], level: float) -> tuple[Tensor, Tensor]:
    """Compute the interval of a sum of quantities.

    It is the jackknife's of the sum, moved out where the parts have ends by how much farther each part's own interval within
    bounds reaches than its ``t * SE``. Where a part is near its bound, such as a loss near 0 that few examples make, the
    jackknife alone takes for sure what depends on which examples were met. Of parts that move against each other the sum
    moves less than each; then a part moves the ends by so much less.

    Args:
        parts: one or more, of one shape.
        level: the confidence level, in (0, 1).

    Returns:
        Lower and upper ends in the shape of one estimate, float64.

    Raises:
        NumericsError: for other shapes, fewer than 2 groups, and values that are not finite.
    """
    whole = _Sum(parts, level)
    plain = interval_array(whole.values[0], whole.values[1:], level)
    half = (plain[1] - plain[0]) / 2
    return _widened(whole.values[0], plain, [_shared(part, half) for part in whole.reaches])


def difference_interval(one: Part, other: Part, level: float) -> tuple[Tensor, Tensor]:
    """Compute the interval of ``one - other`` by :func:`sum_interval`.

    Args:
        one: over all examples and without each group, (1 + G, ...).
        other: likewise.
        level: the confidence level, in (0, 1).

    Returns:
        Lower and upper ends in the shape of one estimate, float64.
    """
    return sum_interval([one, Part(-other.values, other.bounds.of_negatives, other.count)], level)


def ratio_interval(top: Sequence[Part], bottom: Sequence[Part], level: float, cap: float) -> tuple[float, float]:
    """Compute Fieller's interval of a ratio of two sums within [0, cap].

    All r in [0, cap] for which ``top - r·bottom`` is not told from 0 (Fieller 1954, J. R. Stat. Soc. B 16:175) by the
    jackknife's interval of the difference and by what each part's own interval within bounds reaches beyond ``t * SE``,
    all of which are added up in squares, as errors that do not know of one another. A part that is a small loss is best
    given by itself: in a sum with larger ones its bound is far off. A bottom near 0 makes it wide, up to all of
    [0, cap], where the jackknife of the ratio would be wild. The ratio itself, brought into [0, cap], always counts;
    where no other does, it is both ends.

    Args:
        top: parts of the numerator, each (1 + G,).
        bottom: parts of the denominator, likewise.
        level: the confidence level, in (0, 1).
        cap: the largest ratio, above 0.

    Returns:
        The lower and the upper end.

    Raises:
        NumericsError: for other shapes, fewer than 2 groups, and values that are not finite.
    """
    a, b = (float(torch.stack([p.values[0].double() for p in parts]).sum()) for parts in (top, bottom))
    guess = (0.0 if a <= 0 else cap) if a <= 0 or b <= 0 else min(cap, a / b)
    quotient = _Quotient(top, bottom, level)
    return quotient.farthest(guess, 0.0), quotient.farthest(guess, cap)


class _Sum:
    """Parts that were added up."""

    def __init__(self, parts: Sequence[Part], level: float) -> None:
        self.values = torch.stack([p.values.double() for p in parts]).sum(0)
        self.reaches = [p.reach(level) for p in parts if p.bounds != UNBOUNDED]


class _Quotient:
    """top - r·bottom, for any r."""

    def __init__(self, top: Sequence[Part], bottom: Sequence[Part], level: float) -> None:
        self.top, self.bottom, self.level = _Sum(top, level), _Sum(bottom, level), level

    def contains_zero(self, r: Tensor) -> Tensor:
        """Tell for each ratio r (k,) whether top - r·bottom is not told from 0, bool (k,)."""
        whole = self.top.values[:, None] - self.bottom.values[:, None] * r
        low, high = interval_array(whole[0], whole[1:], self.level)
        reaches = [*self.top.reaches, *(part.subtracted(r) for part in self.bottom.reaches)]
        down = torch.stack([whole[0] - low, *(part.below.expand_as(r) for part in reaches)]).square().sum(0).sqrt()
        up = torch.stack([high - whole[0], *(part.above.expand_as(r) for part in reaches)]).square().sum(0).sqrt()
        return (whole[0] <= down) & (whole[0] >= -up)

    def farthest(self, start: float, end: float) -> float:
        """Find the ratio nearest to ``end``, from ``start`` on, for which 0 is contained."""
        for _ in range(ZOOMS):
            r = torch.linspace(start, end, GRID + 1, dtype=torch.float64)
            inside = self.contains_zero(r).nonzero()[:, 0]
            last = int(inside[-1]) if len(inside) else 0
            if last == GRID:
                return end
            start, end = float(r[last]), float(r[last + 1])
        return start


def _shared(reach: Reach, half: Tensor) -> Reach:
    """What is left of a part's reach in a sum that is ``half`` wide to either side, less than the part where others move
    against it; nothing where it never moves."""
    share = (half / torch.maximum(half, reach.half).clamp_min(torch.finfo(torch.float64).tiny)).sqrt()
    return Reach(share * reach.below, share * reach.above, reach.half)


def _widened(full: Tensor, plain: tuple[Tensor, Tensor], reaches: Sequence[Reach]) -> tuple[Tensor, Tensor]:
    """Move the plain ends out by what parts reach beyond theirs."""
    low, high = plain
    for part in reaches:
        low, high = low - part.below, high + part.above
    return finite(low, "the interval"), finite(high, "the interval")
