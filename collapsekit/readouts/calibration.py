"""How sure a prediction should be: weights of evidence that fit held-out examples best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import minimize
from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.errors import NumericsError
from collapsekit.features.features import Features
from collapsekit.readouts.linear import FitSplit, make_split
from collapsekit.tasks.base import Task
from collapsekit.tasks.retrieval import Retrieval

DOUBT = 0.02  # share of examples a calibrated prediction leaves open: a label drawn from the prior instead


def doubtful_loss(task: Task, natural: Tensor, prior: Tensor, targets: Tensor, doubt: float = DOUBT) -> Tensor:
    """Compute the mean loss if a share of the labels were drawn from the prior (label smoothing, Szegedy et al. 2016).

    What separates a few hundred examples perfectly would otherwise count as infinitely sure. Values have no such end.

    Args:
        task: whose loss.
        natural: natural parameters of the answers, (n, C).
        prior: natural parameters of the best constant, (1, C).
        targets: (n, ...).
        doubt: the share, 0 to 1; without effect where the task's prior is no distribution of labels.

    Returns:
        A scalar, in the unit of the task's loss.
    """
    expected = task.from_natural(natural)
    value = task.loss(expected, targets).mean()
    drawn = task.prior_loss(expected, prior)
    return value if drawn is None else (1 - doubt) * value + doubt * drawn


def fitted_weights(
    task: Task, prior: Tensor, terms: Sequence[Tensor], targets: Tensor, most: Sequence[float], doubt: float = 0.0
) -> list[float]:
    """Fit weights of evidence over the prior that minimise the loss.

    One term is temperature scaling (Guo et al. 2017) toward the prior instead of the uniform distribution.

    Args:
        task: whose loss.
        prior: natural parameters of the best constant, (1, C).
        terms: evidence, what is added to the prior, (n, C) each.
        targets: (n, ...).
        most: the largest weight of each term; the smallest is 0.
        doubt: as ``doubtful_loss`` takes it.

    Returns:
        A weight for each term.
    """

    def loss(weights: Any) -> tuple[float, Any]:
        w = torch.tensor(weights, requires_grad=True)
        with torch.enable_grad():
            natural = prior + torch.stack([a * x for a, x in zip(w, terms, strict=True)]).sum(0)
            value = doubtful_loss(task, natural, prior, targets, doubt)
            (gradient,) = torch.autograd.grad(value, [w])
        return float(value.detach()), gradient.numpy()

    start = [min(1.0, top) for top in most]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, top) for top in most])
    return [float(w) for w in found.x]


@dataclass(frozen=True)
class Calibration:
    """Expectations of a model drawn toward the prior (or away) until it is as sure as it is right."""

    task: Task
    prior: Tensor
    factor: float

    def __call__(self, expected: Tensor) -> Tensor:
        """Calibrated expectations, in the shape of ``expected``."""
        return self.task.from_natural(self.prior + self.factor * (self.task.to_natural(expected) - self.prior))


def calibrate(task: Task, at: FitSplit, expected: Tensor, targets: Tensor) -> Calibration:
    """Fit the one number of a calibration.

    Args:
        task: whose loss.
        at: the examples that the prior is of.
        expected: the model's expectations to fit on, (n, ...).
        targets: (n, ...).

    Returns:
        The calibration. Raises NumericsError where the task has no prior.
    """
    prior = task.chance() if isinstance(task, Retrieval) else task.to_natural(task.prior(at.targets, at.width))
    evidence = task.to_natural(expected) - prior
    return Calibration(task, prior, fitted_weights(task, prior, [evidence], targets, [20.0], DOUBT)[0])


def fit_calibration(adapter: Adapter, features: Features) -> Calibration | None:
    """Fit the model's calibration on held-out examples; None where the task has no prior or there is nothing to fit on.

    Where there is no val split the held-out examples are ones the model was trained on and is surest about, so its one
    number is fitted on the diagnosed examples instead.
    """
    task = adapter.task
    try:
        at = make_split(adapter, features)
    except NumericsError:
        return None
    outputs, targets = at.held.outputs[at.choose], at.held_targets
    if at.held is at.train:
        outputs, targets = features.outputs, features.targets
    return calibrate(task, at, task.expect(outputs), targets)
