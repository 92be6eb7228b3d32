"""The balanced reference: what a model would do that used every modality for what it is worth alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.features.features import Features
from collapsekit.games.draws import CoalitionValue, MeanOverDraws, score, score_draws
from collapsekit.interventions.marginal import marginal_samples
from collapsekit.readouts.calibration import DOUBT, doubtful_loss, fitted_weights
from collapsekit.readouts.linear import FitSplit, UnimodalReadout, make_split
from collapsekit.readouts.synergy import Synergy
from collapsekit.tasks.base import Task

SURE = 2.0  # standard errors by which what modalities say together has to lower the held-out loss to be added


@dataclass
class BalancedReference:
    """Late fusion of calibrated unimodal readouts: evidence over the prior adds up, all of it times one weight;
    and what modalities say only together, where that can be learned.

    It plays the same game as the model: absent modalities are taken from the same other examples. Scored by what
    its readouts say alone instead, even the best possible model would seem to ignore a weaker modality, since
    next to a strong one that contradicts it a weaker one changes little, whoever adds them up.
    """

    task: Task
    features: Features
    at: FitSplit
    prior: Tensor  # natural parameters of the best constant, (1, C)
    evidence: dict[str, tuple[Tensor, Tensor]]  # per modality, over the prior: diagnosed (n, C), held out (v, C)
    donors: list[Tensor]  # the other examples absent modalities are taken from, each (n,)
    joint: tuple[Synergy, float] | None = None  # what modalities say only together, and its weight
    training: dict[str, Tensor] = field(default_factory=dict)  # per modality, over the prior: every row of train
    known: dict[int, CoalitionValue] = field(default_factory=dict)

    def value(self, mask: int) -> CoalitionValue:
        """Score the reference when it sees the modalities in ``mask``: loss and metric."""
        if mask not in self.known:
            self.known[mask] = self._valued(mask)
        return self.known[mask]

    def constant(self) -> CoalitionValue:
        """Score the best constant: loss and metric."""
        return self._score(self.task.from_natural(self.prior.expand(len(self.features), -1)))

    def alone(self, modality: str) -> CoalitionValue:
        """Score one modality's readout, weighted on held-out examples: loss and metric; nothing is resampled."""
        return self._score(self.task.from_natural(self.prior + self.weight_of([modality]) * self.evidence[modality][0]))

    @cached_property
    def weight(self) -> float:
        """What the sum of all evidence is multiplied by."""
        return self.weight_of(list(self.features.modalities), DOUBT)

    def offset(self) -> dict[str, Tensor]:
        """Compute natural parameters by split: of every row of train, (t, C), and of held-out examples of another
        split, (v, C).
        """
        at = self.at
        out = {at.train.split: self.prior + self.weight * torch.stack(list(self.training.values())).sum(0)}
        if at.held is not at.train:
            held = torch.stack([held for _, held in self.evidence.values()]).sum(0)
            out[at.held.split] = self.prior + self.weight * held
        return out

    def together(self, joint: Synergy) -> BalancedReference:
        """Add to this reference what the network says, where that lowers the held-out loss by more than chance; else
        return it as it is.
        """
        summed = torch.stack([held for _, held in self.evidence.values()]).sum(0)
        said, y = joint.says(joint.held), self.at.held_targets
        both = fitted_weights(self.task, self.prior, [summed, said], y, [2.0, 2.0], DOUBT)
        before = self.task.loss(self.task.from_natural(self.prior + self.weight * summed), y)
        after = self.task.loss(self.task.from_natural(self.prior + both[0] * summed + both[1] * said), y)
        gain = before - after
        if float(gain.mean()) <= SURE * float(gain.std()) / len(gain) ** 0.5:
            return self
        made = replace(self, joint=(joint, both[1]), known={})
        made.weight = both[0]
        return made

    def _valued(self, mask: int) -> CoalitionValue:
        names, n = self.features.modalities, len(self.features)
        present, absent = self.prior.expand(n, -1), torch.zeros(n, 1)
        for i, m in enumerate(names):
            if mask >> i & 1:
                present = present + self.weight * self.evidence[m][0]
            else:
                absent = absent + self.weight * self.evidence[m][0]
        own = torch.arange(n)
        if mask == (1 << len(names)) - 1:
            return self._score(self.task.from_natural(present + self._said(mask, own)))
        mean = MeanOverDraws(self.features, self.donors)
        for k, other in enumerate(self.donors):
            mean.add(k, self.task.from_natural(present + absent[other] + self._said(mask, other)))
        return score_draws(self.task, self.features, mean)

    def _said(self, mask: int, other: Tensor) -> Tensor:
        """What modalities say only together, those not in ``mask`` taken from ``other`` examples."""
        if self.joint is None:
            return torch.zeros(1)
        joint, weight = self.joint
        x = {
            m: joint.here[m] if mask >> i & 1 else joint.here[m][other] for i, m in enumerate(self.features.modalities)
        }
        return weight * joint.says(x)

    def weight_of(self, chosen: Sequence[str], doubt: float = 0.0) -> float:
        """Fit what the sum of the evidence of ``chosen`` modalities is to be multiplied by, 0 at least, on held-out
        examples.
        """
        held = torch.stack([self.evidence[m][1] for m in chosen]).sum(0)

        def loss(weight: float) -> float:
            natural = self.prior + weight * held
            return float(doubtful_loss(self.task, natural, self.prior, self.at.held_targets, doubt))

        best = minimize_scalar(loss, bounds=(0.0, 2.0), method="bounded", options={"xatol": 1e-6})
        return float(best.x) if float(best.fun) < loss(0.0) else 0.0

    def _score(self, expected: Tensor) -> CoalitionValue:
        return score(self.task, self.features, expected)

    def contribution(self, modality: str, absent: str | None = None) -> tuple[Tensor, Tensor]:
        """Compute what this modality adds to natural parameters, alone and together with the others (``absent`` not
        among them): of diagnosed examples, (n, C), and of held-out ones, (v, C).
        """
        here, held = (e * (self.weight or 1.0) for e in self.evidence[modality])
        if self.joint is None:
            return here, held
        joint, weight = self.joint
        parts = []
        for x in (joint.here, joint.held):
            total = torch.zeros(1)
            others = marginal_samples(len(x[modality]), 16, 0)
            for other in others:
                without = x if absent is None else {**x, absent: x[absent][other]}
                total = total + joint.says(without) - joint.says({**without, modality: x[modality][other]})
            parts.append(weight * total / len(others))
        return here + parts[0], held + parts[1]

    def added(self, of: tuple[str, str | None] | None, model: Tensor, model_held: Tensor) -> Tensor:
        """Add a modality's contribution to the model's expectations, in natural space: prior + a·(model - prior) +
        b·contribution.

        The weights a and b, 0 at least, minimise the loss on held-out examples.

        Args:
            of: the modality, and one not to be counted among the others, as ``contribution`` takes them; None: nothing
                is added.
            model: the model's expectations of diagnosed examples, (n, ...).
            model_held: those of held-out examples, (v, ...).

        Returns:
            Expectations of diagnosed examples, (n, ...).
        """
        pairs = [(self.task.to_natural(model) - self.prior, self.task.to_natural(model_held) - self.prior)]
        if of is not None:
            pairs.append(self.contribution(*of))
        weights = fitted_weights(
            self.task, self.prior, [held for _, held in pairs], self.at.held_targets, [20.0, 5.0][: len(pairs)]
        )
        natural = self.prior + torch.stack([w * x for w, (x, _) in zip(weights, pairs, strict=True)]).sum(0)
        return self.task.from_natural(natural)

    def added_across(self, of: tuple[str, str | None] | None, model: Tensor) -> Tensor:
        """Add a modality's contribution as ``added`` does, the weights of each half of the diagnosed examples fitted on the
        other half: for where no other examples are held out that the model was not trained on.

        Args:
            of: as ``added`` takes it.
            model: the model's expectations of diagnosed examples, (n, ...).

        Returns:
            Expectations of diagnosed examples, (n, ...).
        """
        terms = [self.task.to_natural(model) - self.prior]
        if of is not None:
            terms.append(self.contribution(*of)[0])
        natural, second = torch.zeros_like(terms[0]), self.features.groups % 2 == 1
        for here in (second, ~second):
            fitted_on, targets = [x[~here] for x in terms], self.features.targets[~here]
            weights = fitted_weights(self.task, self.prior, fitted_on, targets, [20.0, 5.0][: len(terms)])
            natural[here] = self.prior + torch.stack([w * x[here] for w, x in zip(weights, terms, strict=True)]).sum(0)
        return self.task.from_natural(natural)


def make_reference(
    adapter: Adapter, features: Features, readouts: dict[str, UnimodalReadout], donors: list[Tensor]
) -> BalancedReference:
    """Make the balanced reference of these readouts.

    Args:
        adapter: the model, for its task.
        features: n examples to diagnose.
        readouts: a linear readout of each modality.
        donors: the other examples that absent modalities are taken from, each int64 (n,).

    Returns:
        The reference, without what modalities say only together.

    Raises:
        NumericsError: where the task has no prior, or there is nothing to fit on.
    """
    task, at = adapter.task, make_split(adapter, features)
    prior = task.to_natural(task.prior(at.train.targets[at.fit], at.width))
    evidence = {
        m: (task.to_natural(r.expected) - prior, task.to_natural(r.validation) - prior) for m, r in readouts.items()
    }
    made = BalancedReference(task, features, at, prior, evidence, donors)
    # Each by itself as sure as it is right, or the surest readout would drown the others in the sum.
    weights = {m: made.weight_of([m]) for m in evidence}
    made.evidence = {m: (weights[m] * here, weights[m] * held) for m, (here, held) in evidence.items()}
    made.training = {m: weights[m] * (task.to_natural(r.training) - prior) for m, r in readouts.items()}
    return made
