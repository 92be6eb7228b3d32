"""Which modalities are absent from which example, and which other example is nearest in those that are there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.checks import CONSTANT_RTOL, matrix

_UNIT = 2.0**30  # distances are rounded to whole parts of 1/_UNIT: whole numbers add up alike in any order
_BLOCK = 2**24  # sums of distances held at a time


def absence(uniforms: Tensor, rate: float) -> Tensor:
    """Decide which modalities are absent from which example, bool (n, m), by ``uniforms`` (n, m) in [0, 1).

    A modality is absent where its number lies under ``rate``; an example keeps the modality of its largest number
    whatever the rate. What is absent at one rate is absent at every higher one. With independent numbers the share
    of absent entries is ``rate - rate**m / m``. Raises NumericsError for a rate outside [0, 1].
    """
    if uniforms.ndim != 2 or uniforms.shape[1] == 0:
        raise NumericsError(f"absence needs numbers of shape (n, modalities), found {tuple(uniforms.shape)}.")
    if not 0 <= rate <= 1:
        raise NumericsError(f"a rate of missing modalities lies in 0..1, found {rate}.")
    absent = uniforms < rate
    absent[torch.arange(len(uniforms)), uniforms.argmax(dim=1)] = False
    return absent


def nearest(query: Sequence[Tensor], bank: Sequence[Tensor], present: Tensor, *, within: bool = False) -> Tensor:
    """Find the row of a bank that is nearest to each query by the modalities that are present.

    A modality's distance is the mean squared difference over its columns, standardised by the bank's mean and deviation
    (constant columns left out); those of the modalities present add up. The first of equals wins. Equals
    ``sklearn.neighbors.NearestNeighbors(n_neighbors=1)`` on the standardised columns divided by the root of their number.

    Args:
        query: a matrix (n, d) a modality, m of them.
        bank: a matrix (t, d) a modality, m of them.
        present: (k, n, m), bool: k patterns of which modalities each query has.
        within: the queries are the bank's own rows, and none is its own neighbour.

    Returns:
        (k, n), int64, row numbers in 0..t-1.

    Raises:
        NumericsError: where an example has no modality present, or the bank is too small.
    """
    n, t = len(query[0]), len(bank[0])
    if present.ndim != 3 or present.shape[1:] != (n, len(query)) or not bool(present.any(dim=2).all()):
        raise NumericsError(
            f"nearest needs at least one present modality an example, in the shape (k, {n}, {len(query)}); "
            f"found shape {tuple(present.shape)}."
        )
    if t < 1 + within:
        raise NumericsError(f"a nearest example needs {1 + within} to look among, found {t}: use more examples.")
    pairs = [_standardised(q, b) for q, b in zip(query, bank, strict=True)]
    weight = present.permute(1, 2, 0).double()  # n m k
    out = torch.empty(present.shape[0], n, dtype=torch.int64)
    for rows in torch.arange(n).split(max(1, _BLOCK // (t * max(len(pairs), len(present))))):
        distances = torch.stack([_squared(q[rows], b) for q, b in pairs], 2)  # rows t m
        total = torch.bmm(distances, weight[rows])
        if within:
            total[torch.arange(len(rows)), rows] = torch.inf
        out[:, rows] = total.argmin(dim=1).T
    return out


def _standardised(query: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the bank's standard units over the root of the number of columns that vary."""
    query, bank = matrix(query, "the features"), matrix(bank, "the bank's features")
    mean, scale = bank.mean(dim=0), bank.std(dim=0, correction=0)
    keep = scale > CONSTANT_RTOL * mean.abs()
    size = scale[keep] * max(1, int(keep.sum())) ** 0.5
    return (query[:, keep] - mean[keep]) / size, (bank[:, keep] - mean[keep]) / size


def _squared(a: Tensor, b: Tensor) -> Tensor:
    found = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1) - 2 * (a @ b.T)
    return (found.clamp_min(0) * _UNIT).round()
