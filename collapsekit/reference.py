"""The balanced reference: what a model would do that used every modality for what it is worth alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor

from collapsekit.adapter.base import Adapter
from collapsekit.features import Features
from collapsekit.readout import Fold, Unimodal, fold
from collapsekit.replay import Worth, leave_out_means, leave_out_metric
from collapsekit.task import Task

PROBABILISTIC = ("classification", "multilabel")  # tasks whose natural space is log-odds


@dataclass
class Reference:
    """Late fusion of calibrated unimodal readouts: evidence over the prior adds up, all of it times one weight.

    It plays the same game as the model: absent modalities are taken from the same other examples. Scored by what
    its readouts say alone instead, even the best possible model would seem to ignore a weaker modality, since
    next to a strong one that contradicts it a weaker one changes little, whoever adds them up.
    """

    task: Task
    features: Features
    at: Fold
    prior: Tensor  # natural parameters of the best constant, (1, C)
    evidence: dict[str, tuple[Tensor, Tensor]]  # per modality, over the prior: diagnosed (n, C), held out (v, C)
    donors: list[Tensor]  # the other examples absent modalities are taken from, each (n,)
    known: dict[int, Worth] = field(default_factory=dict)

    def worth(self, mask: int) -> Worth:
        """Loss and metric of the reference when it sees the modalities in ``mask``."""
        if mask not in self.known:
            self.known[mask] = self._score(self._expect(mask))
        return self.known[mask]

    def constant(self) -> Worth:
        """Loss and metric of the best constant."""
        return self._score(self.task.from_natural(self.prior.expand(len(self.features), -1)))

    def alone(self, modality: str) -> Worth:
        """Loss and metric of one modality's readout, weighted on held-out examples; nothing is resampled."""
        return self._score(self.task.from_natural(self.prior + self._weight([modality]) * self.evidence[modality][0]))

    @cached_property
    def weight(self) -> float:
        """What the sum of all evidence is multiplied by."""
        return self._weight(list(self.features.modalities))

    @cached_property
    def confidence(self) -> float:
        """How much surer than right the model is of its probabilities, as a factor of log-odds; 1 for values.

        The reference is as sure, because the surer a model, the more its stronger modality drowns the others.
        """
        if self.task.name not in PROBABILISTIC:
            return 1.0
        held = self.task.to_natural(self.task.expect(self.at.held.outputs[self.at.choose])) - self.prior
        (a,) = self._fitted([held])
        y = self.at.held_targets
        alike = held.mean(0).expand_as(held)  # the same for every example
        if _mean_loss(self.task, self.prior + a * held, y) > 0.99 * _mean_loss(self.task, self.prior + a * alike, y):
            return 1.0  # a model that says next to nothing right has no measure of confidence
        return min(8.0, max(0.125, 1.0 / a))

    def _expect(self, mask: int) -> Tensor:
        present, absent = self.prior.expand(len(self.features), -1), torch.zeros(len(self.features), 1)
        weight = self.weight * self.confidence
        for i, m in enumerate(self.features.modalities):
            if mask >> i & 1:
                present = present + weight * self.evidence[m][0]
            else:
                absent = absent + weight * self.evidence[m][0]
        if mask == (1 << len(self.features.modalities)) - 1:
            return self.task.from_natural(present)
        total = torch.zeros_like(present)
        for other in self.donors:
            total = total + self.task.from_natural(present + absent[other])
        return total / len(self.donors)

    def _weight(self, chosen: list[str]) -> float:
        held = torch.stack([self.evidence[m][1] for m in chosen]).sum(0)

        def loss(weight: float) -> float:
            return _mean_loss(self.task, self.prior + weight * held, self.at.held_targets)

        best = minimize_scalar(loss, bounds=(0.0, 2.0), method="bounded", options={"xatol": 1e-6})
        return float(best.x) if float(best.fun) < loss(0.0) else 0.0

    def _score(self, expected: Tensor) -> Worth:
        targets, groups = self.features.targets, self.features.groups
        loss = leave_out_means(self.task.loss(expected, targets), groups)
        return Worth(loss, leave_out_metric(self.task, expected, targets, groups), expected)

    def added(self, modality: str | None, model: Tensor, model_held: Tensor) -> Tensor:
        """The model's expectations (n, ...) with this modality's evidence added (None: nothing), in natural space:
        prior + a·(model - prior) + b·evidence, the weights a and b minimising the loss on held-out examples."""
        pairs = [(self.task.to_natural(model) - self.prior, self.task.to_natural(model_held) - self.prior)]
        if modality is not None:
            pairs.append(self.evidence[modality])
        weights = self._fitted([held for _, held in pairs])
        natural = self.prior + torch.stack([w * x for w, (x, _) in zip(weights, pairs, strict=True)]).sum(0)
        return self.task.from_natural(natural)

    def _fitted(self, terms: list[Tensor]) -> list[float]:
        """Weights of the model's own term and of evidence (each (v, C)) that minimise the loss on held-out examples."""

        def loss(weights: Any) -> tuple[float, Any]:
            w = torch.tensor(weights, requires_grad=True)
            with torch.enable_grad():
                natural = self.prior + torch.stack([a * x for a, x in zip(w, terms, strict=True)]).sum(0)
                value = self.task.loss(self.task.from_natural(natural), self.at.held_targets).mean()
                (gradient,) = torch.autograd.grad(value, [w])
            return float(value.detach()), gradient.numpy()

        start, bounds = [1.0, 0.0][: len(terms)], [(0.05, 20.0), (0.0, 5.0)][: len(terms)]
        return [float(w) for w in minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x]


def _mean_loss(task: Task, natural: Tensor, targets: Tensor) -> float:
    return float(task.loss(task.from_natural(natural), targets).mean())


def make_reference(
    adapter: Adapter, features: Features, readouts: dict[str, Unimodal], donors: list[Tensor]
) -> Reference:
    """The balanced reference of these readouts. Raises NumericsError where the task has no prior."""
    task, at = adapter.task, fold(adapter, features)
    prior = task.to_natural(task.prior(at.train.targets[at.fit], at.width))
    evidence = {
        m: (task.to_natural(r.expected) - prior, task.to_natural(r.validation) - prior) for m, r in readouts.items()
    }
    made = Reference(task, features, at, prior, evidence, donors)
    # Each by itself as sure as it is right, or the surest readout would drown the others in the sum.
    weights = {m: made._weight([m]) for m in evidence}
    made.evidence = {m: (weights[m] * here, weights[m] * held) for m, (here, held) in evidence.items()}
    return made
