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


@dataclass
class Reference:
    """Late fusion of unimodal readouts: evidence over the prior adds up, all of it times one weight.

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

    def _expect(self, mask: int) -> Tensor:
        present, absent = self.prior.expand(len(self.features), -1), torch.zeros(len(self.features), 1)
        for i, m in enumerate(self.features.modalities):
            if mask >> i & 1:
                present = present + self.weight * self.evidence[m][0]
            else:
                absent = absent + self.weight * self.evidence[m][0]
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

        def loss(weights: Any) -> tuple[float, Any]:
            w = torch.tensor(weights, requires_grad=True)
            with torch.enable_grad():
                natural = self.prior + torch.stack([a * x for a, (_, x) in zip(w, pairs, strict=True)]).sum(0)
                value = self.task.loss(self.task.from_natural(natural), self.at.held_targets).mean()
                (gradient,) = torch.autograd.grad(value, [w])
            return float(value.detach()), gradient.numpy()

        start, bounds = [1.0, 0.0][: len(pairs)], [(0.05, 20.0), (0.0, 5.0)][: len(pairs)]
        best = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
        natural = self.prior + torch.stack([float(a) * x for a, (x, _) in zip(best.x, pairs, strict=True)]).sum(0)
        return self.task.from_natural(natural)


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
    return Reference(task, features, at, prior, evidence, donors)
