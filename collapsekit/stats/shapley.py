"""Shapley values over players that can be present or absent, such as modalities."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.checks import finite


def exact(values: Tensor) -> Tensor:
    """Compute Shapley values, (m, *) float64, from the worth of every subset of m players.

    ``values``: shape (2**m, *), where row b is the worth of the players whose bits are set in b (bit i is player i; higher
    is better), in any unit, which is that of the credits. A player's credit is its mean marginal gain over all orders of
    arrival (Shapley 1953, eq. 13), so credits add up to full minus empty. Raises NumericsError where the first
    dimension is not a power of two of at least 2.
    """
    values = finite(values, "the worths")
    size = values.shape[0] if values.ndim else 0
    m = size.bit_length() - 1
    if m < 1 or size != 1 << m:
        raise NumericsError(
            f"exact Shapley values need the worth of all 2**m subsets of m >= 1 players, found {size}: "
            "pass one row for each bitmask."
        )
    masks = torch.arange(size, device=values.device)
    present = torch.stack([(masks >> i) & 1 for i in range(m)]).sum(dim=0)
    # A subset of s others comes before player i in s!(m-1-s)! of the m! orders.
    weights = torch.tensor([1.0 / (m * math.comb(m - 1, s)) for s in range(m)], dtype=torch.float64)
    weights = weights.to(values.device)
    credits = []
    for i in range(m):
        without = masks[(masks >> i) & 1 == 0]
        gains = values[without | (1 << i)] - values[without]
        credits.append(torch.tensordot(weights[present[without]], gains, dims=1))
    return torch.stack(credits)


def sampled(
    worth: Callable[[int], Tensor], m: int, permutations: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Estimate Shapley values and their standard errors from random orders of arrival.

    A draw is a random order and its reverse, averaged (antithetic sampling; Mitchell et al. 2022, section 4.1). Each
    draw's credits add up to full minus empty, so their mean's do too.

    Args:
        worth: the worth (any shape) of a subset, by bitmask; asked once for each subset met.
        m: how many players there are.
        permutations: how many draws; the standard error is over them.
        generator: where the orders come from.

    Returns:
        Credits and their standard errors, both of shape (m, *) with the shape of a worth behind m, float64.

    Raises:
        NumericsError: with fewer than 1 player or 2 draws, and for worths of several shapes.
    """
    if m < 1 or permutations < 2:
        raise NumericsError(
            f"sampled Shapley values need 1 or more players and 2 or more permutations, "
            f"found {m} and {permutations}: "
            "draw more permutations."
        )
    seen: dict[int, Tensor] = {}

    def lookup(mask: int) -> Tensor:
        if mask not in seen:
            seen[mask] = finite(worth(mask), "the worths")
            if seen[mask].shape != seen[0].shape:
                raise NumericsError(
                    f"worths must have one shape, found {tuple(seen[0].shape)} of no player and "
                    f"{tuple(seen[mask].shape)} of subset {mask:#b}: average over examples in both."
                )
        return seen[mask]

    mean = torch.zeros((m, *lookup(0).shape), dtype=torch.float64, device=lookup(0).device)
    squares = torch.zeros_like(mean)
    for k in range(1, permutations + 1):
        order = torch.randperm(m, generator=generator, device=generator.device).tolist()
        draw = torch.zeros_like(mean)
        for arrivals in (order, order[::-1]):
            mask = 0
            for player in arrivals:
                draw[player] += 0.5 * (lookup(mask | 1 << player) - lookup(mask))
                mask |= 1 << player
        # Welford: one draw is held at a time, whatever the size of a worth.
        delta = draw - mean
        mean += delta / k
        squares += delta * (draw - mean)
    return mean, (squares / (permutations - 1) / permutations).sqrt()
