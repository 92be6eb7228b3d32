"""Newton's method for linear models: few steps, each solved roughly by conjugate gradients.

A step costs some products with the features, as a gradient does, and no matrix as large as all coefficients. What makes
the gradients conjugate quickly is the features' Gram matrix with each example weighted by how curved its loss is: of
examples that are told surely next to nothing is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

STEPS, INNER = 100, 500  # Newton's, and conjugate gradients a step, at most
FORCING = 0.25  # share of the gradient that a step may leave (Dembo et al. 1982); less takes more products in all
NEAR = 0.3  # of the gradient aimed at, to which the last step is solved
SUFFICIENT = 1e-4  # share of the decrease by the slope that a step has to bring (Armijo 1966)
ROUNDING = 1e-12  # of the objective, below which its differences say nothing
SHORTEST = 2.0**-30  # of a step
JITTER = 1e-10  # of each diagonal entry, added to the Gram matrix, which may be singular
SMALLEST = 1e-150  # of a diagonal entry: examples that are all told surely leave nothing of the bias
ROWS, COLUMNS = 8192, 128  # of the features at once in a Gram matrix


@dataclass(frozen=True)
class Curvature:
    """Second derivatives of a loss by its logits (C, n): ``times`` a direction of that shape, and of which size they are
    for each example, (n,). Both are only computed where they are asked for."""

    times: Callable[[Tensor], Tensor]
    size: Callable[[], Tensor]


Loss = Callable[[Tensor], tuple[float, Tensor, Curvature]]  # logits (C, n) -> value, gradient (C, n), curvature


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """Features of n examples with a one beside them, (n, r + 1), float64: what linear models are fitted on."""

    z: Tensor

    @classmethod
    def of(cls, features: Tensor) -> FeatureRows:
        """Put a one beside the features (n, r) of each example, for the bias."""
        return cls(torch.cat([features, features.new_ones(len(features), 1)], 1))

    @cached_property
    def plain_gram(self) -> Tensor:
        """The Gram matrix over n, (d, d) with the one counted, every example weighted alike; all penalties share it."""
        return self.gram(None) / len(self.z)

    def gram(self, weights: Tensor | None) -> Tensor:
        """Compute the Gram matrix (r + 1, r + 1) of examples with weights (n,), at least 0; the upper half is mirrored."""
        width = self.z.shape[1]
        total = self.z.new_zeros(width, width)
        for start in range(0, len(self.z), ROWS):
            rows = self.z[start : start + ROWS]
            scaled = rows if weights is None else rows * weights[start : start + ROWS, None]
            for left in range(0, width, COLUMNS):
                total[left : left + COLUMNS, left:] += rows[:, left : left + COLUMNS].T @ scaled[:, left:]
        return total.triu() + total.triu(1).T

    def gram_cost(self) -> float:
        """Count the operations of a Gram matrix and its factors."""
        n, width = self.z.shape
        return 1.25 * n * width**2 + width**3 / 3

    def product_cost(self, outputs: int) -> float:
        """Count the operations of one step of the conjugate gradients."""
        n, width = self.z.shape
        return outputs * (4.0 * n * width + 2.0 * width**2)


@dataclass
class _Place:
    """Coefficients (C, r + 1), and what the objective is there."""

    coefficients: Tensor
    value: float
    gradient: Tensor
    curvature: Curvature

    @property
    def steepness(self) -> float:
        return float(self.gradient.abs().max())


class Newton:
    """The minimum of a convex loss of linear models' logits, with a penalty ``l2``/2·|W|² on all but their biases."""

    def __init__(self, rows: FeatureRows, loss: Loss, l2: float) -> None:
        self.rows, self.loss = rows, loss
        self.penalty = torch.full((rows.z.shape[1],), l2, dtype=torch.float64)
        self.penalty[-1] = 0.0
        self._factor: Tensor | None = None
        self._paid = 0.0  # operations of conjugate gradients since the factors were made

    def minimise(self, start: Tensor, aim: float) -> Tensor:
        """Find the minimum.

        Args:
            start: coefficients (C, r + 1) to start from, biases last.
            aim: the largest absolute entry of the gradient, above 0, at which it ends; also where nothing gets better.

        Returns:
            Coefficients, float64 (C, d), with the bias counted.
        """
        here = self._at(start)
        for _ in range(STEPS):
            if here.steepness <= aim:
                break
            there = self._line_search(here, self._direction(here, aim))
            if there is None:
                break
            here = there
        return here.coefficients

    def _at(self, coefficients: Tensor) -> _Place:
        value, by_logits, curvature = self.loss(coefficients @ self.rows.z.T)
        penalised = self.penalty * coefficients
        value += 0.5 * float((penalised * coefficients).sum())
        return _Place(coefficients, value, by_logits @ self.rows.z + penalised, curvature)

    def _direction(self, here: _Place, aim: float) -> Tensor:
        """Newton's step, by preconditioned conjugate gradients (Steihaug 1983)."""
        enough = max(FORCING * here.steepness, NEAR * aim)
        factor = self._factors(here)
        step, left = torch.zeros_like(here.gradient), -here.gradient
        conjugate = solved = torch.cholesky_solve(left.T, factor).T
        size = float((left * solved).sum())
        for taken in range(INNER):
            product = here.curvature.times(conjugate @ self.rows.z.T) @ self.rows.z + self.penalty * conjugate
            self._paid += self.rows.product_cost(len(step))
            curved = float((conjugate * product).sum())
            if curved <= 0:  # flat as far as can be told
                return step if taken else conjugate
            share = size / curved
            step = step + share * conjugate
            left = left - share * product
            if float(left.abs().max()) <= enough:
                break
            solved = torch.cholesky_solve(left.T, factor).T
            before, size = size, float((left * solved).sum())
            conjugate = solved + size / before * conjugate
        return step

    def _factors(self, here: _Place) -> Tensor:
        """Cholesky factors of what the second derivatives are like for all outputs; made anew once the gradients with the
        last ones have cost as much as that."""
        if self._factor is not None and self._paid <= self.rows.gram_cost():
            return self._factor
        size = here.curvature.size()
        if self._factor is None:
            gram = self.rows.plain_gram * size.sum()
        else:
            gram = self.rows.gram(size)
        gram.diagonal().add_(self.penalty)
        gram.diagonal().mul_(1 + JITTER).clamp_(min=SMALLEST)
        self._factor, self._paid = torch.linalg.cholesky(gram), 0.0
        return self._factor

    def _line_search(self, here: _Place, direction: Tensor) -> _Place | None:
        """Half as long a step until the objective falls enough; None where none does."""
        slope, length = float((here.gradient * direction).sum()), 1.0
        while length >= SHORTEST:
            there = self._at(here.coefficients + length * direction)
            if there.value <= here.value + SUFFICIENT * length * slope:
                return there
            if -length * slope <= ROUNDING * abs(here.value) and there.steepness < here.steepness:
                return there
            length /= 2
        return None
