"""Which other example a modality is taken from."""

from __future__ import annotations

import torch
from torch import Tensor

from collapsekit.errors import NumericsError


def marginal_samples(n: int, draws: int, seed: int) -> list[Tensor]:
    """Assign another example to each of n examples, each example lent once a draw.

    Args:
        n: how many examples.
        draws: how many assignments, of which there are n - 1 at most.
        seed: of the order of examples that assignments follow.

    Returns:
        ``draws`` assignments, n - 1 at most, each int64 (n,), and no two of them lend an example the same.

    Raises:
        NumericsError: for fewer than 2 examples.
    """
    if n < 2:
        raise NumericsError(f"taking a modality from another example needs at least 2 examples, found {n}: use more")
    shuffle = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    out = []
    for shift in shifts(n, draws):
        other = torch.empty(n, dtype=torch.long)
        other[shuffle] = shuffle.roll(shift)
        out.append(other)
    return out


def shifts(n: int, draws: int) -> list[int]:
    """List by how many places each assignment of ``marginal_samples`` turns a shuffle of n examples; no two are alike."""
    count = min(draws, n - 1)
    return [1 + k * (n - 1) // count for k in range(count)]
