"""Encoders that never learned what their modality says, trained alone before a method begins: where the task's loss is low
without a modality, nothing in a method leads its encoder to learn it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from collapsekit.adapters.base import TrainPass
from collapsekit.errors import ConfigError
from collapsekit.repairs.ingredients.reinit import renew_encoder
from collapsekit.repairs.training.job import Job, Stage, held_task_loss

Warm = bool | Literal["auto"]
WARM = (
    "first train the encoders of the modalities to repair alone, each with a linear head; auto: where the diagnosis found "
    "the modality collapsed or underused and its encoder to hold less than one trained alone learns"
)
ENOUGH = 0.9  # part of what an encoder trained alone gains, from which there is nothing to catch up on
EMPTY = 0.3  # under which a new encoder learns sooner than this one
LONGER = 3  # times the epochs of fine-tuning: an encoder that never learned has farther to go


def warm_up(job: Job, method: str, wanted: Warm) -> Iterator[Stage]:
    """Yield a stage for each encoder to be trained alone: by the task's loss of a linear head on its pooled features.

    The head is thrown away after. Where the encoder holds next to nothing it begins anew.

    Args:
        job: The repair's job.
        method: The method's name, for messages.
        wanted: Whether to train the encoders of all modalities to repair; "auto": those of ignored ones, where they
            hold too little.

    Yields:
        Stages.

    Raises:
        ConfigError: Where it is wanted and cannot be.
    """
    for m in job.weak if wanted is True else job.ignored if wanted == "auto" else ():
        encoder = encoder_weights(job, m)
        if wanted == "auto" and (job.kept.get(m, 1.0) >= ENOUGH or not encoder or not job.adapter.task.has_labels):
            continue
        if not encoder or not job.adapter.task.has_labels:
            lacks = "labels to train it by" if encoder else "an encoder of its own with weights to train"
            raise ConfigError(f"{method}.warm_up is true, but {m!r} has not {lacks}: set {method}.warm_up=false.")
        if job.kept.get(m, 1.0) < EMPTY and not job.training.freeze:
            renew_encoder(job, m)
        yield _alone(job, m, encoder)


def encoder_weights(job: Job, modality: str) -> list[nn.Parameter]:
    """Return the weights of a modality's encoder that may change."""
    own = {id(p) for p in job.adapter.encoder_module(modality).parameters()}
    return [p for p in job.trainable() if id(p) in own]


def _alone(job: Job, modality: str, encoder: list[nn.Parameter]) -> Stage:
    with torch.no_grad():
        width = job.adapter.run_live(job.batch(job.at.fit[:2])).pooled[modality].shape[1]
    torch.manual_seed(job.seed)  # the head's weights
    head = nn.Linear(width, job.at.width).to(job.adapter.device)

    def outputs(live: TrainPass) -> Tensor:
        out: Tensor = head(live.pooled[modality].float())
        return out

    return Stage(
        f"warming up {modality}",
        nn.ModuleList([job.adapter.model, head]),
        [*encoder, *head.parameters()],
        loss=lambda step: job.task_loss(outputs(job.run(step)), step),
        held=lambda: held_task_loss(job, outputs),
        longer=LONGER,
    )
