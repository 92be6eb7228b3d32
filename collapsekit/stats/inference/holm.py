"""Several tests at once, none the less one error rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

from collapsekit.errors import NumericsError


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values by Holm's method, in the order of ``p_values``; each in [0, 1].

    Reject those at or under α, and the family-wise error rate is at most α. The k-th smallest of m is multiplied by
    m - k + 1, made no smaller than those before it, and capped at 1 (Holm 1979, Scand. J. Statist. 6:65). Equals
    ``statsmodels.stats.multitest.multipletests(method="holm")``. Raises NumericsError for values outside [0, 1].
    """
    wrong = next((p for p in p_values if not (math.isfinite(p) and 0 <= p <= 1)), None)
    if wrong is not None:
        raise NumericsError(f"a p-value lies between 0 and 1, found {wrong}: leave out tests that could not be made.")
    adjusted, least = [0.0] * len(p_values), 0.0
    for k, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - k) * p_values[i]))
        adjusted[i] = least
    return adjusted
