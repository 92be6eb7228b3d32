"""Recall and discounted gain, against scikit-learn and plain counting."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import ndcg_score

from collapsekit.stats.scores.ranks import gain_at, recall_at

G = torch.Generator().manual_seed(0)
SCORES, RELEVANCE = torch.randn(30, 12, generator=G), torch.randint(0, 4, (30, 12), generator=G)


@pytest.mark.parametrize("k", [1, 5, 12, 20])
def test_gain_is_that_of_scikit_learn(k: int) -> None:
    truth = [ndcg_score(y[None].numpy(), s[None].numpy(), k=k) for y, s in zip(RELEVANCE, SCORES, strict=True)]
    assert gain_at(SCORES, RELEVANCE, k).tolist() == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_recall_counts_relevant_items_among_the_first(k: int) -> None:
    found = recall_at(SCORES, RELEVANCE, k)
    for row in range(30):
        first = sorted(range(12), key=lambda i: -float(SCORES[row, i]))[:k]
        relevant = {i for i in range(12) if RELEVANCE[row, i] > 0}
        assert float(found[row]) == pytest.approx(len(relevant & set(first)) / len(relevant))
