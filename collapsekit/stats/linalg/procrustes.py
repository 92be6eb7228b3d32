"""How alike two sets of features are once one is rotated onto the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.checks import CONSTANT_RTOL, group_ids, matrix
from collapsekit.stats.threads import side_by_side, threads_for

# Singular values this small beside the largest are rounding: the rotation of what they belong to is arbitrary.
_RANK_RTOL = 1e-10


def procrustes_cosine(x: Tensor, y: Tensor) -> float:
    """Compute the mean over examples of cos(x_i R, y_i), in [-1, 1], for ``x`` and ``y`` both (n, d), centred.

    R is the orthogonal matrix that minimises |XR - Y|_F (Schönemann 1966): R = UVᵀ with USVᵀ the singular value
    decomposition of XᵀY, as in ``scipy.linalg.orthogonal_procrustes(X, Y)[0]``. Directions R does not determine (S = 0)
    add nothing, and an example at the mean has cosine 0. Symmetric; invariant to rotation, to one common factor and to a
    shift of either side. R is fitted on the very examples, so the value is biased up: for independent isotropic features
    it is about 8/(3π)·√(d/n) where n is well above d, the mean singular value of a square Gaussian matrix.
    Raises NumericsError for other shapes, with fewer than 3 examples, or for features that do not vary.
    """
    x, y = _pair(x, y)
    n, d = x.shape
    with threads_for(4.0 * n * d * d):
        x, y = _centred(x, "first"), _centred(y, "second")
        u, s, vt = torch.linalg.svd(x.T @ y)
        known = s > _RANK_RTOL * s[0]
        inner = ((x @ u[:, known]) * (y @ vt[known].T)).sum(dim=1)
        lengths = x.norm(dim=1) * y.norm(dim=1)
        cosines = torch.where(lengths > 0, inner / lengths.where(lengths > 0, 1.0), 0.0)
        return max(-1.0, min(1.0, float(cosines.mean())))


def procrustes_leave_out(x: Tensor, y: Tensor, groups: Tensor, count: int) -> tuple[float, list[float]]:
    """Compute :func:`procrustes_cosine` of all examples, and without each group of rows, R fitted anew.

    Args:
        x: (n, d), the first features.
        y: (n, d), the second features.
        groups: (n,), whole numbers in 0..count-1.
        count: how many groups there are.

    Returns:
        The cosine of all, and ``count`` of them, each without one group.

    Raises:
        NumericsError: as :func:`procrustes_cosine`, and for groups that do not fit.
    """
    x, y = _pair(x, y)
    groups = group_ids(groups, x.shape[0], count).to(x.device)
    kept = [groups != g for g in range(count)]
    operations = 4.0 * len(x) * x.shape[1] ** 2
    return procrustes_cosine(x, y), side_by_side(lambda k: procrustes_cosine(x[k], y[k]), kept, operations)


def procrustes_null(x: Tensor, y: Tensor, orders: Sequence[Tensor]) -> list[float]:
    """Compute :func:`procrustes_cosine` with the examples of one side in another order: what fitting R alone achieves.

    Args:
        x: (n, d), the first features.
        y: (n, d), the second features.
        orders: row indices (n,), each applied to x, then to y, so that the values are those of (y, x), too.

    Returns:
        Two cosines an order.

    Raises:
        NumericsError: as :func:`procrustes_cosine`.
    """
    x, y = _pair(x, y)
    pairs = (pair for o in orders for pair in ((x[o], y), (x, y[o])))
    return side_by_side(lambda pair: procrustes_cosine(*pair), pairs, 4.0 * len(x) * x.shape[1] ** 2)


def _pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x, y = matrix(x, "the first features"), matrix(y, "the second features")
    if x.shape != y.shape:
        raise NumericsError(
            f"an orthogonal alignment needs features of the same examples and dimensions, found shapes {tuple(x.shape)} "
            f"and {tuple(y.shape)}: compare layers of one width, or use CKA."
        )
    if x.shape[0] < 3 or x.shape[1] < 1:
        raise NumericsError(
            f"an orthogonal alignment needs at least 3 examples and a dimension, found {x.shape[0]} and {x.shape[1]}: use "
            "more examples, or features that have dimensions."
        )
    return x, y


def _centred(x: Tensor, name: str) -> Tensor:
    """Centred, with largest entry 1 so that squares stay in range; rows at the mean up to rounding are 0."""
    mean = x.mean(dim=0)
    centred = x - mean
    top = centred.abs().max()
    if not bool(top > CONSTANT_RTOL * mean.abs().max()):
        raise NumericsError(
            f"an orthogonal alignment needs features that vary, and the {name} are the same for each of {x.shape[0]} "
            "examples: check that the encoder varies with its input."
        )
    centred /= top
    noise = CONSTANT_RTOL * (1.0 + float(mean.abs().max() / top))
    return centred.where((centred.abs().amax(dim=1) > noise)[:, None], 0.0)
