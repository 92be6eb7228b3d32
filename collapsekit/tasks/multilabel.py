"""Multilabel: several 0/1 labels an example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from collapsekit.errors import ConfigError, DataError, NumericsError
from collapsekit.registry import task
from collapsekit.stats import metrics
from collapsekit.stats.inference.bounds import NOT_NEGATIVE, SHARE
from collapsekit.stats.linear import Linear, fit_sigmoid, fit_softmaxes
from collapsekit.tasks.base import FLOOR, Metric, choose_metric
from collapsekit.tasks.gaps import (
    TaskOfColumns,
    fit_columns,
    has_gaps,
    mean_of_known,
    need_some_known,
    weigh_known,
)
from collapsekit.tasks.probabilities import TaskOfLogits, read_outputs
from collapsekit.tasks.shapes import refusal, squeezed, to_columns
from collapsekit.tasks.weights import need_weight_each, read_weights

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


@task(
    "multilabel",
    summary="0/1 labels, NaN where not known; binary cross-entropy; macro AUROC, average precision or macro F1",
)
class Multilabel(TaskOfColumns, TaskOfLogits):
    """Independent labels: mean binary cross-entropy in nats; macro AUROC, average precision (macro, micro), macro F1. A NaN
    among the labels is left out of all of them. Where a 1 has a weight, as a model was trained with (``pos_weight`` of
    torch's BCEWithLogitsLoss), the loss of each 1 is that many times as large."""

    loss_bounds, metric_bounds = NOT_NEGATIVE, SHARE
    loss_name = "binary cross-entropy, mean over labels (nats)"

    def __init__(self, metric: str | None = None, pos_weight: Tensor | None = None, outputs: str | None = None) -> None:
        self._metric = choose_metric(metric, _METRICS)
        self.metric_name, self.outputs = metric or "macro_auroc", outputs
        self.pos_weight = pos_weight  # float64 (C,), or (1,) for all labels
        if pos_weight is not None:
            self.loss_name = "binary cross-entropy with weighed 1s, mean over labels (nats)"

    @classmethod
    def create(
        cls,
        *,
        metric: str | None,
        temperature: float,
        pos_weight: float | Sequence[float] | None = None,
        outputs: str | None = None,
    ) -> Self:
        del temperature
        return cls(metric, read_weights(pos_weight, "pos_weight", "label"), read_outputs(outputs))

    def read(self, prediction: Tensor, targets: Tensor | None) -> Tensor:
        del targets
        return self.logits_of(prediction, alone=True)

    def expect(self, outputs: Tensor) -> Tensor:
        return to_columns(outputs, self.name).double().sigmoid()

    def average(self, outputs: Sequence[Tensor]) -> Tensor:
        probabilities = torch.stack([self.expect(one) for one in outputs]).mean(0)
        return self.to_natural(probabilities).to(outputs[0].dtype)

    def loss(self, expected: Tensor, targets: Tensor) -> Tensor:
        p, q = expected.clamp_min(FLOOR).log(), (1 - expected).clamp_min(FLOOR).log()
        each = -(targets * (p if self.pos_weight is None else p * self.pos_weight) + (1 - targets) * q)
        return mean_of_known(each, targets) if has_gaps(targets) else each.mean(1)

    def metric(self, expected: Tensor, targets: Tensor) -> float:
        if not has_gaps(targets):
            return self._metric(expected, targets > 0.5)
        known = ~targets.isnan()
        if self.metric_name == "micro_average_precision":
            return self._metric(expected[known][:, None], targets[known][:, None] > 0.5)
        found = [self._of_label(expected[rows, i], targets[rows, i] > 0.5) for i, rows in enumerate(known.T)]
        there = [value for value in found if value is not None]
        if not there:
            raise NumericsError(f"{self.metric_name} needs a label with both classes among those that are known")
        return sum(there) / len(there)

    def _of_label(self, expected: Tensor, positive: Tensor) -> float | None:
        """The metric of one label of the examples that have it; None where a mean over labels leaves it out."""
        try:
            return self._metric(expected[:, None], positive[:, None])
        except NumericsError:
            return None

    def choose(self, expected: Tensor) -> Tensor | None:
        return (expected > 0.5).long()

    def metric_left_out(self, expected: Tensor, targets: Tensor, groups: Tensor) -> Tensor | None:
        at_once = _LEFT_OUT.get(self.metric_name)
        return None if at_once is None or has_gaps(targets) else at_once(expected, targets > 0.5, groups)

    def effective_count(self, targets: Tensor) -> float:
        """Count examples of the rarer class, the harmonic mean over labels that have both; of a micro average, in which a
        rare label hardly counts, those that have any label, or that lack any."""
        if self.metric_name == "micro_average_precision":
            return float(max(1, min(int((targets > 0.5).any(1).sum()), int((targets < 0.5).any(1).sum()))))
        return metrics.count_rarer(targets)

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        logits, truth = to_columns(outputs, self.name), targets.to(outputs.dtype)
        loss = partial(
            F.binary_cross_entropy_with_logits,
            pos_weight=None if self.pos_weight is None else self.pos_weight.to(truth),
        )
        if not has_gaps(targets):
            return loss(logits, truth)
        return mean_of_known(loss(logits, truth.nan_to_num(), reduction="none"), targets).mean()

    def prior(self, targets: Tensor, width: int) -> Tensor:
        if has_gaps(targets):
            weight = width * weigh_known(targets)
            share = ((targets.nan_to_num() * weight).sum(0) + 1.0) / (weight.sum(0) + 2.0)
        else:
            share = (targets.double().sum(0) + 1.0) / (len(targets) + 2.0)
        if self.pos_weight is not None:
            share = share * self.pos_weight / (share * self.pos_weight + 1 - share)
        return share[None]

    def prior_loss(self, expected: Tensor, prior: Tensor) -> Tensor | None:
        share = prior.sigmoid()
        if self.pos_weight is not None:  # how often the labels are 1 of which it is the prior
            share = share / (share + self.pos_weight * (1 - share))
        return self.loss(expected, share.expand_as(expected)).mean()

    def fit_linear(self, x: Tensor, targets: Tensor, width: int, l2: float) -> Linear:
        if not has_gaps(targets):
            return _fit(x, targets, l2, self.pos_weight)
        each = [None] * width if self.pos_weight is None else self.pos_weight.expand(width)[:, None]
        return fit_columns([partial(_fit, pos_weight=w) for w in each], x, targets, l2)

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
        if not bool(((targets == 0) | (targets == 1) | targets.isnan()).all()):
            odd = next(v for v in targets.flatten().tolist() if v not in (0, 1) and v == v)
            raise DataError(
                f"labels of split {split!r} are not all 0 or 1, but {odd:g}: multilabel needs 0/1 labels, and NaN where one "
                "is not known."
            )
        need_some_known(targets, split)
        if self.pos_weight is not None and len(self.pos_weight) > 1:  # one alone is for all
            need_weight_each(self.pos_weight, targets.shape[1], "pos_weight", "labels")
        return targets


def _fit(x: Tensor, targets: Tensor, l2: float, pos_weight: Tensor | None) -> Linear:
    """Fit a logit of each label (n, C), a 1 of which counts ``pos_weight`` times, (C,) or (1,)."""
    if pos_weight is None:
        return fit_sigmoid(x, targets, l2)
    y = targets.double()
    # A logit is the difference of a softmax's two columns, whose squares are together half of its own.
    found = fit_softmaxes(x, torch.stack([1 - y, y * pos_weight], 2), 2 * l2)
    weight, bias = found.weight, found.bias
    return replace(found, weight=weight[:, 1::2] - weight[:, ::2], bias=bias[1::2] - bias[::2])
