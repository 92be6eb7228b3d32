"""Training in which modalities are taken away from examples, drawn at random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from collapsekit.adapters.base import Change
from collapsekit.io.transfer import to_device
from collapsekit.repairs.training.job import Job, Stage, plain

DROP = (
    "while a new fusion is trained, probability that a modality of an example is zeros, lest the fusion settle on fewer "
    "modalities than say the same"
)


def drawn(rates: Tensor, examples: int) -> Tensor:
    """Draw which modality of which example is dropped, bool (examples, modalities); ``rates`` (modalities,), from 0 to
    1.

    Of each example one, drawn at random, stays where all would go.
    """
    gone = torch.rand(examples, len(rates)) < rates
    stays = torch.randint(0, len(rates), (examples,))
    every = gone.all(1)
    gone[every, stays[every]] = False
    return gone


def taking_away(job: Job, rates: list[float], fill: str = "zeros") -> Callable[[int], dict[str, Change]]:
    """Make the function that takes modalities away from a batch.

    Args:
        job: The repair's job.
        rates: The probability of each modality to be taken away from an example, from 0 to 1.
        fill: What stands there on the way to the fusion: zeros, or other: another example's features.

    Returns:
        A function from the number of examples in a batch to what is changed in it, drawn anew at each call.
    """

    def changes(examples: int) -> dict[str, Change]:
        gone = drawn(torch.tensor(rates), examples)
        return {m: _replacing(gone[:, i], fill) for i, m in enumerate(job.adapter.modalities)}

    return changes


def new_fusion(job: Job, name: str, parameters: list[nn.Parameter], drop: float) -> Stage:
    """Make the stage that trains a model whose fusion is new: on the task's loss, with modalities missing at a rate.

    It is judged by the held-out loss with everything there.

    Args:
        job: The repair's job.
        name: The stage's name.
        parameters: What is trained.
        drop: The rate at which each modality is missing, from 0 to 1.

    Returns:
        The stage.
    """
    stage = plain(job, name, parameters)
    if not drop:
        return stage
    changes = taking_away(job, [drop] * len(job.adapter.modalities))
    return replace(stage, loss=lambda step: job.task_loss(job.run(step, changes(len(step.rows))).outputs, step))


def _replacing(gone: Tensor, fill: str) -> Change:
    def change(features: Tensor) -> Tensor:
        mask = to_device(gone, features.device).reshape(-1, *[1] * (features.ndim - 1))
        if fill == "zeros":
            return torch.where(mask, torch.zeros_like(features), features)
        return torch.where(mask, features.roll(1, 0).detach(), features)

    return change
