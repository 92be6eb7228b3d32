"""Task metrics, higher is better."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.checks import CONSTANT_RTOL, finite, matrix

_TABLE = 1 << 14  # numbers that are sorted at once: what lies in a cache


def accuracy(logits: Tensor, y: Tensor) -> float:
    """Compute the share of rows of ``logits`` (n, C) whose largest entry is at ``y`` (n,), class numbers; in [0, 1].

    Equals ``sklearn.metrics.accuracy_score``. Raises NumericsError where shapes or labels do not fit.
    """
    return float(_hits(logits, y).mean())


def balanced_accuracy(logits: Tensor, y: Tensor) -> float:
    """Compute the mean over the classes present in ``y`` (n,) of the share of each that ``logits`` (n, C) get right.

    In [0, 1]. Equals ``sklearn.metrics.balanced_accuracy_score``. Raises NumericsError where shapes or labels do not fit.
    """
    hits = _hits(logits, y)
    return float(torch.stack([hits[y == c].mean() for c in torch.unique(y)]).mean())


def auroc(scores: Tensor, y: Tensor) -> float:
    """Compute the area under the ROC curve of ``scores`` (n,) for ``y`` (n,), 0/1 or bool; in [0, 1].

    The Mann-Whitney statistic over its maximum, ties counted half; equals ``sklearn.metrics.roc_auc_score``.
    Raises NumericsError where only one class is present.
    """
    scores = finite(scores, "the scores")
    positive = _binary(y, scores.shape)
    if scores.ndim != 1:
        raise NumericsError(f"AUROC needs shape (n,), found {tuple(scores.shape)}: use macro_auroc.")
    n1 = int(positive.sum())
    n0 = positive.shape[0] - n1
    if n0 == 0 or n1 == 0:
        raise NumericsError(
            f"AUROC needs examples of both classes, found {n1} positive and {n0} negative: use another split."
        )
    return float(_areas(scores[:, None].cpu().numpy(), positive[:, None].cpu().numpy())[0])


def macro_auroc(scores: Tensor, y: Tensor) -> float:
    """Compute the mean AUROC over the labels that have both classes: columns of ``scores`` and ``y``, both (n, C).

    In [0, 1]. Equals ``sklearn.metrics.roc_auc_score(average="macro")`` on those columns. Raises NumericsError where
    there is no such label.
    """
    scores = matrix(scores, "the scores")
    positive = _binary(y, scores.shape)
    return _mean_area(_areas(scores.cpu().numpy(), positive.cpu().numpy()))


def macro_auroc_left_out(scores: Tensor, y: Tensor, groups: Tensor) -> Tensor:
    """Compute the macro AUROC of all rows, then of those without each group; scores are sorted once.

    Args:
        scores: (n, C).
        y: (n, C), 0/1 or bool.
        groups: int64 (n,), 0 to G - 1.

    Returns:
        float64 (1 + G,): bit for bit what :func:`macro_auroc` gives of each set.

    Raises:
        NumericsError: where one of the sets has no label with both classes.
    """
    scores = matrix(scores, "the scores")
    positive = _binary(y, scores.shape).cpu().numpy()
    values, group = scores.cpu().numpy(), groups.cpu().numpy()
    count, classes = int(group.max()) + 1, values.shape[1]
    areas = np.full((1 + count, classes), np.nan)
    for columns in _blocks(*values.shape):
        order = np.argsort(values[:, columns], axis=0)
        ordered = [np.take_along_axis(x[:, columns], order, 0) for x in (values, positive)]
        owner = group[order]
        areas[0, columns] = _areas_in_order(*ordered)
        for g in range(count):
            # Each column loses the same rows, so what is left is a table again.
            kept = (owner != g).T
            left = [x.T[kept].reshape(len(kept), -1).T for x in ordered]
            areas[1 + g, columns] = _areas_in_order(*left)
    return torch.tensor([_mean_area(row) for row in areas], dtype=torch.float64)


def _areas(values: NDArray[np.float64], positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compute the area under the ROC curve of each column of scores (n, C), (C,); NaN where one class is missing."""
    areas = np.empty(values.shape[1])
    for columns in _blocks(*values.shape):
        order = np.argsort(values[:, columns], axis=0)
        hits = np.take_along_axis(positive[:, columns], order, 0)
        areas[columns] = _areas_in_order(np.take_along_axis(values[:, columns], order, 0), hits)
    return areas


def _areas_in_order(values: NDArray[np.float64], positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compute the same of columns that are sorted each by itself."""
    n = len(values)
    place = np.arange(n)[:, None]
    first = np.ones(values.shape, dtype=bool)  # of its ties
    first[1:] = values[1:] != values[:-1]
    hits = positive.sum(axis=0)
    if first.all():
        ends = 2 * (place * positive).sum(axis=0) + hits
    else:
        # A rank is the mean of its ties' places: twice the sum of the positive ones' is a whole number.
        start = np.maximum.accumulate(np.where(first, place, 0), axis=0)
        last = np.ones_like(first)
        last[:-1] = first[1:]
        stop = np.minimum.accumulate(np.where(last, place + 1, n)[::-1], axis=0)[::-1]
        ends = ((start + stop) * positive).sum(axis=0)
    wins = (ends + hits) / 2 - hits * (hits + 1) / 2
    pairs = (n - hits) * hits
    areas = np.full(len(pairs), np.nan)
    np.divide(wins, pairs, out=areas, where=pairs > 0)
    return areas


def _mean_area(areas: NDArray[np.float64]) -> float:
    had = areas[~np.isnan(areas)].tolist()
    if not had:
        raise NumericsError(f"macro AUROC needs a label with both classes, found none of {len(areas)}: use other data.")
    return float(sum(had) / len(had))


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    """Columns in blocks of at most _TABLE numbers, one column at least."""
    width = max(1, _TABLE // max(1, rows))
    for start in range(0, columns, width):
        yield slice(start, min(columns, start + width))


def r2(pred: Tensor, y: Tensor) -> float:
    """Compute the coefficient of determination, averaged uniformly over the outputs that vary: columns of both, (n, k).

    1 is perfect, 0 no better than the mean of ``y``, and it has no lower end. Equals
    ``sklearn.metrics.r2_score(multioutput="uniform_average")`` on the columns where ``y`` varies.
    Raises NumericsError where none does.
    """
    pred, y = matrix(pred, "the predictions"), matrix(y, "the targets")
    if pred.shape != y.shape:
        raise NumericsError(
            f"predictions and targets must have one shape, found {tuple(pred.shape)} and {tuple(y.shape)}: "
            "pass one column an output."
        )
    if y.shape[0] < 2:
        raise NumericsError(f"R² needs at least 2 examples, found {y.shape[0]}: use more examples.")
    mean = y.mean(dim=0)
    centred = y - mean
    varies = centred.square().mean(dim=0).sqrt() > CONSTANT_RTOL * mean.abs()
    if not bool(varies.any()):
        raise NumericsError("R² needs a target that varies, found none: use another split.")
    left = (y - pred)[:, varies].square().sum(dim=0)
    return float((1 - left / centred[:, varies].square().sum(dim=0)).mean())


def _hits(logits: Tensor, y: Tensor) -> Tensor:
    logits = matrix(logits, "the logits")
    n, classes = logits.shape
    if n == 0 or y.shape != (n,) or y.is_floating_point():
        raise NumericsError(
            f"accuracy needs logits (n, classes) and n class numbers with n >= 1, found shapes "
            f"{tuple(logits.shape)} and {tuple(y.shape)} ({y.dtype}): pass one label an example."
        )
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise NumericsError(
            f"labels must lie in 0..{classes - 1}, found {int(y.min())}..{int(y.max())}: "
            "number the classes from 0 and drop ignored examples."
        )
    return (logits.argmax(dim=1) == y).to(torch.float64)


def _binary(y: Tensor, shape: torch.Size) -> Tensor:
    if y.shape != shape or not bool(((y == 0) | (y == 1)).all()):
        raise NumericsError(
            f"AUROC needs labels 0 or 1 in the shape of the scores, {tuple(shape)}, found other values "
            f"or shape {tuple(y.shape)}: binarise the labels."
        )
    return y == 1
