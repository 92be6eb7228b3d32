"""Grid: the places of a dense output that are scored, and what maps of another size have there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """Places of an output whose positions have the shape ``space``: all of them, or ``most`` drawn once."""

    space: tuple[int, ...]
    most: int

    @cached_property
    def places(self) -> Tensor:
        """Numbers of the places in the flattened output, ascending, int64 (P,): the same of every example."""
        total = prod(self.space)
        if total <= self.most:
            return torch.arange(total)
        return torch.randperm(total, generator=torch.Generator().manual_seed(0))[: self.most].sort().values

    def taken(self, values: Tensor) -> Tensor:
        """Take values (n, ..., *space) at the places: (n, ..., P)."""
        flat = values.flatten(values.ndim - len(self.space))
        return flat.index_select(flat.ndim - 1, self.places.to(flat.device))

    def fits(self, shape: torch.Size) -> bool:
        """Tell whether maps (n, c, *s) of this shape have an axis for each of the output's."""
        return len(shape) == len(self.space) + 2 and min(shape[2:]) > 1

    def neighbours(self, maps: Tensor, reach: int) -> Tensor:
        """Read maps around the places; a map of another size is read where the same share of each axis lies.

        Args:
            maps: (n, c, *s), as many axes as the output has.
            reach: steps in each direction that count as around; at an edge its values are repeated.

        Returns:
            (n, P, c · (2 reach + 1)^axes).
        """
        sizes = maps.shape[2:]
        flat, found = maps.flatten(2), []
        for steps in product(range(-reach, reach + 1), repeat=len(sizes)):
            index, left = torch.zeros_like(self.places), self.places
            stride = 1
            for axis in reversed(range(len(sizes))):
                at = left % self.space[axis]
                left = left // self.space[axis]
                own = (at * sizes[axis] // self.space[axis] + steps[axis]).clamp(0, sizes[axis] - 1)
                index, stride = index + own * stride, stride * sizes[axis]
            found.append(flat.index_select(2, index))
        return torch.cat(found, 1).transpose(1, 2)
