"""What a model loses where modalities are taken from other examples: loss of every example, predictions averaged."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from benchmarks.natural.data import Data, Split
from benchmarks.natural.models import Natural

DRAWS = 64


@dataclass(frozen=True)
class Losses:
    """Losses (n,) of every example, float64: as it is, with nothing of its own, without one modality of its own, with only
    one of its own. ``right``: the metric of the first and of those without one modality."""

    full: Tensor
    none: Tensor
    without: dict[str, Tensor]
    only: dict[str, Tensor]
    right: dict[str, float]

    def use(self, modality: str) -> Tensor:
        """What the modality saves an example: the mean of what it adds to the others and to nothing, (n,)."""
        added = self.without[modality] - self.full
        return (added + self.none - self.only[modality]) / 2


def scored(task: str, expected: Tensor, label: Tensor) -> Tensor:
    """Losses (n,) of expectations: the surprise in nats, or the squared error."""
    if task == "classification":
        return -expected.gather(1, label[:, None])[:, 0].clamp_min(1e-12).log()
    return ((expected - label.double()) ** 2).mean(1)


def metric(task: str, expected: Tensor, label: Tensor) -> float:
    """Accuracy, or R²."""
    if task == "classification":
        return float((expected.argmax(1) == label).double().mean())
    return float(1 - ((expected - label) ** 2).mean() / (label - label.mean(0)).square().mean())


def prior(data: Data, split: str) -> Tensor:
    """Losses (n,) of the best constant answer of the training split."""
    train, label = data.splits["train"]["label"], data.splits[split]["label"]
    if data.task == "classification":
        constant = torch.nn.functional.one_hot(train, data.outputs).double().mean(0, keepdim=True)
    else:
        constant = train.double().mean(0, keepdim=True)
    return scored(data.task, constant.expand(len(label), -1), label)


def sureness(task: str, outputs: Tensor, label: Tensor) -> float:
    """The factor that makes a model as sure as it is right, fitted on validation examples."""
    if task != "classification":
        return 1.0

    def lost(factor: float) -> float:
        return float(scored(task, (factor * outputs.double()).softmax(1), label).mean())

    return float(minimize_scalar(lost, bounds=(0.02, 5.0), method="bounded").x)


@torch.no_grad()
def answers(model: Natural, part: Split) -> Tensor:
    """Outputs (n, K) of a split."""
    return model(**{m: part[m] for m in model.encoders})


@torch.no_grad()
def losses(model: Natural, data: Data, split: str, draws: int = DRAWS) -> Losses:
    """Exchange each modality, all but each, and all, in ``draws`` permutations of the split."""
    val, part, task = data.splits["val"], data.splits[split], data.task
    factor = sureness(task, answers(model, val), val["label"])
    features, label = model.encode(part), part["label"]
    orders = [torch.randperm(len(label), generator=torch.Generator().manual_seed(k)) for k in range(draws)]

    def expect(outputs: Tensor) -> Tensor:
        return (factor * outputs.double()).softmax(1) if task == "classification" else outputs.double()

    def mean(exchanged: Collection[str], orders: Iterable[Tensor]) -> Tensor:
        total, count = torch.zeros((), dtype=torch.float64), 0
        for order in orders:
            total = total + expect(model.answer({m: v[order] if m in exchanged else v for m, v in features.items()}))
            count += 1
        return total / count

    names = tuple(features)
    score: Callable[[Tensor], Tensor] = lambda expected: scored(task, expected, label)  # noqa: E731
    full = expect(model.answer(features))
    without = {m: mean((m,), orders) for m in names}
    only = {m: mean([k for k in names if k != m], orders) for m in names}
    return Losses(
        score(full),
        score(mean(names, orders)),
        {m: score(v) for m, v in without.items()},
        {m: score(v) for m, v in only.items()},
        {"": metric(task, full, label), **{m: metric(task, v, label) for m, v in without.items()}},
    )
