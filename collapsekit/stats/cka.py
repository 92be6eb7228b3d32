"""Debiased linear CKA, from sums over examples: memory grows with d_x·d_y, not with n²."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.checks import CONSTANT_RTOL, group_ids, matrix
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
    x: Tensor  # Σ x_i                "d_x"
    y: Tensor  # Σ y_i                "d_y"
    xy: Tensor  # Σ x_i y_iᵀ          "d_x d_y"
    x_yy: Tensor  # Σ x_i |y_i|²      "d_x"
    y_xx: Tensor  # Σ y_i |x_i|²      "d_y"
    norms: Tensor  # Σ |x_i|², Σ |y_i|², Σ |x_i|² |y_i|²

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> CrossSums:
        """The sums over rows of ``x`` "n d_x" and ``y`` "n d_y", in float64, about the origin."""
        x, y = _pair(x, y)
        xx, yy = x.square().sum(dim=1), y.square().sum(dim=1)
        norms = torch.stack([xx.sum(), yy.sum(), xx @ yy])
        with threads_for(2.0 * x.numel() * y.shape[1]):
            return cls(x.shape[0], x.sum(dim=0), y.sum(dim=0), x.T @ y, yy @ x, xx @ y, norms)

    def merge(self, other: CrossSums) -> CrossSums:
        """The sums over both sets of examples."""
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
        """Unbiased HSIC of the linear kernels K = XXᵀ, L = YYᵀ (Song et al. 2012).

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
    """HSIC(x, y)/sqrt(HSIC(x, x)·HSIC(y, y)) with unbiased HSIC, in [-1, 1].

    About 0 for independent features at any n, where the biased CKA is not (Nguyen, Raghu and Kornblith
    2021). Raises NumericsError where a self-HSIC is 0, as for constant features or orthogonal examples.
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


def cka(x: Tensor, y: Tensor) -> float:
    """Debiased linear CKA of ``x`` "n d_x" and ``y`` "n d_y", in [-1, 1]; see ``debiased_cka``.

    Invariant to rotation, to one common factor and to a shift of either side.
    """
    x, y = _pair(x, y)
    return debiased_cka(*_all_sums(_normalised(x, "first"), _normalised(y, "second")))


def cka_leave_out(x: Tensor, y: Tensor, groups: Tensor, count: int) -> tuple[float, list[float]]:
    """CKA of all examples, and with each of ``count`` groups of rows left out, for a jackknife interval.

    Halves the groups again and again, carrying the sums of all that lies outside: log2(count) passes over
    the data, and no subtraction that could cancel.
    """
    x, y = _pair(x, y)
    groups = group_ids(groups, x.shape[0], count).to(x.device)
    x, y = _normalised(x, "first"), _normalised(y, "second")
    left_out: list[float] = []

    def visit(first: int, last: int, outside: _Sums | None) -> None:
        if last - first == 1:
            if outside is None:
                raise NumericsError(f"leaving one group out needs at least 2 groups, found {count}: use 16.")
            left_out.append(debiased_cka(*outside))
            return
        middle = (first + last) // 2
        for here, away in (((first, middle), (middle, last)), ((middle, last), (first, middle))):
            rows = (groups >= away[0]) & (groups < away[1])
            sums = _all_sums(x[rows], y[rows])
            if outside is not None:
                sums = (outside[0].merge(sums[0]), outside[1].merge(sums[1]), outside[2].merge(sums[2]))
            visit(*here, sums)

    full = debiased_cka(*_all_sums(x, y))
    visit(0, count, None)
    return full, left_out


_Sums = tuple[CrossSums, CrossSums, CrossSums]


def _all_sums(x: Tensor, y: Tensor) -> _Sums:
    return CrossSums.of(x, x), CrossSums.of(x, y), CrossSums.of(y, y)


def _pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x, y = matrix(x, "the first features"), matrix(y, "the second features")
    if x.shape[0] != y.shape[0]:
        raise NumericsError(
            f"CKA compares features of the same examples, found {x.shape[0]} and {y.shape[0]}: "
            "pass both for the same rows."
        )
    return x, y


def _normalised(x: Tensor, name: str) -> Tensor:
    """Centred and of mean square norm 1: CKA does not change, and fourth powers stay in range."""
    if x.shape[0] < 4:
        raise NumericsError(f"CKA needs at least 4 examples, found {x.shape[0]}: use more examples.")
    mean = x.mean(dim=0)
    centred = x - mean
    top = centred.abs().max() if centred.numel() else torch.tensor(0.0)
    if not bool(top > CONSTANT_RTOL * mean.abs().max()):
        raise NumericsError(
            f"CKA needs features that vary, and the {name} are the same for each of {x.shape[0]} examples: "
            "check that the encoder varies with its input."
        )
    centred /= top
    return centred / centred.square().sum(dim=1).mean().sqrt()
