"""Regression: real values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from collapsekit.errors import DataError
from collapsekit.registry import task
from collapsekit.stats.inference.bounds import NOT_NEGATIVE, Bounds
from collapsekit.stats.linear import Linear, fit_ridge
from collapsekit.stats.scores import values as of_values
from collapsekit.tasks.base import Metric, choose_metric
from collapsekit.tasks.gaps import TaskOfColumns, fit_columns, has_gaps, need_some_known
from collapsekit.tasks.shapes import squeezed
from collapsekit.tasks.weights import need_weight_each, read_weights

_METRICS: dict[str, Metric] = {
    "r2": of_values.r2,
    "mae": lambda p, y: -of_values.mean_absolute_error(p, y),
    "rmse": lambda p, y: -of_values.root_mean_squared_error(p, y),
    "pearson": of_values.pearson,
    "ccc": of_values.concordance,
}
_BOUNDS = {"r2": Bounds(high=1.0), "mae": Bounds(high=0.0), "rmse": Bounds(high=0.0)}
_NAMES = {"mae": "negative MAE", "rmse": "negative RMSE"}  # so that higher is better


@task("regression", summary="real targets, NaN where there is none; squared error; R², MAE, RMSE, Pearson or CCC")
class Regression(TaskOfColumns):
    """Real targets: squared error; R², mean absolute error, root mean squared error, Pearson's correlation, Lin's
    concordance correlation. A NaN among the targets is left out of all of them. Where outputs have weights, as a model was
    trained with, an output's squared error counts as its weight, over their mean."""

    loss_bounds = NOT_NEGATIVE
    loss_name = "squared error, mean over outputs"

    def __init__(self, metric: str | None = None, weights: Tensor | None = None) -> None:
        self._metric, chosen = choose_metric(metric, _METRICS), metric or "r2"
        self.metric_name, self._chosen = _NAMES.get(chosen, chosen), chosen
        self.metric_bounds = _BOUNDS.get(chosen, Bounds(-1.0, 1.0))
        self.weights = None if weights is None else weights / weights.mean()  # float64 (C,)
        if weights is not None:
            self.loss_name = "squared error, weighed mean over outputs"

    @classmethod
    def create(cls, *, metric: str | None, temperature: float, weights: Sequence[float] | None = None) -> Self:
        del temperature
        return cls(metric, read_weights(weights, "weights", "output"))

    def expect(self, outputs: Tensor) -> Tensor:
        return outputs.double().reshape(len(outputs), -1)

    def loss(self, expected: Tensor, targets: Tensor) -> Tensor:
        squares = self._weigh((expected - targets).square())
        return squares.nanmean(1) if has_gaps(targets) else squares.mean(1)

    def _weigh(self, squares: Tensor) -> Tensor:
        return squares if self.weights is None else squares * self.weights.to(squares)

    def metric(self, expected: Tensor, targets: Tensor) -> float:
        return self._metric(expected, targets)

    def metric_parts(self, expected: Tensor, targets: Tensor) -> Tensor | None:
        """Compute (n,): of R², 1 minus an example's squared error over the mean square deviation of the targets, mean over
        outputs that vary; of a mean absolute error, minus the example's own."""
        if has_gaps(targets):
            return None
        if self._chosen == "mae":
            return -(expected - targets).abs().mean(1)
        if self._chosen != "r2":
            return None
        centred = targets - targets.mean(0)
        varies = centred.square().mean(0) > 0
        return (1 - (targets - expected).square() / centred.square().mean(0))[:, varies].mean(1)

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        outputs, truth = outputs.reshape(targets.shape), targets.to(outputs.dtype)
        if not has_gaps(targets):
            return (
                F.mse_loss(outputs, truth) if self.weights is None else self._weigh((outputs - truth).square()).mean()
            )
        known = ~truth.isnan()
        squares = self._weigh((outputs - torch.where(known, truth, 0.0)).square()) * known
        return (squares.sum(1) / known.sum(1)).mean()

    def prior(self, targets: Tensor, width: int) -> Tensor:
        """Find the mean of each output, (1, width), an example's known targets sharing its weight; 0 where none is known."""
        if not has_gaps(targets):
            return targets.double().mean(0, keepdim=True)
        known = ~targets.isnan()
        weight = known / known.sum(1, keepdim=True)
        total = (torch.where(known, targets, 0.0).double() * weight).sum(0, keepdim=True)
        return total / weight.sum(0, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)

    def fit_linear(self, x: Tensor, targets: Tensor, width: int, l2: float) -> Linear:
        return fit_columns([fit_ridge] * width, x, targets, l2) if has_gaps(targets) else fit_ridge(x, targets, l2)

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
        if bool(flat.isinf().any()):
            row = int(flat.isinf().any(1).nonzero()[0])
            raise DataError(f"label of example {row} of split {split!r} is infinite: drop or fill it.")
        need_some_known(flat, split)
        need_weight_each(self.weights, flat.shape[1], "weights", "outputs")
        return flat
