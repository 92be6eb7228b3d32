"""Multilabel: several 0/1 labels an example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from collapsekit.errors import ConfigError, DataError
from collapsekit.registry import task
from collapsekit.stats import metrics
from collapsekit.stats.inference.bounds import NOT_NEGATIVE, SHARE
from collapsekit.stats.linear import Linear, fit_sigmoid
from collapsekit.tasks.base import FLOOR, Metric, Task, choose_metric
from collapsekit.tasks.shapes import refusal, squeezed, to_columns

_METRICS: dict[str, Metric] = {
    "macro_auroc": metrics.macro_auroc,
    "macro_average_precision": metrics.macro_average_precision,
    "micro_average_precision": metrics.micro_average_precision,
    "macro_f1": metrics.macro_f1_of_labels,
}
_LEFT_OUT = {
    "macro_auroc": metrics.macro_auroc_left_out,
    "macro_average_precision": metrics.macro_average_precision_left_out,
    "micro_average_precision": metrics.micro_average_precision_left_out,
}


@task("multilabel", summary="independent 0/1 labels; binary cross-entropy; macro AUROC, average precision or macro F1")
class Multilabel(Task):
    """Independent labels: mean binary cross-entropy in nats; macro AUROC, average precision (macro, micro), macro F1."""

    mean_over_examples = True
    loss_bounds, metric_bounds = NOT_NEGATIVE, SHARE
    loss_name = "binary cross-entropy, mean over labels (nats)"

    def __init__(self, metric: str | None = None) -> None:
        self._metric = choose_metric(metric, _METRICS)
        self.metric_name = metric or "macro_auroc"

    @classmethod
    def create(cls, *, metric: str | None, temperature: float) -> Self:
        del temperature
        return cls(metric)

    def expect(self, outputs: Tensor) -> Tensor:
        return to_columns(outputs, self.name).double().sigmoid()

    def average(self, outputs: Sequence[Tensor]) -> Tensor:
        probabilities = torch.stack([self.expect(one) for one in outputs]).mean(0)
        return self.to_natural(probabilities).to(outputs[0].dtype)

    def loss(self, expected: Tensor, targets: Tensor) -> Tensor:
        p, q = expected.clamp_min(FLOOR).log(), (1 - expected).clamp_min(FLOOR).log()
        return -(targets * p + (1 - targets) * q).mean(1)

    def metric(self, expected: Tensor, targets: Tensor) -> float:
        return self._metric(expected, targets > 0.5)

    def metric_left_out(self, expected: Tensor, targets: Tensor, groups: Tensor) -> Tensor | None:
        at_once = _LEFT_OUT.get(self.metric_name)
        return None if at_once is None else at_once(expected, targets > 0.5, groups)

    def effective_count(self, targets: Tensor) -> float:
        """Count examples of the rarer class, the harmonic mean over labels that have both; of a micro average, in which a
        rare label hardly counts, those that have any label, or that lack any."""
        if self.metric_name == "micro_average_precision":
            positive = targets > 0.5
            return float(max(1, min(int(positive.any(1).sum()), int((~positive).any(1).sum()))))
        return metrics.count_rarer(targets)

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(to_columns(outputs, self.name), targets.to(outputs.dtype))

    def prior(self, targets: Tensor, width: int) -> Tensor:
        return ((targets.double().sum(0) + 1.0) / (len(targets) + 2.0))[None]

    def prior_loss(self, expected: Tensor, prior: Tensor) -> Tensor | None:
        return self.loss(expected, prior.sigmoid().expand_as(expected)).mean()

    def fit_linear(self, x: Tensor, targets: Tensor, width: int, l2: float) -> Linear:
        return fit_sigmoid(x, targets, l2)

    def to_natural(self, expected: Tensor) -> Tensor:
        return expected.clamp_min(FLOOR).log() - (1 - expected).clamp_min(FLOOR).log()

    def from_natural(self, natural: Tensor) -> Tensor:
        return natural.sigmoid()

    def need_shape(self, outputs: Tensor, targets: Tensor) -> None:
        if squeezed(outputs).ndim > 2:
            raise ConfigError(refusal(outputs, self.name, targets))

    def check(self, targets: Tensor, outputs: Tensor, split: str) -> Tensor:
        super().check(targets, outputs, split)
        found, targets = tuple(targets.shape), squeezed(targets)
        targets = targets if targets.ndim > 1 else targets[:, None]
        if targets.shape != to_columns(outputs, self.name).shape:
            raise DataError(
                f"labels of split {split!r} have shape {found}, the model's outputs "
                f"{tuple(outputs.shape)}: multilabel needs one 0/1 label an output."
            )
        targets = targets.double()
        if not bool(((targets == 0) | (targets == 1)).all()):
            raise DataError(f"labels of split {split!r} are not all 0 or 1: multilabel needs 0/1 labels.")
        return targets
