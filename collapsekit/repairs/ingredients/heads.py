"""Heads h·h⁻¹ behind every encoder, which meet in one latent space, and training with one modality's encoding in another's
place (Chaudhuri et al. 2025, sections 3.4 and 4.4, Appendix C.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from collapsekit.adapters.base import TrainPass
from collapsekit.adapters.inserts import capture_latents, posts_of, substitute_missing
from collapsekit.context import Options
from collapsekit.data.base import Batch
from collapsekit.errors import ConfigError
from collapsekit.io.transfer import to_device
from collapsekit.repairs.ingredients.channels import layouts_of, widths_of
from collapsekit.repairs.ingredients.masking import DROP, drawn, new_fusion
from collapsekit.repairs.ingredients.reinit import WHETHER, Fresh, begin_fresh
from collapsekit.repairs.ingredients.substitution import at_first, note_substitutes, pooled_latent
from collapsekit.repairs.ingredients.warm_up import WARM, Warm, warm_up
from collapsekit.repairs.training.job import Job, Stage, Step, finishing, held_task_loss
from collapsekit.report.diagnosis import Result

DRAWS = 4  # of what is substituted in the held-out examples; the same in every epoch
BEHIND = (
    "Behind every encoder two-layer perceptrons h and h⁻¹ that change nothing at first; the whole model is trained on the "
    "task's loss"
)


class HeadOptions(Options):
    """What repairs with heads have in common."""

    latent: int | None = Field(
        None, ge=1, description="width of the latent space; the widest encoder's where none is named"
    )
    substitution: float = Field(0.5, ge=0, lt=1, description="probability that a modality of an example is substituted")
    fresh_fusion: Fresh = Field(
        "auto", description=WHETHER.format("collapsed, or underused with an encoder that never learned")
    )
    warm_up: Warm = Field("auto", description=WARM)
    settle: bool = Field(True, description="train a newly initialised fusion before anything is inserted")
    drop: float = Field(0.1, ge=0, lt=1, description=f"{DROP} (settle)")
    finish: bool = Field(True, description="after substitution, train with every modality there")


@dataclass(frozen=True)
class Around:
    """What is added to the task's loss while heads are trained."""

    module: nn.Module | None = None  # trained along
    turn: Callable[[int], int | None] = lambda _: None  # of an epoch: 0 the added loss alone, 1 the task's, None both
    cycle: int = 1  # epochs after which turns begin anew
    of_latents: Callable[[list[Tensor], Step], Tensor | None] = lambda _, __: None  # with the task's loss
    against: Callable[[list[Tensor], Step], list[Tensor]] = lambda _, __: []  # the adversary's
    note: Callable[[], list[Result]] = list  # what is noted of it when it is trained


def train_heads(job: Job, method: str, options: HeadOptions, around: Callable[[], Around]) -> Iterator[Stage]:
    """Yield the stages: warm-up of encoders where it is due, a new fusion, the model with its heads, plain training.

    Args:
        job: the repair's job.
        method: its name, for messages.
        options: of the method.
        around: makes what is trained beside the task, once the heads are there.

    Yields:
        The stages; whose encoding stands in first for whose is noted before and after.

    Raises:
        ConfigError: where heads cannot stand behind the encoders.
    """
    job.adapter.need_encoders()
    new = describe_heads(job, method, options.latent)  # what cannot be is said before anything is trained
    renewed = begin_fresh(job, method, options.fresh_fusion, job.ignored)
    yield from warm_up(job, method, options.warm_up)
    if renewed and options.settle:
        yield new_fusion(job, "settling the fusion", job.trainable(), options.drop)
    torch.manual_seed(job.seed)
    job.adapter.insert(new)
    before = [at_first(result) for result in note_substitutes(job)]
    beside = around()
    yield _stage(job, options.substitution, beside)
    noted = beside.note()  # of what it was trained along with
    if options.finish and options.substitution:
        yield finishing(job, parameters_with_heads(job))
    job.findings.extend([*before, *note_substitutes(job), *noted])


def describe_heads(job: Job, method: str, latent: int | None) -> list[dict[str, Any]]:
    """Describe the heads to insert, a record each.

    Args:
        job: the repair's job.
        method: its name, for messages.
        latent: the width that was asked for; None: the widest encoder's.

    Returns:
        The records.

    Raises:
        ConfigError: where the latent space is too narrow, or another than the model has already.
    """
    widths, known = widths_of(job), known_heads(job)
    if known and latent not in (None, known[0]["latent"]):
        raise ConfigError(
            f"{method}.latent is {latent}, but the model has heads already, of {known[0]['latent']}: leave it out."
        )
    wide, layouts = latent or max(widths.values()), layouts_of(job)
    if wide < max(widths.values()):
        raise ConfigError(
            f"{method}.latent is {wide}, narrower than the widest encoder ({max(widths.values())} features), so that heads "
            "could not begin by changing nothing: leave it out, or raise it."
        )
    return [
        {
            "kind": "basis",
            "modality": m,
            "path": section.encoder,
            "part": section.select,
            "channels": layouts[m],
            "features": widths[m],
            "latent": wide,
            "hidden": 2 * wide,
        }
        for m, section in job.adapter.config.modalities.items()
    ]


def known_heads(job: Job) -> list[dict[str, Any]]:
    """List the records of the heads that the model has."""
    return [dict(r) for r in job.adapter.config.structure if r["kind"] == "basis"]


def parameters_with_heads(job: Job) -> list[nn.Parameter]:
    """List the model's parameters to train; what was inserted is trained, whatever is frozen."""
    own = [p for post in posts_of(job.adapter.model, "basis").values() for p in post.insert.parameters()]
    return list({id(p): p for p in (*job.trainable(), *own)}.values())


def _stage(job: Job, substitution: float, around: Around) -> Stage:
    model = job.adapter.model
    rates = torch.full((len(job.adapter.modalities),), substitution)

    def loss(step: Step) -> Tensor:
        turn = around.turn(step.epoch)
        with capture_latents(model) as heard:
            live = _run(job, job.batch(step.rows), rates)
            latents = [pooled_latent(job, m, heard[m], step.rows) for m in job.adapter.modalities]
        parts = []
        if turn != 0:
            parts.append(job.task_loss(live.outputs, step))
            aligned = around.of_latents(latents, step)
            parts += [] if aligned is None else [aligned]
        if turn != 1:
            parts += around.against(latents, step)
        return torch.stack(parts).sum()

    def held_loss() -> float:
        """Under the same substitution: with everything there, what this teaches does not show."""
        run = lambda batch: _run(job, batch, rates)  # noqa: E731
        draws = DRAWS if substitution else 1
        return sum(held_task_loss(job, lambda live: live.outputs, run) for _ in range(draws)) / draws

    beside = [] if around.module is None else [around.module]
    module = nn.ModuleList([model, *beside])
    parameters = [*parameters_with_heads(job), *(p for m in beside for p in m.parameters())]
    return Stage("basis reallocation", module, parameters, loss, held_loss, cycle=around.cycle)


def _run(job: Job, batch: Batch, rates: Tensor) -> TrainPass:
    """A run in which modalities are substituted at random, never all of an example."""
    if not bool(rates.any()):
        return job.adapter.run_live(batch)
    gone = to_device(drawn(rates, len(next(iter(batch.values())))), job.adapter.device)
    with substitute_missing(job.adapter.model, {m: gone[:, i] for i, m in enumerate(job.adapter.modalities)}):
        return job.adapter.run_live(batch)
