"""Classification: one class an example."""

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
from collapsekit.stats.linear import Linear, fit_softmax, fit_softmaxes
from collapsekit.tasks.base import FLOOR, Metric, choose_metric
from collapsekit.tasks.probabilities import TaskOfLogits, read_outputs, sum_to_1
from collapsekit.tasks.shapes import refusal, squeezed, to_columns
from collapsekit.tasks.weights import need_weight_each, read_weights


def _of_labels(expected: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and truth, both (n, k): of the second of two classes, of each of more."""
    truth = F.one_hot(targets, expected.shape[1]).bool()
    return (expected[:, 1:], truth[:, 1:]) if expected.shape[1] == 2 else (expected, truth)


_METRICS: dict[str, Metric] = {
    "accuracy": metrics.accuracy,
    "balanced_accuracy": metrics.balanced_accuracy,
    "macro_f1": metrics.macro_f1,
    "auroc": lambda p, y: metrics.macro_auroc(*_of_labels(p, y)),
    "average_precision": lambda p, y: metrics.macro_average_precision(*_of_labels(p, y)),
}
NEVER = 100.0  # nats below the likeliest class, of one that cannot be; a loss counts no more than 69
_LEFT_OUT = {"auroc": metrics.macro_auroc_left_out, "average_precision": metrics.macro_average_precision_left_out}


@task("classification", summary="one class an example; cross-entropy; accuracy, macro F1, AUROC or average precision")
class Classification(TaskOfLogits):
    """Exclusive classes: cross-entropy in nats; accuracy, balanced accuracy, macro F1, or an area: of two classes the
    second's, of more the mean over classes, each against the others. Where classes have weights, as a model was trained
    with (``weight`` of torch's CrossEntropyLoss), an example's loss is its class's weight, over their mean, times that."""

    mean_over_examples = True
    loss_bounds, metric_bounds = NOT_NEGATIVE, SHARE
    loss_name = "cross-entropy (nats)"

    def __init__(self, metric: str | None = None, weights: Tensor | None = None, outputs: str | None = None) -> None:
        self.outputs = outputs
        self._metric = choose_metric(metric, _METRICS)
        self.metric_name = metric or "accuracy"
        self.weights = None if weights is None else weights / weights.mean()  # float64 (C,)
        if weights is not None:
            self.loss_name = "cross-entropy weighed by class (nats)"

    @classmethod
    def create(
        cls,
        *,
        metric: str | None,
        temperature: float,
        weights: Sequence[float] | None = None,
        outputs: str | None = None,
    ) -> Self:
        del temperature
        return cls(metric, read_weights(weights, "weights", "class", least=2), read_outputs(outputs))

    def read(self, prediction: Tensor, targets: Tensor | None) -> Tensor:
        del targets
        return _lifted(self.logits_of(prediction, alone=squeezed(prediction).ndim < 2))

    def are_distributions(self, outputs: Tensor) -> bool:
        columns = squeezed(outputs)
        return columns.ndim == 2 and sum_to_1(columns, 1)

    def expect(self, outputs: Tensor) -> Tensor:
        logits = to_columns(outputs, self.name).double()
        if logits.shape[1] == 1:  # one logit: the second class against the first
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        return logits.softmax(1)

    def average(self, outputs: Sequence[Tensor]) -> Tensor:
        probabilities = torch.stack([self.expect(one) for one in outputs]).mean(0)
        return self.to_natural(probabilities).to(outputs[0].dtype)

    def loss(self, expected: Tensor, targets: Tensor) -> Tensor:
        each = -expected.gather(1, targets[:, None])[:, 0].clamp_min(FLOOR).log()
        return each if self.weights is None else each * self.weights[targets]

    def metric(self, expected: Tensor, targets: Tensor) -> float:
        return self._metric(expected, targets)

    def choose(self, expected: Tensor) -> Tensor | None:
        return expected.argmax(1, keepdim=True)

    def hits(self, expected: Tensor, targets: Tensor) -> Tensor | None:
        return expected.argmax(1) == targets if self.metric_name == "accuracy" else None

    def metric_left_out(self, expected: Tensor, targets: Tensor, groups: Tensor) -> Tensor | None:
        at_once = _LEFT_OUT.get(self.metric_name)
        return None if at_once is None else at_once(*_of_labels(expected, targets), groups)

    def metric_parts(self, expected: Tensor, targets: Tensor) -> Tensor | None:
        if self.metric_name not in ("accuracy", "balanced_accuracy"):
            return None
        parts = (expected.argmax(1) == targets).double()
        if self.metric_name == "balanced_accuracy":
            counts = torch.bincount(targets).double()
            parts = parts * len(targets) / ((counts > 0).sum() * counts[targets])
        return parts

    def effective_count(self, targets: Tensor) -> float:
        """Count examples; of a mean over classes as many as would make a mean over all as uncertain; of an area those of the
        rarer class, the harmonic mean over classes."""
        if self.metric_name == "accuracy":
            return float(len(targets))
        if self.metric_name in _LEFT_OUT:
            return metrics.count_rarer(F.one_hot(targets))
        counts = torch.bincount(targets).double()
        counts = counts[counts > 0]
        return float(len(counts) ** 2 / (1 / counts).sum())

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        logits = to_columns(outputs, self.name)
        if self.weights is not None:
            both = torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits
            return (F.cross_entropy(both, targets, reduction="none") * self.weights.to(both)[targets]).mean()
        if logits.shape[1] == 1:
            return F.binary_cross_entropy_with_logits(logits[:, 0], targets.to(logits.dtype))
        return F.cross_entropy(logits, targets)

    def prior(self, targets: Tensor, width: int) -> Tensor:
        counts = torch.bincount(targets, minlength=width).double() + 1.0
        counts = counts if self.weights is None else counts * self.weights
        return (counts / counts.sum())[None]

    def prior_loss(self, expected: Tensor, prior: Tensor) -> Tensor | None:
        drawn = -(prior.exp() * self.to_natural(expected)).sum(1).mean()
        # Weighed classes are as frequent as their share of the prior over their weight.
        return drawn if self.weights is None else drawn / (prior.exp() / self.weights).sum()

    def classes_in(self, labels: Tensor) -> int | None:
        rows = squeezed(labels)
        if rows.ndim > 1:
            return int(rows.shape[1])
        return int(rows.max()) + 1 if bool(rows.isfinite().all()) else None

    def classes_of(self, outputs: Tensor) -> int:
        return self.expect(outputs[:1]).shape[1]

    def fit_linear(self, x: Tensor, targets: Tensor, width: int, l2: float) -> Linear:
        if self.weights is None:
            return fit_softmax(x, targets, width, l2)
        return fit_softmaxes(x, (F.one_hot(targets, width) * self.weights)[:, None], l2)

    def to_natural(self, expected: Tensor) -> Tensor:
        return expected.clamp_min(FLOOR).log()

    def from_natural(self, natural: Tensor) -> Tensor:
        return natural.softmax(1)

    def need_shape(self, outputs: Tensor, targets: Tensor) -> None:
        if squeezed(outputs).ndim > 2:
            raise ConfigError(refusal(outputs, self.name, targets))

    def check(self, targets: Tensor, outputs: Tensor, split: str) -> Tensor:
        super().check(targets, outputs, split)
        width = to_columns(outputs, self.name).shape[1]
        classes = 2 if width == 1 else width
        targets = _class_numbers(targets, classes)
        if targets.is_floating_point():
            if not bool((targets == targets.round()).all()):
                if squeezed(targets).shape[1:] == (classes,):
                    raise DataError(
                        f"labels of split {split!r} are shares of {classes} classes: classification needs one class number "
                        "an example, or 1 for its class and 0 for the others; take each example's likeliest class."
                    )
                raise DataError(
                    f"labels of split {split!r} are fractional: classification needs class numbers; "
                    "for real-valued targets set `task: regression`."
                )
            targets = targets.long()
        found, targets = tuple(targets.shape), squeezed(targets)
        if targets.ndim != 1:
            raise DataError(
                f"labels of split {split!r} have shape {found}: classification needs one class number "
                "an example; for several labels at once set `task: multilabel`."
            )
        targets = targets.long()
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= classes:
            bad = low if low < 0 else high
            drop = ", and drop examples whose label is not known" if low < 0 else ""
            raise DataError(
                f"label {bad} of split {split!r} is out of range: the model has {classes} outputs, so labels must be "
                f"0 to {classes - 1}; check data.label and the model's number of classes{drop}."
            )
        need_weight_each(self.weights, classes, "weights", "classes")
        return targets


def _lifted(logits: Tensor) -> Tensor:
    """Logits (n, ...), of which those that stand for "cannot be", -inf or the least number there is, are as low as tells:
    else they would be the size that all others are compared by."""
    if logits.ndim < 2 or not logits.is_floating_point():
        return logits
    highest = logits.flatten(1).amax(1).reshape(-1, *[1] * (logits.ndim - 1))
    return torch.where(logits <= torch.finfo(logits.dtype).min / 2, highest.detach() - NEVER, logits)


def _class_numbers(targets: Tensor, classes: int) -> Tensor:
    """Targets as they are; of one-hot rows (n, classes) the numbers (n,)."""
    rows = squeezed(targets)
    if rows.ndim != 2 or rows.shape[1] != classes:
        return targets
    one_hot = bool(((rows == 0) | (rows == 1)).all()) and bool((rows.sum(1) == 1).all())
    return rows.long().argmax(1) if one_hot else targets
