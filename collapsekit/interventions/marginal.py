"""Which other example a modality is taken from."""

from __future__ import annotations

import torch
from torch import Tensor

from collapsekit.errors import NumericsError


def marginal_samples(n: int, draws: int, seed: int, alike: Tensor | None = None) -> list[Tensor]:
    """Assign another example to each of n examples, each example lent once a draw.

    Args:
        n: how many examples.
        draws: how many assignments, of which there are n - 1 at most.
        seed: of the order of examples that assignments follow.
        alike: int64 (n,), the group of each example, within which it takes and gives; one that is alone keeps its own. None:
            all are one group.

    Returns:
        ``draws`` assignments, n - 1 at most, each int64 (n,), and no two of them lend an example the same, unless its group
        is smaller than that.

    Raises:
        NumericsError: for fewer than 2 examples.
    """
    if n < 2:
        raise NumericsError(f"taking a modality from another example needs at least 2 examples, found {n}: use more")
    shuffle = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    groups = [shuffle] if alike is None else [shuffle[alike[shuffle] == g] for g in alike.unique()]
    turns = [shifts(len(members), draws) if len(members) > 1 else [0] for members in groups]
    out = []
    for k in range(min(draws, n - 1)):
        other = torch.empty(n, dtype=torch.long)
        for members, turn in zip(groups, turns, strict=True):
            other[members] = members.roll(turn[k % len(turn)])
        out.append(other)
    return out


def shifts(n: int, draws: int) -> list[int]:
    """List by how many places each assignment of ``marginal_samples`` turns a shuffle of n examples; no two are alike."""
    count = min(draws, n - 1)
    return [1 + k * (n - 1) // count for k in range(count)]
