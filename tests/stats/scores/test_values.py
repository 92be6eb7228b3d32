"""Errors and agreement of values, against scikit-learn and scipy, with and without gaps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.scores import values as ours

Score = Callable[[Tensor, Tensor], float]
G = torch.Generator().manual_seed(1)
Y = torch.randn(40, 3, generator=G).double() * torch.tensor([1.0, 5.0, 0.2]) + 2
P = 0.7 * Y + torch.randn(40, 3, generator=G).double() + torch.tensor([0.0, 3.0, -1.0])


def each_pearson(y: np.ndarray, p: np.ndarray) -> float:
    return float(np.mean([pearsonr(a, b).statistic for a, b in zip(y.T, p.T, strict=True)]))


def each_ccc(y: np.ndarray, p: np.ndarray) -> float:
    """Lin 1989 by numpy's own moments."""
    found = []
    for a, b in zip(y.T, p.T, strict=True):
        (va, c), (_, vb) = np.cov(a, b, ddof=0)
        found.append(2 * c / (va + vb + (a.mean() - b.mean()) ** 2))
    return float(np.mean(found))


CASES = [
    (ours.r2, r2_score),
    (ours.mean_absolute_error, mean_absolute_error),
    (ours.root_mean_squared_error, root_mean_squared_error),
    (ours.pearson, each_pearson),
    (ours.concordance, each_ccc),
]


@pytest.mark.parametrize(("score", "truth"), CASES)
def test_equals_outside_code(score: Score, truth: Callable[..., float]) -> None:
    assert score(P, Y) == pytest.approx(truth(Y.numpy(), P.numpy()), abs=1e-12)
    assert score(Y, P) == pytest.approx(truth(P.numpy(), Y.numpy()), abs=1e-12)


@pytest.mark.parametrize(("score", "truth"), CASES)
def test_gaps_are_left_out_column_by_column(score: Score, truth: Callable[..., float]) -> None:
    y, gone = Y.clone(), torch.rand(40, 3, generator=G) < 0.3
    y[gone] = torch.nan
    columns = [truth(Y[~gone[:, i], i : i + 1].numpy(), P[~gone[:, i], i : i + 1].numpy()) for i in range(3)]
    assert score(P, y) == pytest.approx(sum(columns) / 3, abs=1e-12)


@pytest.mark.parametrize("score", [ours.r2, ours.pearson, ours.concordance])
def test_columns_that_do_not_vary_count_for_nothing(score: Score) -> None:
    flat = torch.cat([Y, torch.ones(40, 1)], 1)
    answer = torch.cat([P, P[:, :1]], 1)
    assert score(answer, flat) == pytest.approx(score(P, Y), abs=1e-12)
    with pytest.raises(NumericsError):
        score(answer[:, 3:], flat[:, 3:])


def test_an_answer_that_does_not_vary_is_in_no_agreement() -> None:
    assert ours.pearson(torch.full((40, 1), 3.0), Y[:, :1]) == 0.0
    assert ours.concordance(torch.full((40, 1), 3.0), Y[:, :1]) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(NumericsError, match="one shape"):
        ours.pearson(P[:, :2], Y)
