"""What the functions of this package ask of their input before computing."""

from __future__ import annotations

import torch
from torch import Tensor

from collapsekit.errors import NumericsError

# A spread this small beside the mean is rounding, not data: float32 resolves 6e-8, and float64 sums 1e-14.
CONSTANT_RTOL = 1e-10


def doubled(x: Tensor) -> Tensor:
    """Return ``x`` (any shape) in float64 where it lies, or on the CPU where its device has none, as Apple's GPUs.

    Its gradient is kept.
    """
    try:
        return x.to(torch.float64)
    except TypeError:
        return x.cpu().to(torch.float64)


def finite(x: Tensor, name: str) -> Tensor:
    """Return ``x`` (any shape) detached, in float64. Raises NumericsError where it is complex or holds NaN or Inf."""
    if x.is_complex():
        raise NumericsError(f"{name} must be real numbers, found {x.dtype}: pass the real part or modulus.")
    x = doubled(x.detach())
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).sum())
        raise NumericsError(
            f"{name} must be finite, found {bad} NaN or Inf among {x.numel()} values: "
            "find what produces them, or drop those examples."
        )
    return x


def matrix(x: Tensor, name: str) -> Tensor:
    """Return ``x`` (n, d) in float64. Raises NumericsError unless it has that shape, and is real and finite."""
    if x.ndim != 2:
        raise NumericsError(
            f"{name} must be a matrix with one example a row, found shape {tuple(x.shape)}: "
            "pool or flatten the other dimensions first."
        )
    return finite(x, name)


def group_ids(groups: Tensor, n: int, count: int) -> Tensor:
    """Check the group of each example.

    Args:
        groups: (n,), whole numbers in 0..count-1.
        n: how many examples there are.
        count: how many groups there are.

    Returns:
        ``groups`` as int64 (n,).

    Raises:
        NumericsError: for another shape or dtype, and for a group out of range.
    """
    if groups.shape != (n,):
        raise NumericsError(
            f"groups must have one entry for each of {n} examples, found shape {tuple(groups.shape)}: "
            "use jackknife.assign_groups."
        )
    if groups.is_floating_point() or groups.is_complex() or groups.dtype == torch.bool:
        raise NumericsError(f"groups must be whole numbers, found {groups.dtype}: see assign_groups.")
    groups = groups.to(torch.int64)
    if n and (int(groups.min()) < 0 or int(groups.max()) >= count):
        raise NumericsError(
            f"groups must lie in 0..{count - 1}, found {int(groups.min())}..{int(groups.max())}: "
            "use jackknife.assign_groups with the same count."
        )
    return groups
