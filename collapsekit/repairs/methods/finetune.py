"""finetune: the control. Whatever another repair gains has to be more than more training alone gains."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.registry import repair_method
from collapsekit.repairs.training.job import Job, Stage


@repair_method(
    "finetune",
    summary="plain fine-tuning: the control every repair is judged beside",
    definition="All weights trained on the task's loss; the epoch of the least held-out loss is kept.",
    source="the ordinary way to train on",
)
def finetune(job: Job) -> Iterator[Stage]:
    """Yield the one stage: the model on the task's loss."""
    yield Stage(
        "fine-tuning",
        job.adapter.model,
        job.trainable(),
        loss=lambda step: job.task_loss(job.run(step).outputs, step),
        held=job.held_loss,
    )
