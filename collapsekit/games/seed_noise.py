"""How much a difference of scores moves with the seeds under which a model samples: what is less is no modality's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from collapsekit.adapters.base import Adapter
from collapsekit.stats.inference.quantiles import normal, student

REPEATS = 8  # sets of seeds under which each difference is measured


@dataclass(frozen=True)
class SeedNoise:
    """Standard errors of a difference of two scores that are due to seeds alone, in the scores' units; 0 of a model that
    does not sample."""

    loss: float = 0.0
    metric: float = 0.0


def count_seed_noise(adapter: Adapter) -> int:
    """Count the questions that ``measure_seed_noise`` asks."""
    return 0 if adapter.config.model.samples == 1 else REPEATS * (2 + len(adapter.modalities))


def measure_seed_noise(
    score: Callable[[Sequence[str], int], tuple[float, float]], modalities: Sequence[str]
) -> SeedNoise:
    """Measure how much what a modality is worth moves with the seeds.

    The score of the model as it is, less that with modalities of other examples, both under the same seeds, as the questions
    of a game are: all modalities at once, and each by itself. The one that moves most counts.

    Args:
        score: of the modalities that are of other examples and a seed: loss and metric of the model that samples.
        modalities: all there are.

    Returns:
        Standard deviations over ``REPEATS`` sets of seeds, widened as Student's t is wider than the normal with so few.
    """
    differences = []
    for seed in range(1, REPEATS + 1):
        plain = torch.tensor(score((), seed), dtype=torch.float64)
        moved = [score(names, seed) for names in (modalities, *((m,) for m in modalities))]
        differences.append(torch.tensor(moved, dtype=torch.float64) - plain)
    wider = student(0.975, REPEATS - 1) / normal(0.975)
    loss, metric = (wider * torch.stack(differences).std(0).amax(0)).tolist()
    return SeedNoise(loss, metric)
