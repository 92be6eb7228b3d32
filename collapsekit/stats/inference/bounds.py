"""What a quantity can be: its least and its most."""

from __future__ import annotations

import math
from dataclasses import dataclass

from collapsekit.errors import NumericsError


@dataclass(frozen=True)
class Bounds:
    """The least and the most that a quantity can be; infinite where it has no such end."""

    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise NumericsError(f"bounds run from the least to the most, found {self.low} and {self.high}: swap them.")

    @property
    def of_differences(self) -> Bounds:
        """The bounds of one such quantity minus another."""
        most = self.high - self.low
        return Bounds(-most, most)

    @property
    def of_negatives(self) -> Bounds:
        """The bounds of minus such a quantity."""
        return Bounds(-self.high, -self.low)

    def times(self, factor: float) -> Bounds:
        """Return the bounds of ``factor``, above 0, times such a quantity."""
        return Bounds(self.low * factor, self.high * factor)

    @property
    def ends(self) -> tuple[float | None, float | None] | None:
        """Both as a report holds them: None for an infinite one, and where both are."""
        low, high = (x if math.isfinite(x) else None for x in (self.low, self.high))
        return None if low is high is None else (low, high)


UNBOUNDED = Bounds()
SHARE = Bounds(0.0, 1.0)
NOT_NEGATIVE = Bounds(0.0)
