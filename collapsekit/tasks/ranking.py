"""Ranking: items of a catalogue, some of which are relevant to an example."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Self

import torch
from torch import Tensor

from collapsekit.errors import ConfigError, DataError, did_you_mean
from collapsekit.registry import task
from collapsekit.stats.inference.bounds import NOT_NEGATIVE, SHARE
from collapsekit.stats.inference.leave_out import leave_out_means
from collapsekit.stats.linear import Linear, fit_softmaxes
from collapsekit.stats.scores.ranks import gain_at, recall_at
from collapsekit.tasks.base import FLOOR, Task
from collapsekit.tasks.shapes import refusal, squeezed, to_columns

METRICS: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "ndcg_at_10": ("NDCG@10", partial(gain_at, k=10)),
    "ndcg_at_5": ("NDCG@5", partial(gain_at, k=5)),
    "recall_at_1": ("recall@1", partial(recall_at, k=1)),
    "recall_at_5": ("recall@5", partial(recall_at, k=5)),
    "recall_at_10": ("recall@10", partial(recall_at, k=10)),
}


@task("ranking", summary="items with relevances, or one item; softmax over items; NDCG or recall among the first")
class Ranking(Task):
    """Scores (n, items) and labels: the relevance of each item (n, items), from 0 on, or one item's number (n,). The
    loss is the cross-entropy of a softmax over items to the shares of relevance (ListNet's top one, Cao et al. 2007)."""

    mean_over_examples = True
    loss_bounds, metric_bounds = NOT_NEGATIVE, SHARE
    loss_name = "cross-entropy over items (nats)"

    def __init__(self, metric: str | None = None) -> None:
        chosen = metric or next(iter(METRICS))
        if chosen not in METRICS:
            raise ConfigError(
                f"metric {metric!r} is not one of {', '.join(METRICS)}{did_you_mean(chosen, METRICS)} for this task."
            )
        self.metric_name, self._metric = METRICS[chosen]

    @classmethod
    def create(cls, *, metric: str | None, temperature: float) -> Self:
        del temperature
        return cls(metric)

    def expect(self, outputs: Tensor) -> Tensor:
        return to_columns(outputs, self.name).double().softmax(1)

    def loss(self, expected: Tensor, targets: Tensor) -> Tensor:
        return -(_shares(targets) * expected.clamp_min(FLOOR).log()).sum(1)

    def metric(self, expected: Tensor, targets: Tensor) -> float:
        return float(self._metric(expected, targets).mean())

    def metric_parts(self, expected: Tensor, targets: Tensor) -> Tensor | None:
        return self._metric(expected, targets)

    def metric_left_out(self, expected: Tensor, targets: Tensor, groups: Tensor) -> Tensor | None:
        return leave_out_means(self._metric(expected, targets), groups)

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        logits = to_columns(outputs, self.name)
        return -(_shares(targets).to(logits.dtype) * logits.log_softmax(1)).sum(1).mean()

    def prior(self, targets: Tensor, width: int) -> Tensor:
        shares = _shares(targets).sum(0) + 1.0 / width
        return (shares / shares.sum())[None]

    def prior_loss(self, expected: Tensor, prior: Tensor) -> Tensor | None:
        return -(prior.exp() * self.to_natural(expected)).sum(1).mean()

    def choices_of(self, outputs: Tensor) -> int:
        return to_columns(outputs[:1], self.name).shape[1]

    def fit_linear(self, x: Tensor, targets: Tensor, width: int, l2: float) -> Linear:
        return fit_softmaxes(x, _shares(targets)[:, None], l2)

    def to_natural(self, expected: Tensor) -> Tensor:
        return expected.clamp_min(FLOOR).log()

    def from_natural(self, natural: Tensor) -> Tensor:
        return natural.softmax(1)

    def need_shape(self, outputs: Tensor, targets: Tensor) -> None:
        if squeezed(outputs).ndim != 2:
            raise ConfigError(refusal(outputs, self.name, targets))

    def check(self, targets: Tensor, outputs: Tensor, split: str) -> Tensor:
        super().check(targets, outputs, split)
        items = to_columns(outputs, self.name).shape[1]
        labels = squeezed(targets)
        if labels.ndim == 1 and not targets.is_floating_point():
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= items:
                raise DataError(
                    f"label {low if low < 0 else high} of split {split!r} is no item: the model scores {items}, so labels "
                    f"must be 0 to {items - 1}."
                )
            return torch.nn.functional.one_hot(labels.long(), items).double()
        if labels.shape[1:] != (items,):
            raise DataError(
                f"labels of split {split!r} have shape {tuple(targets.shape)}, the model's scores {tuple(outputs.shape)}: "
                "task 'ranking' needs a relevance for each item, or the number of one item, a whole number."
            )
        if not bool((labels >= 0).all()) or not bool((labels.sum(1) > 0).all()):
            raise DataError(
                f"relevances of split {split!r} are negative, or an example has none above 0: drop or mend such examples."
            )
        return labels.double()


def _shares(relevance: Tensor) -> Tensor:
    return relevance / relevance.sum(1, keepdim=True)
