"""Means over all examples, and without each group."""

from __future__ import annotations

import torch
from torch import Tensor


def leave_out_means(values: Tensor, groups: Tensor) -> Tensor:
    """Compute the mean of per-example ``values`` (n,), then those without each group: (1 + G,), float64.

    ``groups`` (n,) holds whole numbers in 0..G-1.
    """
    count = int(groups.max()) + 1
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, groups, values.double())
    sizes = torch.bincount(groups, minlength=count).double()
    total = sums.sum()
    return torch.cat([(total / len(values))[None], (total - sums) / (len(values) - sizes)])
