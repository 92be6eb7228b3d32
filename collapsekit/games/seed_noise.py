"""How much a difference of scores moves with the seeds under which a model samples: what is less is no modality's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.features.features import Features
from collapsekit.interventions.replay import predict
from collapsekit.stats.inference.quantiles import normal, student

REPEATS = 8  # sets of seeds under which each difference is measured


@dataclass(frozen=True)
class SeedNoise:
    """Standard errors of a difference of two scores that are due to seeds alone, in the scores' units; 0 of a model that
    does not sample."""

    loss: float = 0.0
    metric: float = 0.0


def measure_seed_noise(
    adapter: Adapter, features: Features, donors: Tensor, kind: Callable[[Tensor], Tensor]
) -> SeedNoise:
    """Measure how much what a modality is worth moves with the seeds.

    The score of the model as it is, less that with modalities of other examples, both under the same seeds, as the questions
    of a game are: all modalities at once, and each by itself. The one that moves most counts.

    Args:
        adapter: the model.
        features: n examples.
        donors: the example that each takes from, int64 (n,).
        kind: makes of expectations (n, ...) those that are scored, as calibration does.

    Returns:
        Standard deviations over ``REPEATS`` sets of seeds, widened as Student's t is wider than the normal with so few.
    """
    if adapter.config.model.samples == 1:
        return SeedNoise()
    absent = [features.modalities, *((m,) for m in features.modalities)]

    def scores(names: Sequence[str], seed: int) -> Tensor:
        outputs = predict(adapter, features, swap=dict.fromkeys(names, donors), seed=seed).outputs
        expected = kind(adapter.task.expect(outputs))
        loss = float(adapter.task.loss(expected, features.targets).double().mean())
        return torch.tensor([loss, adapter.task.metric(expected, features.targets)], dtype=torch.float64)

    differences = []
    for seed in range(1, REPEATS + 1):
        plain = scores((), seed)
        differences.append(torch.stack([scores(names, seed) - plain for names in absent]))
    wider = student(0.975, REPEATS - 1) / normal(0.975)
    loss, metric = (wider * torch.stack(differences).std(0).amax(0)).tolist()
    return SeedNoise(loss, metric)
