"""Debiased linear CKA, from sums over examples: memory grows with d_x·d_y, not with n²."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.checks import CONSTANT_RTOL, group_ids, matrix
from collapsekit.stats.linalg.moments import KEEP, ROWS, Each, leave_one_out, merge_all
from collapsekit.stats.threads import threads_for

# Below this, relative to |XᵀX|²/n², an unbiased self-HSIC is rounding around zero.
_SELF_RTOL = 1e-12


@dataclass(frozen=True, eq=False)
class CrossSums:
    """Sums over examples from which the unbiased HSIC of linear kernels on x and y follows.

    All add up over examples. They may be taken about any common point, since the HSIC does not depend on
    it; for accuracy that point should be near the mean.
    """

    n: int
    x: Tensor  # Σ x_i                (d_x,)
    y: Tensor  # Σ y_i                (d_y,)
    xy: Tensor  # Σ x_i y_iᵀ          (d_x, d_y)
    x_yy: Tensor  # Σ x_i |y_i|²      (d_x,)
    y_xx: Tensor  # Σ y_i |x_i|²      (d_y,)
    norms: Tensor  # Σ |x_i|², Σ |y_i|², Σ |x_i|² |y_i|²

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> CrossSums:
        """Sum over the rows of ``x`` (n, d_x) and ``y`` (n, d_y), in float64, about the origin.

        Raises NumericsError where they are not finite matrices of the same examples.
        """
        _same_examples(x, y)
        x, y = matrix(x, "the first features"), matrix(y, "the second features")
        xx, yy = x.square().sum(dim=1), y.square().sum(dim=1)
        norms = torch.stack([xx.sum(), yy.sum(), xx @ yy])
        with threads_for(2.0 * x.numel() * y.shape[1]):
            return cls(x.shape[0], x.sum(dim=0), y.sum(dim=0), x.T @ y, yy @ x, xx @ y, norms)

    def merge(self, other: CrossSums) -> CrossSums:
        """Add up the sums over both sets of examples."""
        return CrossSums(
            self.n + other.n,
            self.x + other.x,
            self.y + other.y,
            self.xy + other.xy,
            self.x_yy + other.x_yy,
            self.y_xx + other.y_xx,
            self.norms + other.norms,
        )

    def hsic(self) -> float:
        """Compute the unbiased HSIC of the linear kernels K = XXᵀ, L = YYᵀ (Song et al. 2012).

        Negative where x and y are less alike than chance; never so of x with itself, since it is the inner
        product of the U-centred kernels (Székely and Rizzo 2014).

        With K̃, L̃ the kernels with zeroed diagonals:
        (tr K̃L̃ + 1ᵀK̃1·1ᵀL̃1/((n-1)(n-2)) - 2/(n-2)·1ᵀK̃L̃1)/(n(n-3)).
        Raises NumericsError with fewer than 4 examples.
        """
        n = self.n
        if n < 4:
            raise NumericsError(f"unbiased HSIC needs at least 4 examples, found {n}: use more examples.")
        xx, yy, both = self.norms.unbind()
        trace = self.xy.square().sum() - both
        total_x = self.x @ self.x - xx
        total_y = self.y @ self.y - yy
        chain = self.x @ self.xy @ self.y - self.x @ self.x_yy - self.y @ self.y_xx + both
        hsic = trace + total_x * total_y / ((n - 1) * (n - 2)) - 2 / (n - 2) * chain
        return float(hsic) / (n * (n - 3))


def debiased_cka(xx: CrossSums, xy: CrossSums, yy: CrossSums) -> float:
    """Compute HSIC(x, y)/sqrt(HSIC(x, x)·HSIC(y, y)) with unbiased HSIC.

    Invariant to rotation, to one common factor and to a shift of either side. About 0 for independent features at any n,
    where the biased CKA is not (Nguyen, Raghu and Kornblith 2021).

    Args:
        xx: sums of the first features with themselves.
        xy: sums of the first with the second.
        yy: sums of the second with themselves.

    Returns:
        The similarity, in [-1, 1].

    Raises:
        NumericsError: where a self-HSIC is 0, as for constant features or orthogonal examples.
    """
    scale = 1.0
    for name, own in (("first", xx), ("second", yy)):
        hsic = own.hsic()
        if not hsic > _SELF_RTOL * float(own.xy.square().sum()) / own.n**2:
            raise NumericsError(
                f"the unbiased self-HSIC of the {name} features must be positive, found {hsic:.3g} over "
                f"{own.n} examples: use more examples, or check that the features vary."
            )
        scale *= math.sqrt(hsic)
    return max(-1.0, min(1.0, xy.hsic() / scale))  # only rounding lies beyond (Cauchy-Schwarz)


@dataclass(frozen=True, eq=False)
class Side:
    """One side of a CKA over examples in groups, centred and of mean square norm 1.

    CKA does not change by that, and fourth powers stay in range. ``own_sums``: the sums of each group with itself, which
    serve for every other side; None where they are too large to keep.
    """

    x: Tensor  # (n, d), any real dtype, in memory or mapped
    groups: Tensor  # (n,), in 0..count-1
    count: int
    mean: Tensor
    top: Tensor
    norm: Tensor  # of the centred examples divided by ``top``: the root of their mean square
    own_sums: list[CrossSums] | None = None

    @classmethod
    def of(cls, x: Tensor, groups: Tensor, count: int, name: str = "", each: Each = map) -> Side:
        """Make a side.

        Args:
            x: (n, d), features of any real dtype, in memory or mapped.
            groups: (n,), whole numbers in 0..count-1.
            count: how many groups there are.
            name: "first" or "second", for messages.
            each: runs the pieces of work, as map.

        Returns:
            The side, with the sums of its groups where they are worth keeping.

        Raises:
            NumericsError: with fewer than 4 examples, and where they do not vary or are not finite.
        """
        what = f"the {name} features" if name else "the features"
        matrix(x[:0], what)
        groups = group_ids(groups, len(x), count)
        if len(x) < 4:
            raise NumericsError(f"CKA needs at least 4 examples, found {len(x)}: use more examples.")
        mean = x.new_zeros(x.shape[1], dtype=torch.float64)
        for part in x.split(ROWS):
            mean += matrix(part, what).sum(dim=0)
        side = cls(x, groups, count, mean / len(x), torch.ones(()), torch.ones(()))
        top = torch.stack([side.at(r).abs().max() if x.shape[1] else torch.zeros(()) for r in side.every]).max()
        if not bool(top > CONSTANT_RTOL * (side.mean.abs().max() if x.shape[1] else 0.0)):
            raise NumericsError(
                f"CKA needs features that vary, and the {name or 'features'} are the same for each of "
                f"{len(x)} examples: check that the encoder varies with its input."
            )
        side = replace(side, top=top)
        norm = torch.stack([side.at(r).square().sum() for r in side.every]).sum().div(len(x)).sqrt()
        side = replace(side, norm=norm)
        if count < 2 or count * x.shape[1] ** 2 * 8 > KEEP:
            return side
        return replace(side, own_sums=list(each(lambda g: _sums(side, side, groups == g), range(count))))

    @property
    def every(self) -> tuple[Tensor, ...]:
        """All row numbers (n,), a few at a time."""
        return tuple(torch.arange(len(self.x)).split(ROWS))

    def at(self, rows: Tensor) -> Tensor:
        """Return some ``rows`` (k,) of it as (k, d), float64, centred and scaled."""
        return (self.x[rows].double() - self.mean) / self.top / self.norm


def sides_leave_out(x: Side, y: Side, each: Each = map) -> tuple[float, list[float]]:
    """Compute CKA of all examples, and without each group of rows, for a jackknife interval.

    Where the sums of single groups are too large to keep, groups are halved again and again, carrying the sums of all that
    lies outside: log2(count) passes over the data. Nothing is subtracted that could cancel.

    Args:
        x: the first side.
        y: the second side, over the same examples and groups.
        each: runs the pieces of work, as map.

    Returns:
        CKA of all, and one without each group.

    Raises:
        NumericsError: as :func:`debiased_cka`, and with fewer than 2 groups.
    """
    if x.count < 2:
        raise NumericsError(f"leaving one group out needs at least 2 groups, found {x.count}: use 16.")
    if x.own_sums is not None and y.own_sums is not None:
        both = list(each(lambda g: _sums(x, y, x.groups == g), range(x.count)))
        kinds = x.own_sums, both, y.own_sums
        left = zip(*map(leave_one_out, kinds), strict=True)
        return debiased_cka(*map(merge_all, kinds)), [debiased_cka(*sums) for sums in left]
    left_out: list[float] = []

    def visit(first: int, last: int, outside: _Sums | None) -> None:
        if last - first == 1:
            assert outside is not None
            left_out.append(debiased_cka(*outside))
            return
        middle = (first + last) // 2
        for here, away in (((first, middle), (middle, last)), ((middle, last), (first, middle))):
            sums = _all_sums(x, y, (x.groups >= away[0]) & (x.groups < away[1]))
            if outside is not None:
                sums = (outside[0].merge(sums[0]), outside[1].merge(sums[1]), outside[2].merge(sums[2]))
            visit(*here, sums)

    visit(0, x.count, None)
    return debiased_cka(*_all_sums(x, y, x.groups >= 0)), left_out


_Sums = tuple[CrossSums, CrossSums, CrossSums]


def _all_sums(x: Side, y: Side, chosen: Tensor) -> _Sums:
    return _sums(x, x, chosen), _sums(x, y, chosen), _sums(y, y, chosen)


def _sums(x: Side, y: Side, chosen: Tensor) -> CrossSums:
    """Sum over the rows ``chosen`` (n,), bool, of which a few at a time are taken."""
    parts = (CrossSums.of(x.at(rows), y.at(rows)) for rows in chosen.nonzero()[:, 0].split(ROWS))
    return reduce(CrossSums.merge, parts)


def _same_examples(x: Tensor, y: Tensor) -> None:
    if x.ndim == 2 and y.ndim == 2 and x.shape[0] != y.shape[0]:
        raise NumericsError(
            f"CKA compares features of the same examples, found {x.shape[0]} and {y.shape[0]}: "
            "pass both for the same rows."
        )
