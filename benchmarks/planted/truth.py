"""What a subject's modalities are, measured on many fresh examples against the exact posterior."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from benchmarks.planted.subjects import Made

FRESH, DRAWS = 2000, 12
IGNORED = 0.08  # of the credit the exact posterior gives: at most so much is collapsed
# At least so much is used. Models made to use everything fall short of the best possible by their few examples alone;
# where the training decides, less than this may be an underuse, which is nobody's mistake to call by either name.
USED = {"natural": 0.6}
USED_OTHERWISE = 0.3


def truth(made: Made) -> dict[str, tuple[str, float, float]]:
    """Per modality: used, collapsed, uninformative or between; the model's credit over the posterior's; the
    posterior's credit over what all modalities gain together."""
    fresh = made.world.sample(FRESH, 77_000_000 + made.subject.seed)
    label, names = fresh["label"], made.world.modalities
    donors = [torch.randperm(FRESH, generator=torch.Generator().manual_seed(k)) for k in range(DRAWS)]

    def game(expect: Callable[[dict[str, Tensor]], Tensor]) -> dict[frozenset[str], float]:
        out: dict[frozenset[str], float] = {}
        for mask in range(1 << len(names)):
            present = frozenset(m for i, m in enumerate(names) if mask >> i & 1)
            total = torch.zeros(())
            used = donors if len(present) < len(names) else donors[:1]
            for other in used:
                total = total + expect({m: fresh[m] if m in present else fresh[m][other] for m in names})
            out[present] = -_loss(made.world.task, total / len(used), label)
        return out

    with torch.no_grad():
        temper = _temperature(made, fresh)
        ours = game(lambda x: _expect(made.world.task, made.model(**x), temper))
        best = game(lambda x: made.world.best({**x, "label": label}, names))
    gained = best[frozenset(names)] - best[frozenset()]
    out = {}
    for m in names:
        use, due = _shapley(ours, names, m), _shapley(best, names, m)
        share, ratio = due / gained, use / due if due > 1e-9 else 0.0
        if made.world.roles[m] == "noise":
            state = "uninformative"
        else:
            enough = USED.get(made.subject.kind, USED_OTHERWISE)
            state = "collapsed" if ratio <= IGNORED else "used" if ratio >= enough else "between"
        out[m] = (state, ratio, share)
    return out


def _expect(task: str, outputs: Tensor, temper: float) -> Tensor:
    if task == "classification":
        return (temper * outputs.double()).softmax(1)
    return (temper * outputs.double()).sigmoid() if task == "multilabel" else outputs.double()


def _loss(task: str, expected: Tensor, label: Tensor) -> float:
    if task == "classification":
        return float(F.nll_loss(expected.clamp_min(1e-12).log(), label))
    if task == "multilabel":
        return float(F.binary_cross_entropy(expected.clamp(1e-12, 1 - 1e-12), label.double()))
    return float(F.mse_loss(expected.reshape(label.shape), label.double()))


def _temperature(made: Made, fresh: dict[str, Tensor]) -> float:
    """The factor that makes the model as sure as it is right."""
    if made.world.task == "regression":
        return 1.0
    outputs = made.model(**{m: fresh[m] for m in made.world.modalities})
    found = minimize_scalar(
        lambda t: _loss(made.world.task, _expect(made.world.task, outputs, t), fresh["label"]),
        bounds=(0.02, 5.0),
        method="bounded",
    )
    return float(found.x)


def _shapley(worth: dict[frozenset[str], float], names: tuple[str, ...], modality: str) -> float:
    """The definition itself: mean gain over all orders."""
    total, count = 0.0, 0
    for order in permutations(names):
        before = frozenset(order[: order.index(modality)])
        total += worth[before | {modality}] - worth[before]
        count += 1
    return total / count
