"""Moments of very many examples, of which each process sums some: to the bits that one process comes to by itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from collapsekit.stats.linalg import moments
from collapsekit.stats.linalg.moments import MergeTree, Moments, Summing, segment_rows


@dataclass(frozen=True, eq=False)
class GroupMoments:
    """Moments of each group of the same examples."""

    parts: tuple[Moments, ...]

    def merge(self, other: GroupMoments) -> GroupMoments:
        """Merge group by group."""
        return GroupMoments(tuple(a.merge(b) for a, b in zip(self.parts, other.parts, strict=True)))

    def packed(self) -> Tensor:
        """Lay all of it out as numbers of shape (groups, 1 + d + d²), float64: counts, means, scatters."""
        return torch.stack(
            [torch.cat([torch.tensor([p.n], dtype=torch.float64), p.mean, p.scatter.flatten()]) for p in self.parts]
        )

    @classmethod
    def unpacked(cls, numbers: Tensor) -> GroupMoments:
        """Read what ``packed`` laid out, of shape (groups, 1 + d + d²); it shares memory with it."""
        d = next(d for d in range(numbers.shape[1]) if 1 + d + d * d == numbers.shape[1])
        return cls(tuple(Moments(int(row[0]), row[1 : 1 + d], row[1 + d :].view(d, d)) for row in numbers))


def share_of(n: int, rank: int, size: int) -> tuple[int, int]:
    """Say which rows a process sums: whole segments, as many as others do, but for one.

    Args:
        n: rows in all.
        rank: which process.
        size: how many processes.

    Returns:
        The first of its rows, and the one behind the last.
    """
    length = segment_rows(n)
    count = -(-n // length)
    first, last = (count * r // size * length for r in (rank, rank + 1))
    return min(first, n), min(last, n)


class GroupSums:
    """Moments by group of rows that come in order, some at a time: whole segments, the last of which may end with the
    examples. It holds one block of rows, and the sums."""

    def __init__(self, d: int, groups: Tensor, count: int, first: int, last: int) -> None:
        """``groups``: of all n examples, (n,), in 0..count-1; ``first`` and ``last``: the rows that come, see share_of."""
        self.groups, self.count = groups, count
        self.length, self.next, self.last = segment_rows(len(groups)), first, last
        self.tree = MergeTree[GroupMoments]()
        self._d = d
        self._held: list[Tensor] = []
        self._rows = 0  # how many are held
        self._scratch = torch.zeros(0, d, dtype=torch.float64)
        self._anew()

    def _anew(self) -> None:
        self._sums = [Summing(self._d) for _ in range(self.count)]

    def add(self, x: Tensor) -> None:
        """Take in the next rows (k, d). Raises NumericsError where they are not a finite matrix, or overflow."""
        while len(x):
            wanted = min(moments.BLOCK, self.last - self.next) - self._rows
            self._held.append(x[:wanted])
            self._rows += len(x[:wanted])
            if len(x) >= wanted:
                self._take(torch.cat(self._held))
            x = x[wanted:]

    def _take(self, block: Tensor) -> None:
        """Sum one block, group by group, and close the segment where it ends."""
        groups = self.groups[self.next : self.next + len(block)]
        for g, sums in enumerate(self._sums):
            sums.scratch = self._scratch  # one for all of them
            for part in (groups == g).nonzero()[:, 0].split(moments.ROWS):
                sums.add(block[part])
            self._scratch, sums.scratch = sums.scratch, self._scratch[:0]
        self.next += len(block)
        self._held, self._rows = [], 0
        if self.next % self.length == 0 or self.next == self.last:
            place = -(-self.next // self.length) - 1
            self.tree.add(place, 1, GroupMoments(tuple(s.moments() for s in self._sums)))
            self._anew()


def merge_shares(nodes: Iterable[tuple[int, int, GroupMoments]]) -> list[Moments]:
    """Merge the nodes of all processes' trees, in their order; the moments of each group of all examples."""
    tree = MergeTree[GroupMoments]()
    for place, size, part in nodes:
        tree.add(place, size, part)
    return list(tree.whole().parts)
