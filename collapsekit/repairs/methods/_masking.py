"""Training in which modalities are taken away from examples, drawn at random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from collapsekit.adapters.base import Change
from collapsekit.repairs.training.job import Job, Stage, plain

DROP = (
    "while a new fusion is trained, probability that a modality of an example is zeros, lest the fusion settle on fewer "
    "modalities than say the same"
)


def drawn(rates: Tensor, examples: int) -> Tensor:
    """Return which modality of which example is dropped, bool (examples, modalities); of each example one, drawn at
    random, stays where all would go.
    """
    gone = torch.rand(examples, len(rates)) < rates
    stays = torch.randint(0, len(rates), (examples,))
    every = gone.all(1)
    gone[every, stays[every]] = False
    return gone


def taking_away(job: Job, rates: list[float], fill: str = "zeros") -> Callable[[int], dict[str, Change]]:
    """Return what is changed in a batch of so many examples: each modality of each, at its rate of ``rates``, is zeros
    on its way to the fusion, or another example's features (``fill``: other).
    """

    def changes(examples: int) -> dict[str, Change]:
        gone = drawn(torch.tensor(rates), examples)
        return {m: _replacing(gone[:, i], fill) for i, m in enumerate(job.adapter.modalities)}

    return changes


def new_fusion(job: Job, name: str, parameters: list[nn.Parameter], drop: float) -> Stage:
    """Training of a model whose fusion is new: on the task's loss with modalities missing at the rate ``drop``, judged by
    the held-out loss with everything there."""
    stage = plain(job, name, parameters)
    if not drop:
        return stage
    changes = taking_away(job, [drop] * len(job.adapter.modalities))
    return replace(stage, loss=lambda step: job.task_loss(job.run(step, changes(len(step.rows))).outputs, step))


def _replacing(gone: Tensor, fill: str) -> Change:
    def change(features: Tensor) -> Tensor:
        mask = gone.to(features.device).reshape(-1, *[1] * (features.ndim - 1))
        if fill == "zeros":
            return torch.where(mask, torch.zeros_like(features), features)
        return torch.where(mask, features.roll(1, 0).detach(), features)

    return change
