"""How far values spread over examples, and how much of a curve is left under noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from collapsekit.errors import NumericsError

Spread = Literal["range", "deviation"]


def spread(x: Tensor, how: Spread) -> float:
    """Measure how far the entries of ``x`` (n first, then any shape) spread over the examples, in units of ``x``.

    ``range``: the largest range of any one entry; ``deviation``: the root of the mean of the entries' variances. What
    differs between entries alone does not count. Equals ``numpy.ptp(x, axis=0).max()`` and
    ``numpy.var(x, axis=0).mean() ** 0.5``, in float64. 0 for no values; infinite or NaN where ``x`` is not finite.
    """
    if not x.numel():
        return 0.0
    x = x.detach()
    if how == "range":
        return float((x.amax(dim=0).double() - x.amin(dim=0).double()).max())
    return float(x.double().var(dim=0, correction=0).mean().sqrt())


def area(levels: Sequence[float], values: Tensor) -> Tensor:
    """Compute the area under ``values`` (shape L first, then any) over ``levels`` (L numbers), relative to the clean value.

    By the trapezoid rule, over the area there would be had the first value stayed: 1 where nothing changes, 0 where
    everything is lost at once. ``levels`` ascend from 0. Equals
    ``numpy.trapezoid(values, levels, axis=0) / (levels[-1] * values[0])``. Raises NumericsError where a first value is not
    positive, so that there is nothing to be relative to.
    """
    x = torch.tensor(list(levels), dtype=torch.float64)
    y = values.double()
    if len(x) < 2 or len(x) != len(y) or float(x[0]) != 0 or not bool((x.diff() > 0).all()):
        raise NumericsError(f"an area needs ascending levels from 0 and a value at each, found {list(levels)}.")
    if float(y[0].min()) <= 0:
        raise NumericsError(f"an area relative to the clean value needs that positive, found {float(y[0].min()):.4g}.")
    return torch.trapezoid(y / y[0], x, dim=0) / x[-1]
