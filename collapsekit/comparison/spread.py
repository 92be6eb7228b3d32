"""Mean and standard deviation over runs."""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean(values: Sequence[float]) -> float:
    """Compute the mean of finite numbers, however large; the same in any order."""
    most = max(map(abs, values)) or 1.0
    return most * max(-1.0, min(1.0, math.fsum(v / most for v in values) / len(values)))


def sd(values: Sequence[float]) -> float | None:
    """Return the standard deviation, n - 1 in the denominator; None with fewer than two, or beyond what a number can
    be.
    """
    if len(values) < 2:
        return None
    most = max(map(abs, values)) or 1.0
    middle = math.fsum(v / most for v in values) / len(values)
    found = most * math.sqrt(math.fsum((v / most - middle) ** 2 for v in values) / (len(values) - 1))
    return found if math.isfinite(found) else None
