"""Regression: real values."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from collapsekit.errors import DataError
from collapsekit.registry import task
from collapsekit.stats import metrics
from collapsekit.stats.inference.bounds import NOT_NEGATIVE, Bounds
from collapsekit.stats.linear import Linear, fit_ridge
from collapsekit.tasks.base import Task, choose_metric
from collapsekit.tasks.shapes import squeezed


@task("regression", summary="real targets; squared error, R²")
class Regression(Task):
    """Real targets: squared error; R²."""

    mean_over_examples = True
    loss_bounds, metric_bounds = NOT_NEGATIVE, Bounds(high=1.0)
    loss_name = "squared error, mean over outputs"

    def __init__(self, metric: str | None = None) -> None:
        self._metric = choose_metric(metric, {"r2": metrics.r2})
        self.metric_name = metric or "r2"

    @classmethod
    def create(cls, *, metric: str | None, temperature: float) -> Self:
        del temperature
        return cls(metric)

    def expect(self, outputs: Tensor) -> Tensor:
        return outputs.double().reshape(len(outputs), -1)

    def loss(self, expected: Tensor, targets: Tensor) -> Tensor:
        return (expected - targets).square().mean(1)

    def metric(self, expected: Tensor, targets: Tensor) -> float:
        return self._metric(expected, targets)

    def metric_parts(self, expected: Tensor, targets: Tensor) -> Tensor | None:
        """Compute (n,): 1 minus an example's squared error over the mean square deviation of the targets, mean over outputs
        that vary."""
        centred = targets - targets.mean(0)
        varies = centred.square().mean(0) > 0
        return (1 - (targets - expected).square() / centred.square().mean(0))[:, varies].mean(1)

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs.reshape(targets.shape), targets.to(outputs.dtype))

    def prior(self, targets: Tensor, width: int) -> Tensor:
        return targets.double().mean(0, keepdim=True)

    def fit_linear(self, x: Tensor, targets: Tensor, width: int, l2: float) -> Linear:
        return fit_ridge(x, targets, l2)

    def need_shape(self, outputs: Tensor, targets: Tensor) -> None:
        if squeezed(outputs).shape[1:] == squeezed(targets).shape[1:]:
            return
        classes = not targets.is_floating_point() and squeezed(targets).ndim == 1 and squeezed(outputs).ndim == 2
        raise DataError(
            f"the model's output has shape {tuple(outputs.shape)}, its labels {tuple(targets.shape)}: task 'regression' "
            "needs one value for each label; check data.label and `output`"
            f"{', or set `task: classification` where labels are class numbers' if classes else ''}."
        )

    def check(self, targets: Tensor, outputs: Tensor, split: str) -> Tensor:
        super().check(targets, outputs, split)
        flat = targets.double().reshape(len(targets), -1)
        if not bool(torch.isfinite(flat).all()):
            row = int((~torch.isfinite(flat)).any(1).nonzero()[0])
            raise DataError(f"label of example {row} of split {split!r} is NaN or infinite: drop or fill it.")
        return flat
