"""Errors and agreement of predicted values with true ones, by column; NaN in the truth is a value that is left out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats import metrics
from collapsekit.stats.checks import CONSTANT_RTOL, matrix

_OfColumn = Callable[[Tensor, Tensor], float | None]


def r2(pred: Tensor, y: Tensor) -> float:
    """Compute ``collapsekit.stats.metrics.r2`` of ``pred`` (n, k) and ``y`` (n, k), NaN left out."""
    if not bool(y.isnan().any()):
        return metrics.r2(pred, y)
    return _over_columns(pred, y, "R²", lambda p, t: metrics.r2(p[:, None], t[:, None]) if _varies(t) else None)


def mean_absolute_error(pred: Tensor, y: Tensor) -> float:
    """Compute the mean of |pred - y|, both (n, k), averaged uniformly over columns; at least 0.

    Equals ``sklearn.metrics.mean_absolute_error``. Raises NumericsError where there is no value.
    """
    return _over_columns(pred, y, "a mean absolute error", lambda p, t: float((p - t).abs().mean()))


def root_mean_squared_error(pred: Tensor, y: Tensor) -> float:
    """Compute the root of the mean of (pred - y)², both (n, k), averaged uniformly over columns; at least 0.

    Equals ``sklearn.metrics.root_mean_squared_error``. Raises NumericsError where there is no value.
    """
    return _over_columns(pred, y, "a root mean squared error", lambda p, t: float((p - t).square().mean().sqrt()))


def pearson(pred: Tensor, y: Tensor) -> float:
    """Compute Pearson's correlation of ``pred`` and ``y``, both (n, k), averaged over the columns where ``y`` varies.

    In [-1, 1]; 0 for a column where the prediction does not vary. Equals ``scipy.stats.pearsonr``. Raises NumericsError
    where no target varies.
    """

    def of(p: Tensor, t: Tensor) -> float | None:
        if not _varies(t):
            return None
        a, b = p - p.mean(), t - t.mean()
        size = a.square().sum().sqrt() * b.square().sum().sqrt()
        return float((a @ b / size).clamp(-1.0, 1.0)) if _varies(p) else 0.0

    return _over_columns(pred, y, "a correlation", of)


def concordance(pred: Tensor, y: Tensor) -> float:
    """Compute the concordance correlation coefficient of ``pred`` and ``y``, both (n, k), over columns where ``y`` varies.

    2·cov / (var + var + (mean - mean)²), moments over n (Lin 1989, eq. 1), averaged over columns; in [-1, 1]. Raises
    NumericsError where no target varies.
    """

    def of(p: Tensor, t: Tensor) -> float | None:
        if not _varies(t):
            return None
        a, b, apart = p - p.mean(), t - t.mean(), p.mean() - t.mean()
        return float(2 * (a * b).mean() / (a.square().mean() + b.square().mean() + apart.square()))

    return _over_columns(pred, y, "a concordance correlation", of)


def _varies(x: Tensor) -> bool:
    return float(x.std(correction=0)) > CONSTANT_RTOL * float(x.mean().abs())


def _over_columns(pred: Tensor, y: Tensor, what: str, of: _OfColumn) -> float:
    """The mean over columns that have one of a number for each column's known values."""
    pred, y = matrix(pred, "the predictions"), _with_gaps(y)
    if pred.shape != y.shape:
        raise NumericsError(
            f"predictions and targets must have one shape, found {tuple(pred.shape)} and {tuple(y.shape)}: "
            "pass one column an output."
        )
    found: list[float] = []
    for p, t in zip(pred.T, y.T, strict=True):
        known = ~t.isnan()
        value = of(p[known], t[known]) if int(known.sum()) else None
        found += [] if value is None else [value]
    if not found:
        raise NumericsError(f"{what} needs targets, varying ones where it is relative, found none: use more examples.")
    return sum(found) / len(found)


def _with_gaps(y: Tensor) -> Tensor:
    gaps = y.isnan()
    return matrix(y.masked_fill(gaps, 0.0), "the targets").masked_fill(gaps, torch.nan)
