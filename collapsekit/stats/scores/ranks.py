"""How far up relevant items stand: recall and discounted gain among the first k, one number an example."""

from __future__ import annotations

import torch
from torch import Tensor


def recall_at(scores: Tensor, relevance: Tensor, k: int) -> Tensor:
    """Compute the share of each example's relevant items that are among the k of highest score.

    Args:
        scores: (n, items).
        relevance: (n, items), above 0 for relevant ones, at least one an example.
        k: how many count.

    Returns:
        float64 (n,), 0 to 1.
    """
    first = scores.topk(min(k, scores.shape[1]), dim=1).indices
    relevant = (relevance > 0).double()
    return relevant.gather(1, first).sum(1) / relevant.sum(1)


def gain_at(scores: Tensor, relevance: Tensor, k: int) -> Tensor:
    """Compute each example's discounted cumulative gain over that of the best order, among the first k.

    sum of relevance / log2(1 + rank) (Järvelin & Kekäläinen 2002); equals ``sklearn.metrics.ndcg_score`` where no scores are
    equal.

    Args:
        scores: (n, items).
        relevance: (n, items), from 0 on, above it at least once an example.
        k: how many count.

    Returns:
        float64 (n,), 0 to 1.
    """
    k = min(k, scores.shape[1])
    weight = 1 / torch.arange(2, k + 2, dtype=torch.float64).log2()
    found = relevance.double().gather(1, scores.topk(k, dim=1).indices) @ weight
    best = relevance.double().topk(k, dim=1).values @ weight
    return found / best
