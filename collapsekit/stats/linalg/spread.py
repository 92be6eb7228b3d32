"""How much features move from example to example."""

from __future__ import annotations

import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.checks import doubled, group_ids

COLUMNS = 4096  # features whose sums are taken at once, so that wide maps fit into memory


def spread(x: Tensor, groups: Tensor, count: int) -> Tensor:
    """Compute the root mean square over features of their standard deviation over examples.

    Args:
        x: features, (n, ...).
        groups: the jackknife group of each example, (n,).
        count: how many groups there are, G.

    Returns:
        Of all examples, then without each group, (1 + G,), float64, in the unit of the features.

    Raises:
        NumericsError: where fewer than two examples are left without a group.
    """
    flat, groups = x.reshape(len(x), -1), group_ids(groups, len(x), count)
    sizes = torch.bincount(groups, minlength=count).double()
    left = torch.cat([torch.tensor([float(len(x))], dtype=torch.float64), len(x) - sizes])
    if float(left.min()) < 2:
        raise NumericsError(f"a spread needs two examples beside each group, found {len(x)} in all: use more.")
    total = torch.zeros(1 + count, dtype=torch.float64)
    for columns in flat.split(COLUMNS, 1):
        part = doubled(columns)
        centred = part - part.mean(0)
        sums, squares = (
            torch.zeros(count, part.shape[1], dtype=torch.float64).index_add_(0, groups, values)
            for values in (centred, centred.square())
        )
        means = torch.cat([sums.sum(0, keepdim=True), sums.sum(0) - sums]) / left[:, None]
        powers = torch.cat([squares.sum(0, keepdim=True), squares.sum(0) - squares]) / left[:, None]
        total += (powers - means.square()).clamp_min(0.0).sum(1)
    return (total / flat.shape[1]).sqrt()
