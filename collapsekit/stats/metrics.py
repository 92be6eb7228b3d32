"""Task metrics, higher is better."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.checks import CONSTANT_RTOL, finite, matrix


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
    return _area(scores, positive)


def _area(scores: Tensor, positive: Tensor) -> float:
    """Compute the same of finite float64 ``scores`` (n,) and bool ``positive`` (n,) of both classes."""
    values, mine = scores.cpu().numpy(), positive.cpu().numpy()
    ordered, n1 = np.sort(values), int(mine.sum())
    # A rank is the mean of its ties' places: twice the sum of the positive ones' is a whole number.
    ends = [int(np.searchsorted(ordered, values[mine], side).sum()) for side in ("left", "right")]
    wins = (sum(ends) + n1) / 2 - n1 * (n1 + 1) / 2
    return wins / ((len(values) - n1) * n1)


def macro_auroc(scores: Tensor, y: Tensor) -> float:
    """Compute the mean AUROC over the labels that have both classes: columns of ``scores`` and ``y``, both (n, C).

    In [0, 1]. Equals ``sklearn.metrics.roc_auc_score(average="macro")`` on those columns. Raises NumericsError where
    there is no such label.
    """
    scores = matrix(scores, "the scores")
    positive = _binary(y, scores.shape)
    mixed = torch.nonzero(positive.any(dim=0) & ~positive.all(dim=0)).flatten().tolist()
    if not mixed:
        raise NumericsError(
            f"macro AUROC needs a label with both classes, found none of {scores.shape[1]}: use other data."
        )
    return sum(_area(scores[:, c], positive[:, c]) for c in mixed) / len(mixed)


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
