"""Task metrics, higher is better."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.checks import CONSTANT_RTOL, matrix

_TABLE = 1 << 14  # numbers that are sorted at once: what lies in a cache
_Values = NDArray[np.float64]
_Flags = NDArray[np.bool_]
_InOrder = Callable[[_Values, _Flags], _Values]  # columns sorted each by itself (n, C), to an area each (C,)


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


def macro_f1(logits: Tensor, y: Tensor) -> float:
    """Compute the mean F1 over the classes that ``y`` (n,) or the largest entries of ``logits`` (n, C) name.

    In [0, 1]. F1 of a class: twice the right answers over answers and examples of it. Equals
    ``sklearn.metrics.f1_score(average="macro")``. Raises NumericsError where shapes or labels do not fit.
    """
    hits = _hits(logits, y)
    classes = logits.shape[1]
    right = torch.bincount(y, weights=hits, minlength=classes)
    both = torch.bincount(y, minlength=classes) + torch.bincount(logits.argmax(dim=1), minlength=classes)
    return float((2 * right[both > 0] / both[both > 0]).mean())


def macro_f1_of_labels(scores: Tensor, y: Tensor) -> float:
    """Compute the mean F1 over labels of ``scores`` (n, C) above 0.5, for ``y`` (n, C), 0/1 or bool.

    In [0, 1]. Equals ``sklearn.metrics.f1_score(average="macro", zero_division=nan)``: a label that neither is there nor is
    answered counts for nothing. Raises NumericsError where that is every label.
    """
    scores = matrix(scores, "the scores")
    positive, answered = _binary(y, scores.shape, "F1"), scores > 0.5
    right, both = (positive & answered).sum(dim=0).double(), positive.sum(dim=0) + answered.sum(dim=0)
    if not bool(both.any()):
        raise NumericsError(
            f"macro F1 needs a label that is there or answered, found none of {len(both)}: use other data."
        )
    return float((2 * right[both > 0] / both[both > 0]).mean())


def macro_auroc(scores: Tensor, y: Tensor) -> float:
    """Compute the mean AUROC over the labels that have both classes: columns of ``scores`` and ``y``, both (n, C).

    In [0, 1]: the Mann-Whitney statistic over its maximum, ties counted half. Equals
    ``sklearn.metrics.roc_auc_score(average="macro")`` on those columns. Raises NumericsError where there is no such label.
    """
    return _macro(scores, y, "AUROC", _roc_in_order)


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
    return _macro_left_out(scores, y, groups, "AUROC", _roc_in_order)


def macro_average_precision(scores: Tensor, y: Tensor) -> float:
    """Compute the mean average precision over the labels that have both classes: columns of ``scores`` and ``y``, (n, C).

    In [0, 1]: AUC-PRC as a sum of steps, the mean, over positive examples, of the share of positive ones among all that
    score at least as high. Chance is about the share of positive examples. Equals
    ``sklearn.metrics.average_precision_score(average="macro")`` on those columns. Raises NumericsError where there is no
    such label.
    """
    return _macro(scores, y, "average precision", _precision_in_order)


def macro_average_precision_left_out(scores: Tensor, y: Tensor, groups: Tensor) -> Tensor:
    """Compute the macro average precision of all rows, then of those without each group; scores are sorted once.

    Args:
        scores: (n, C).
        y: (n, C), 0/1 or bool.
        groups: int64 (n,), 0 to G - 1.

    Returns:
        float64 (1 + G,): bit for bit what :func:`macro_average_precision` gives of each set.

    Raises:
        NumericsError: where one of the sets has no label with both classes.
    """
    return _macro_left_out(scores, y, groups, "average precision", _precision_in_order)


def micro_average_precision(scores: Tensor, y: Tensor) -> float:
    """Compute the average precision of all entries of ``scores`` for those of ``y``, both (n, C), as of one label.

    In [0, 1]. Equals ``sklearn.metrics.average_precision_score(average="micro")``. Raises NumericsError where only one class
    is present.
    """
    return macro_average_precision(matrix(scores, "the scores").reshape(-1, 1), y.reshape(-1, 1))


def micro_average_precision_left_out(scores: Tensor, y: Tensor, groups: Tensor) -> Tensor:
    """Compute the micro average precision of all rows, then of those without each group; scores are sorted once.

    Args:
        scores: (n, C).
        y: (n, C), 0/1 or bool.
        groups: int64 (n,), 0 to G - 1.

    Returns:
        float64 (1 + G,): bit for bit what :func:`micro_average_precision` gives of each set.

    Raises:
        NumericsError: where one of the sets has one class only.
    """
    scores = matrix(scores, "the scores")
    entries = groups.repeat_interleave(scores.shape[1])
    return macro_average_precision_left_out(scores.reshape(-1, 1), y.reshape(-1, 1), entries)


def count_rarer(y: Tensor) -> float:
    """Count the examples of the rarer class, the harmonic mean over labels of ``y`` (n, C) that have both; else n.

    As many examples an area under the ROC or precision-recall curve rests on: it is a mean over the rarer ones, or over
    more, and labels of one example are not independent.
    """
    positive, negative = (y > 0.5).double().sum(0), (y < 0.5).double().sum(0)  # a NaN is neither
    rarer = torch.minimum(positive, negative)
    rarer = rarer[rarer > 0]
    return float(len(rarer) / (1 / rarer).sum()) if len(rarer) else float(len(y))


def _macro(scores: Tensor, y: Tensor, what: str, area: _InOrder) -> float:
    """Compute the mean area over labels that have both classes, (n, C) each. Raises NumericsError where there is none."""
    scores = matrix(scores, "the scores")
    positive = _binary(y, scores.shape, what)
    return _mean_area(_areas(scores.cpu().numpy(), positive.cpu().numpy(), area), what)


def _macro_left_out(scores: Tensor, y: Tensor, groups: Tensor, what: str, area: _InOrder) -> Tensor:
    """Compute the same of all rows, then of those without each group (n,), (1 + G,)."""
    scores = matrix(scores, "the scores")
    positive = _binary(y, scores.shape, what).cpu().numpy()
    values, group = scores.cpu().numpy(), groups.cpu().numpy()
    count, classes = int(group.max()) + 1, values.shape[1]
    areas = np.full((1 + count, classes), np.nan)
    for columns in _blocks(*values.shape):
        order = np.argsort(values[:, columns], axis=0)
        ordered, hits = (np.take_along_axis(x[:, columns], order, 0) for x in (values, positive))
        owner = group[order]
        areas[0, columns] = area(ordered, hits)
        for g in range(count):
            # Each column loses the same rows, so what is left is a table again.
            kept = (owner != g).T
            left = [x.T[kept].reshape(len(kept), -1).T for x in (ordered, hits)]
            areas[1 + g, columns] = area(*left)
    return torch.tensor([_mean_area(row, what) for row in areas], dtype=torch.float64)


def _areas(values: _Values, positive: _Flags, area: _InOrder) -> _Values:
    """Compute the area of each column of scores (n, C), (C,); NaN where one class is missing."""
    areas = np.empty(values.shape[1])
    for columns in _blocks(*values.shape):
        order = np.argsort(values[:, columns], axis=0)
        hits = np.take_along_axis(positive[:, columns], order, 0)
        areas[columns] = area(np.take_along_axis(values[:, columns], order, 0), hits)
    return areas


def _roc_in_order(values: _Values, positive: _Flags) -> _Values:
    """Compute the area under the ROC curve of columns (n, C) that are sorted each by itself, (C,)."""
    n = len(values)
    place, hits = np.arange(n)[:, None], positive.sum(axis=0)
    first = _first_of_ties(values)
    if first.all():
        ends = 2 * (place * positive).sum(axis=0) + hits
    else:
        # A rank is the mean of its ties' places: twice the sum of the positive ones' is a whole number.
        start, stop = _runs(first)
        ends = ((start + stop) * positive).sum(axis=0)
    wins = (ends + hits) / 2 - hits * (hits + 1) / 2
    pairs = (n - hits) * hits
    areas = np.full(len(pairs), np.nan)
    np.divide(wins, pairs, out=areas, where=pairs > 0)
    return areas


def _precision_in_order(values: _Values, positive: _Flags) -> _Values:
    """Compute the average precision of columns (n, C) that are sorted each by itself, (C,)."""
    n = len(values)
    above = np.zeros((n + 1, values.shape[1]), dtype=np.int64)  # positive ones from each place on
    above[:-1] = positive[::-1].cumsum(axis=0)[::-1]
    first, gained, hits = _first_of_ties(values), positive.astype(np.int64), above[0]
    if not first.all():  # a step of the curve is a run of ties, counted at its first place whatever their order
        gained = np.where(first, above[:-1] - np.take_along_axis(above, _runs(first)[1], 0), 0)
    steps = gained * (above[:-1] / (n - np.arange(n))[:, None])
    # Added one after another, so that zeros and the number of columns change no bit.
    total = np.add.accumulate(steps, axis=0)[-1] if n else np.zeros(len(hits))
    areas = np.full(len(hits), np.nan)
    np.divide(total, hits, out=areas, where=(hits > 0) & (hits < n))
    return areas


def _first_of_ties(values: _Values) -> _Flags:
    """Tell of sorted columns (n, C) which entries are the first of their ties."""
    first = np.ones(values.shape, dtype=bool)
    first[1:] = values[1:] != values[:-1]
    return first


def _runs(first: _Flags) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find where the ties of each entry begin, and where they have ended, (n, C) each."""
    n = len(first)
    place = np.arange(n)[:, None]
    start = np.maximum.accumulate(np.where(first, place, 0), axis=0)
    last = np.ones_like(first)
    last[:-1] = first[1:]
    return start, np.minimum.accumulate(np.where(last, place + 1, n)[::-1], axis=0)[::-1]


def _mean_area(areas: _Values, what: str) -> float:
    had = areas[~np.isnan(areas)].tolist()
    if not had:
        raise NumericsError(
            f"macro {what} needs a label with both classes, found none of {len(areas)}: use other data."
        )
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
            f"a metric of classes needs logits (n, classes) and n class numbers with n >= 1, found shapes "
            f"{tuple(logits.shape)} and {tuple(y.shape)} ({y.dtype}): pass one label an example."
        )
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise NumericsError(
            f"labels must lie in 0..{classes - 1}, found {int(y.min())}..{int(y.max())}: "
            "number the classes from 0 and drop ignored examples."
        )
    return (logits.argmax(dim=1) == y).to(torch.float64)


def _binary(y: Tensor, shape: torch.Size, what: str) -> Tensor:
    if y.shape != shape or not bool(((y == 0) | (y == 1)).all()):
        raise NumericsError(
            f"{what} needs labels 0 or 1 in the shape of the scores, {tuple(shape)}, found other values "
            f"or shape {tuple(y.shape)}: binarise the labels."
        )
    return y == 1
