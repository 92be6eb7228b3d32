"""Count, mean and scatter of features, in float64, mergeable without loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.checks import CONSTANT_RTOL, group_ids, matrix
from collapsekit.stats.threads import threads_for


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moments of a set of examples.

    ``n``: how many; ``mean``: "d"; ``scatter``: "d d", the sum of outer products of the centred examples
    (``(n - 1) * numpy.cov(x.T)``). Both tensors are float64.
    """

    n: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, d: int) -> Moments:
        """The moments of no examples of ``d`` features: what every other value merges with unchanged."""
        return cls(0, torch.zeros(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64))

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        """The moments of ``x`` ("n d", any real dtype). Two passes: centred before anything is squared, so
        a large mean costs no digits. Raises NumericsError where x is not a finite matrix, or overflows."""
        x = matrix(x, "the features")
        if x.shape[0] == 0:
            return cls(0, x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1], x.shape[1]))
        mean = x.mean(dim=0)
        centred = x - mean
        # The mean is rounded; what that leaves in every row is moved over to it.
        rest = centred.mean(dim=0)
        centred -= rest
        with threads_for(2.0 * centred.numel() * x.shape[1]):
            scatter = centred.T @ centred
        if not bool(torch.isfinite(scatter).all()):
            raise NumericsError("the features overflow float64 when squared: divide them by a constant.")
        return cls(x.shape[0], mean + rest, scatter)

    @property
    def d(self) -> int:
        """How many features."""
        return self.mean.shape[0]

    def constant(self) -> Tensor:
        """Which features ("d", bool) do not vary: standard deviation at most 1e-10 of the absolute mean.

        Relative, because a constant column accumulates rounding in proportion to its mean; a column of mean
        zero is constant only where it is exactly zero.
        """
        spread = (self.scatter.diagonal() / max(self.n, 1)).sqrt()
        return spread <= CONSTANT_RTOL * self.mean.abs()

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets together (Chan, Golub and LeVeque 1983, eq. 2.1, in matrix form)."""
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


def grouped_moments(x: Tensor, groups: Tensor, count: int) -> list[Moments]:
    """The moments of each group of rows: ``x`` "n d", ``groups`` "n" whole numbers in 0..count-1."""
    x = matrix(x, "the features")
    groups = group_ids(groups, x.shape[0], count).to(x.device)
    return [Moments.of(x[groups == g]) for g in range(count)]


def merge_all(parts: Sequence[Moments]) -> Moments:
    """All parts together. Raises NumericsError where there are none."""
    if not parts:
        raise NumericsError("there are no moments to merge: pass at least one part, or use Moments.empty.")
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    return total


def leave_one_out(parts: Sequence[Moments]) -> list[Moments]:
    """For each i, all parts but the i-th together.

    Merges prefixes with suffixes: 3 merges a part, and no subtraction that could cancel.
    Raises NumericsError with fewer than 2 parts.
    """
    if len(parts) < 2:
        raise NumericsError(f"leave_one_out needs 2 or more parts, found {len(parts)}: use more groups.")
    suffixes = [parts[-1]]  # suffixes[k]: the last k + 1 parts together
    for part in reversed(parts[1:-1]):
        suffixes.append(part.merge(suffixes[-1]))
    left_out = []
    prefix: Moments | None = None
    for part in parts:
        if not suffixes:
            assert prefix is not None
            left_out.append(prefix)
            break
        suffix = suffixes.pop()
        left_out.append(suffix if prefix is None else prefix.merge(suffix))
        prefix = part if prefix is None else prefix.merge(part)
    return left_out
