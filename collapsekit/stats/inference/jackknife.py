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
    freedom (delete-a-group jackknife, Kott 2001, J. Official Statistics 17:521).

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


def ratio_interval(
    top: tuple[float, Sequence[float]], bottom: tuple[float, Sequence[float]], level: float, cap: float
) -> tuple[float, float]:
    """Compute Fieller's interval of top/bottom within [0, cap].

    All r in [0, cap] for which ``top - r·bottom`` is not told from 0 by the delete-a-group jackknife (Fieller 1954,
    J. R. Stat. Soc. B 16:175). A bottom near 0 makes it wide, up to all of [0, cap], where the plain jackknife of the
    ratio would be wild. The ratio itself, brought into [0, cap], always counts; where no other does, it is both ends.

    Args:
        top: the numerator, and its values without each group.
        bottom: the denominator, likewise.
        level: the confidence level, in (0, 1).
        cap: the largest ratio, above 0.

    Returns:
        The lower and the upper end.
    """
    a, b = top[0], bottom[0]
    x, y = (torch.tensor(list(v), dtype=torch.float64) for v in (top[1], bottom[1]))
    x, y, count = x - x.mean(), y - y.mean(), len(x)
    if a <= 0 or b <= 0:
        guess = 0.0 if a <= 0 else cap
    else:
        guess = min(cap, a / b)
    scale = (count - 1) / count * student(0.5 + level / 2, count - 1) ** 2
    aa, ab, bb = (scale * float((u * v).sum()) for u, v in ((x, x), (x, y), (y, y)))

    def within(r: float) -> bool:
        return (a - r * b) ** 2 <= (aa - 2 * r * ab + r * r * bb) * (1 + 1e-6) + 1e-300

    # (b² - bb)·r² - 2(ab' - ab)·r + (a² - aa) <= 0
    p, q, c = b * b - bb, a * b - ab, a * a - aa
    ends = [0.0, cap]
    if p != 0 and q * q - p * c >= 0:
        root = math.sqrt(q * q - p * c)
        ends += [r for r in ((q - root) / p, (q + root) / p) if 0 < r < cap]
    found = [guess, *(r for r in ends if within(r))]
    return min(found), max(found)


def interval_array(full: Tensor, leave_out: Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Compute :func:`interval` for every element of a tensor.

    Args:
        full: any shape, the estimates.
        leave_out: shape (G, *), the same without each of G groups.
        level: the confidence level, in (0, 1).

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
    half = student(0.5 + level / 2, count - 1) * se
    return finite(full - half, "the interval"), finite(full + half, "the interval")
