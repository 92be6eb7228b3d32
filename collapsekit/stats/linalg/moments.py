"""Count, mean and scatter of features, in float64, mergeable without loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.checks import CONSTANT_RTOL, group_ids, matrix
from collapsekit.stats.threads import threads_for

ROWS = 4096  # examples taken at a time; fixed, so that results do not depend on who hands them over
BLOCK = 16 * ROWS  # consecutive examples that are parted into groups together: ROWS of each of 16
SEGMENTS = 1024  # most segments: runs of whole blocks whose sums are merged, so that processes can share them out
KEEP = 2**29  # bytes of matrices of single groups that are kept rather than computed again


class _Mergeable(Protocol):
    def merge(self, other: Self, /) -> Self: ...


Kind = TypeVar("Kind", bound=_Mergeable)


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moments of a set of examples, in float64.

    ``n``: how many; ``mean``: (d,); ``scatter``: (d, d), the sum of outer products of the centred examples
    (``(n - 1) * numpy.cov(x.T)``).
    """

    n: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, d: int) -> Moments:
        """Make the moments of no examples of ``d`` features: what every other value merges with unchanged."""
        return cls(0, torch.zeros(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64))

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        """Compute the moments of ``x`` (n, d), of any real dtype, in memory or mapped, ``ROWS`` at a time.

        Centred before anything is squared, so a large mean costs no digits; memory is O(d²), whatever n is. Raises
        NumericsError where x is not a finite matrix, or overflows.
        """
        sums = Summing(x.shape[-1] if x.ndim else 0)
        for part in x.split(ROWS) if x.ndim else [x]:
            sums.add(part)
        return sums.moments()

    @property
    def d(self) -> int:
        """How many features."""
        return self.mean.shape[0]

    def constant(self) -> Tensor:
        """Tell which features, (d,) bool, do not vary: standard deviation at most 1e-10 of the absolute mean.

        Relative, because a constant column accumulates rounding in proportion to its mean; a column of mean
        zero is constant only where it is exactly zero.
        """
        spread = (self.scatter.diagonal() / max(self.n, 1)).sqrt()
        return spread <= CONSTANT_RTOL * self.mean.abs()

    def merge(self, other: Moments) -> Moments:
        """Compute the moments of both sets together (Chan, Golub and LeVeque 1983, eq. 2.1, in matrix form).

        Raises NumericsError for other features.
        """
        if self.d != other.d:
            raise NumericsError(
                f"moments can only be merged over the same features, found {self.d} and {other.d}: "
                "compute both from the same layer."
            )
        if other.n == 0:
            return self
        if self.n == 0:
            return other
        n = self.n + other.n
        delta = other.mean - self.mean
        with threads_for(5.0 * self.d**2):
            between = torch.outer(delta, delta) * (self.n / n * other.n)
            return Moments(n, self.mean + delta * (other.n / n), self.scatter + other.scatter + between)


class Summing:
    """Moments of examples that come a few at a time; ``add`` changes it in place, so that nothing of size d² is copied."""

    def __init__(self, d: int) -> None:
        self.n, self.mean = 0, torch.zeros(d, dtype=torch.float64)
        self.scatter = torch.zeros(d, d, dtype=torch.float64)
        self.scratch = torch.zeros(0, d, dtype=torch.float64)  # the rows at hand; kept, as fresh memory costs time

    def add(self, x: Tensor) -> None:
        """Take in some rows ``x`` (k, d), of any real dtype. Raises NumericsError where they are not a finite matrix."""
        if x.ndim != 2 or not x.is_floating_point():
            x = matrix(x, "the features")
        k = x.shape[0]
        if k == 0:
            return
        if len(self.scratch) < k:
            self.scratch = torch.empty(k, x.shape[1], dtype=torch.float64, device=self.mean.device)
        with threads_for(2.0 * x.numel() * x.shape[1]):
            centred = self.scratch[:k].copy_(x.detach())
            mean = centred.mean(dim=0)
            if not bool(torch.isfinite(mean).all()):
                matrix(x, "the features")  # says what is not finite
            centred -= mean
            self.scatter.addmm_(centred.T, centred)
            delta, n = mean - self.mean, self.n + k
            if self.n:  # Chan, Golub and LeVeque 1983, eq. 2.1, in matrix form
                self.scatter.addr_(delta, delta, alpha=self.n / n * k)
        self.mean += delta * (k / n)
        self.n = n

    def moments(self) -> Moments:
        """Return what there is so far; it shares memory with what is added later.

        Raises NumericsError where it overflowed.
        """
        if not bool(torch.isfinite(self.scatter).all()):
            raise NumericsError("the features overflow float64 when squared: divide them by a constant.")
        return Moments(self.n, self.mean, self.scatter)


Each = Callable[[Callable[[int], Any], range], Iterable[Any]]  # as map; it may share the pieces among processes


def grouped_moments(x: Tensor, groups: Tensor, count: int, each: Each = map) -> list[Moments]:
    """Compute the moments of each group of rows.

    Of more than BLOCK examples in segments, merged as a tree that only n shapes: so processes that hold some segments each
    come to the same bits (collapsekit/features/segments.py).

    Args:
        x: (n, d), features.
        groups: (n,), whole numbers in 0..count-1.
        count: how many groups there are.
        each: runs the pieces of work, as map.

    Returns:
        The moments of each group, in order.

    Raises:
        NumericsError: for groups or features that do not fit.
    """
    groups = group_ids(groups, len(x), count)
    return list(each(lambda g: _in_segments(x, groups == g), range(count)))


def segment_rows(n: int) -> int:
    """Count the rows of a segment of n examples: whole blocks, as many as make SEGMENTS segments at most."""
    return BLOCK * max(1, -(-n // (BLOCK * SEGMENTS)))


class MergeTree(Generic[Kind]):
    """Sums of consecutive segments, merged in pairs as they come: which ones depends on their places alone, so that the
    bits of all together do not depend on who summed what. It holds log2 of the segments, whatever n is."""

    def __init__(self) -> None:
        self.nodes: list[tuple[int, int, Kind]] = []  # place of the first segment, how many, their sums

    def add(self, place: int, size: int, part: Kind) -> None:
        """Take in the sums of some segments.

        Args:
            place: of the first of them, which is right behind those before.
            size: how many, a power of two.
            part: their sums.
        """
        while self.nodes and self.nodes[-1][1] == size and self.nodes[-1][0] % (2 * size) == 0:
            place, _, before = self.nodes.pop()
            part, size = before.merge(part), 2 * size
        self.nodes.append((place, size, part))

    def whole(self) -> Kind:
        """Merge all that came, from the first segment on. Raises NumericsError where there is nothing."""
        if not self.nodes:
            raise NumericsError("there are no sums to merge: add at least one segment.")
        *before, (_, _, total) = self.nodes
        for _, _, part in reversed(before):
            total = part.merge(total)
        return total


def _in_segments(x: Tensor, chosen: Tensor) -> Moments:
    """Compute the moments of the rows ``chosen`` (n,), bool, segment by segment."""
    rows, length = chosen.nonzero()[:, 0], segment_rows(len(x))
    blocks = rows.tensor_split(torch.searchsorted(rows, torch.arange(BLOCK, max(len(x), BLOCK), BLOCK)))
    tree, many = MergeTree[Moments](), length // BLOCK
    for place in range(0, len(blocks), many):
        sums = Summing(x.shape[-1])
        for block in blocks[place : place + many]:
            for part in block.split(ROWS):
                sums.add(x[part])
        tree.add(place // many, 1, sums.moments())
    return tree.whole()


def _moments_of(x: Tensor, chosen: Tensor) -> Moments:
    """Compute the moments of the rows ``chosen`` (n,), bool, of which a few at a time are copied."""
    sums = Summing(x.shape[-1])
    for rows in chosen.nonzero()[:, 0].split(ROWS):
        sums.add(x[rows])
    return sums.moments()


def moments_left_out(x: Tensor, groups: Tensor, count: int, each: Each = map) -> tuple[Moments, Iterator[Moments]]:
    """Compute the moments of all rows, and one after another those without each group.

    Where ``count`` matrices (d, d) are too large to keep (see KEEP), groups are halved again and again, carrying what lies
    outside: log2(count) passes over x and as many matrices. Nothing is subtracted that could cancel.

    Args:
        x: (n, d), features.
        groups: (n,), whole numbers in 0..count-1.
        count: how many groups there are.
        each: runs the pieces of work, as map.

    Returns:
        The moments of all, and an iterator over those without each group.

    Raises:
        NumericsError: with fewer than 2 groups, and for groups or features that do not fit.
    """
    d = x.shape[-1]
    if count * d * d * 8 <= KEEP:
        parts = grouped_moments(x, groups, count, each)
        return merge_all(parts), leave_one_out(parts)
    if count < 2:
        raise NumericsError(f"leaving one group out needs at least 2 groups, found {count}: use 16.")
    groups = group_ids(groups, len(x), count)
    return _moments_of(x, groups >= 0), _halved(x, groups, 0, count, Moments.empty(d))


def _halved(x: Tensor, groups: Tensor, first: int, last: int, outside: Moments) -> Iterator[Moments]:
    """Moments of all rows without each group of first..last-1, those of the groups elsewhere being ``outside``."""
    if last - first == 1:
        yield outside
        return
    middle = (first + last) // 2
    for here, away in (((first, middle), (middle, last)), ((middle, last), (first, middle))):
        rows = (groups >= away[0]) & (groups < away[1])
        yield from _halved(x, groups, *here, outside.merge(_moments_of(x, rows)))


def merge_all(parts: Sequence[Kind]) -> Kind:
    """Merge all parts. Raises NumericsError where there are none."""
    if not parts:
        raise NumericsError("there are no moments to merge: pass at least one part, or use Moments.empty.")
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    return total


def leave_one_out(parts: Sequence[Kind]) -> Iterator[Kind]:
    """Merge, for each i, all parts but the i-th, of moments or other sums.

    Merges prefixes with suffixes: 3 merges a part, and no subtraction that could cancel.
    Raises NumericsError with fewer than 2 parts.
    """
    if len(parts) < 2:
        raise NumericsError(f"leave_one_out needs 2 or more parts, found {len(parts)}: use more groups.")
    return _left_out(parts)


def _left_out(parts: Sequence[Kind]) -> Iterator[Kind]:
    suffixes = [parts[-1]]  # suffixes[k]: the last k + 1 parts together
    for part in reversed(parts[1:-1]):
        suffixes.append(part.merge(suffixes[-1]))
    yield suffixes.pop()
    prefix = parts[0]
    for part in parts[1:-1]:
        yield prefix.merge(suffixes.pop())
        prefix = prefix.merge(part)
    yield prefix
