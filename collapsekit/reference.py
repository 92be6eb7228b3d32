"""The balanced reference: what a model would do that used every modality for what it is worth alone."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    """Late fusion of unimodal readouts: evidence over the prior adds up, weighted by one number a subset."""

    task: Task
    features: Features
    at: Fold
    prior: Tensor  # natural parameters of the best constant, (1, C)
    evidence: dict[str, tuple[Tensor, Tensor]]  # per modality, over the prior: diagnosed (n, C), held out (v, C)
    known: dict[int, Worth] = field(default_factory=dict)

    def worth(self, mask: int) -> Worth:
        """Loss and metric of the reference that sees the modalities in ``mask``."""
        if mask not in self.known:
            chosen = [m for i, m in enumerate(self.features.modalities) if mask >> i & 1]
            self.known[mask] = self._score(self._fused(chosen))
        return self.known[mask]

    def alone(self, modality: str) -> Worth:
        """Loss and metric of one modality's readout, weighted on held-out examples."""
        return self.worth(1 << self.features.modalities.index(modality))

    def _fused(self, chosen: list[str]) -> Tensor:
        n = len(self.features)
        if not chosen:
            return self.task.from_natural(self.prior.expand(n, -1))
        here = torch.stack([self.evidence[m][0] for m in chosen]).sum(0)
        held = torch.stack([self.evidence[m][1] for m in chosen]).sum(0)

        def loss(weight: float) -> float:
            return _mean_loss(self.task, self.prior + weight * held, self.at.held_targets)

        best = minimize_scalar(loss, bounds=(0.0, 2.0), method="bounded", options={"xatol": 1e-6})
        weight = float(best.x) if float(best.fun) < loss(0.0) else 0.0
        return self.task.from_natural(self.prior + weight * here)

    def _score(self, expected: Tensor) -> Worth:
        targets, groups = self.features.targets, self.features.groups
        loss = leave_out_means(self.task.loss(expected, targets), groups)
        return Worth(loss, leave_out_metric(self.task, expected, targets, groups), expected)

    def added(self, modality: str, model: Tensor, model_held: Tensor) -> Tensor:
        """The model's expectations with this modality's evidence added, both weighted on held-out examples."""
        here, held = self.evidence[modality]
        base, base_held = self.task.to_natural(model), self.task.to_natural(model_held)

        def loss(weights: Tensor) -> float:
            a, b = float(weights[0]), float(weights[1])
            return _mean_loss(self.task, a * base_held + b * held, self.at.held_targets)

        best = minimize(loss, [1.0, 0.0], method="L-BFGS-B", bounds=[(0.05, 20.0), (0.0, 5.0)])
        return self.task.from_natural(float(best.x[0]) * base + float(best.x[1]) * here)


def _mean_loss(task: Task, natural: Tensor, targets: Tensor) -> float:
    return float(task.loss(task.from_natural(natural), targets).mean())


def make_reference(adapter: Adapter, features: Features, readouts: dict[str, Unimodal]) -> Reference:
    """The balanced reference of these readouts. Raises NumericsError where the task has no prior."""
    task, at = adapter.task, fold(adapter, features)
    prior = task.to_natural(task.prior(at.train.targets[at.fit], at.width))
    evidence = {
        m: (task.to_natural(r.expected) - prior, task.to_natural(r.validation) - prior) for m, r in readouts.items()
    }
    return Reference(task, features, at, prior, evidence)
