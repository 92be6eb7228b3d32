"""dropout: modality dropout, the remedy people use today, and the second control."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field
from torch import Tensor

from collapsekit.context import Options
from collapsekit.registry import repair_method
from collapsekit.repairs.ingredients.masking import taking_away
from collapsekit.repairs.ingredients.reinit import WHETHER, Fresh, begin_fresh
from collapsekit.repairs.ingredients.warm_up import WARM, Warm, warm_up
from collapsekit.repairs.training.job import Job, Stage, Step, finishing, held_task_loss

DRAWS = 4  # of what is dropped from the held-out examples; the same in every epoch


class DropoutOptions(Options):
    """Modality dropout."""

    rate: float = Field(0.3, gt=0, lt=1, description="mean probability that a modality of an example is dropped")
    by_credit: bool = Field(False, description="in proportion to what each modality earns, rather than all alike")
    fill: Literal["zeros", "other"] = Field(
        "zeros", description="what stands in: zeros, or another example's of the batch"
    )
    fresh_fusion: Fresh = Field(
        "auto", description=WHETHER.format("collapsed, or underused with an encoder that never learned")
    )
    warm_up: Warm = Field("auto", description=WARM)
    finish: bool = Field(True, description="then train with every modality there")


@repair_method(
    "dropout",
    summary="modality dropout: what people use today, the second control",
    definition=(
        "Fine-tuning in which what a modality's encoder gives of an example is replaced, with probability `rate`, by zeros "
        "or by what it gives of another example; never all of one example. `by_credit`: probabilities in proportion to "
        "Shapley credit, of the same mean. The epoch of the least held-out loss under such dropout is kept. Then plain "
        "fine-tuning, with every modality there (`finish`). Before all, encoders that never learned are trained alone "
        "(`warm_up`)."
    ),
    source="Neverova et al. 2016, ModDrop (IEEE TPAMI 38:8), on features rather than inputs",
    options=DropoutOptions,
)
def dropout(job: Job) -> Iterator[Stage]:
    """Yield the stages: warm-up of encoders where it is due, training under dropout, plain training where ``finish``."""
    options = job.own(DropoutOptions)
    begin_fresh(job, "dropout", options.fresh_fusion, job.ignored)
    yield from warm_up(job, "dropout", options.warm_up)
    dropping = taking_away(job, drop_rates(job, options), options.fill)

    def loss(step: Step) -> Tensor:
        return job.task_loss(job.run(step, dropping(len(step.rows))).outputs, step)

    def held() -> float:
        """Under the same dropout: with everything there, what this repairs does not show."""
        run = lambda batch: job.adapter.run_live(batch, dropping(len(next(iter(batch.values())))))  # noqa: E731
        return sum(held_task_loss(job, lambda live: live.outputs, run) for _ in range(DRAWS)) / DRAWS

    yield Stage("modality dropout", job.adapter.model, job.trainable(), loss, held)
    if options.finish:
        yield finishing(job, job.trainable())


def drop_rates(job: Job, options: DropoutOptions) -> list[float]:
    """Compute each modality's probability to be dropped, from 0 to 1; in proportion to credit it is at most 0.9."""
    modalities = job.adapter.modalities
    if not options.by_credit:
        return [options.rate] * len(modalities)
    credit = [max(job.credit[m], 0.0) for m in modalities]
    total = sum(credit)
    if total <= 0:
        return [options.rate] * len(modalities)
    return [min(0.9, options.rate * len(modalities) * c / total) for c in credit]
