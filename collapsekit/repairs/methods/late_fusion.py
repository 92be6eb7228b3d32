"""late_fusion: nothing is trained. A readout of each modality is put beside its encoder, and its evidence is added to the
model's output with weights fitted on held-out examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from collapsekit.adapters.inserts import LateReadout, WithEvidence, posts_of
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.context import Options
from collapsekit.errors import ConfigError
from collapsekit.readouts.calibration import fitted_weights
from collapsekit.registry import repair_method
from collapsekit.repairs.ingredients.exported_readouts import ExportedReadout, Passed, best_readout, pass_through
from collapsekit.repairs.training.job import Job, Stage
from collapsekit.report.diagnosis import Result
from collapsekit.tasks.probabilities import PROBABILITIES

TASKS = ("classification", "multilabel", "regression")
MOST = (20.0, 5.0)  # weight of the model's own evidence, and of a readout's
SOURCE = "Wolpert 1992 (stacked generalisation), weights not below 0 as in Breiman 1996"


class LateFusionOptions(Options):
    """Readouts added to the output."""

    readouts: Literal["weak", "all"] = Field("all", description="of the modalities to repair, or of every one")


def _define(options: LateFusionOptions) -> str:
    whose = "every modality" if options.readouts == "all" else "each modality to repair"
    return (
        f"Beside the encoder of {whose} stands a linear readout: of its pooled features, of the numbers that enter it, or "
        "of fixed random features of these, whichever the diagnosis took or does best on held-out examples. What the model "
        "answers becomes prior + a·(model - prior) + Σ b·(readout - prior), in log-probabilities, logits or values; a and "
        "each b, 0 at least, minimise the loss on held-out examples. No weight of the model changes."
    )


@repair_method(
    "late_fusion",
    summary="adds a readout of each modality to the model's output; nothing is trained",
    definition=_define,
    source=SOURCE,
    options=LateFusionOptions,
)
def late_fusion(job: Job) -> Iterator[Stage]:
    """Yield one stage, in which weights are fitted at once; what is read out was drawn and fitted before."""
    options, adapter = job.own(LateFusionOptions), job.adapter
    _check(job)
    names = adapter.modalities if options.readouts == "all" else job.weak
    seen = pass_through(job, names)
    task, at = adapter.task, seen.at
    prior = task.to_natural(task.prior(at.targets, at.width))
    readouts = {m: best_readout(job, m, seen, single=_is_single(job)) for m in names}
    adapter.insert([_record(job, m, readout) for m, readout in readouts.items()])
    own = _evidence_of_model(job, seen, prior)
    parts = {m: task.to_natural(r.held) - prior for m, r in readouts.items()}
    placed = {m: _put(job, m, readout, prior) for m, readout in readouts.items()}
    weights = _Weights()

    def fit() -> None:
        most = [MOST[0], *[MOST[1]] * len(parts)]
        weights.keep, *shares = fitted_weights(task, prior, [own, *parts.values()], at.held_targets, most)
        weights.shares = dict(zip(parts, shares, strict=True))
        _set(job, weights, prior, placed)

    yield Stage(
        "adding readouts",
        adapter.model,
        [],
        loss=lambda step: job.task_loss(job.run(step).outputs, step),
        held=job.held_loss,
        fit=fit,
    )
    job.findings.extend(_notes(placed, readouts))


@dataclass
class _Weights:
    """Of the model's own evidence, and of each readout's."""

    keep: float = 1.0
    shares: Mapping[str, float] | None = None


def _check(job: Job) -> None:
    """Raises ConfigError where readouts cannot be added to what the model returns."""
    adapter, config = job.adapter, job.adapter.config
    if adapter.task.name not in TASKS:
        raise ConfigError(
            f"late_fusion adds up log-probabilities, logits or values, and task {adapter.task.name!r} has none of these: it "
            f"works for {', '.join(TASKS[:-1])} and {TASKS[-1]}."
        )
    if not isinstance(adapter, ModuleAdapter):
        raise ConfigError(
            f"late_fusion adds to what the model's own forward returns, which adapter {config.adapter!r} need not run: take "
            "another repair, or describe the model by submodule paths."
        )
    if isinstance(config.output, list | tuple):
        raise ConfigError(
            f"late_fusion adds to one tensor of what the model returns, and `output` names {len(config.output)}: take "
            "another repair."
        )
    if getattr(adapter.task, "outputs", None) == PROBABILITIES:
        raise ConfigError(
            "late_fusion adds evidence to logits, and the model returns probabilities: let it return logits, or take "
            "another repair."
        )
    adapter.need_encoders()
    if config.structure:
        raise ConfigError(
            "late_fusion puts readouts beside encoders as they are, and this model has heads or exchanged channels behind "
            "them: repair the model from before that."
        )
    columns, width = job.at.held.outputs[:1].numel(), job.at.width
    if columns != width and not _is_single(job):
        raise ConfigError(
            f"late_fusion needs an output of {width} numbers an example to add evidence to, found {columns}: take another "
            "repair."
        )


def _is_single(job: Job) -> bool:
    """Whether one logit tells two classes apart."""
    return job.adapter.task.name == "classification" and job.at.held.outputs[:1].numel() == 1


def _record(job: Job, modality: str, readout: ExportedReadout) -> dict[str, object]:
    section = job.adapter.config.modalities[modality]
    return {
        "kind": "late",
        "modality": modality,
        "path": section.encoder,
        **readout.record,
        "output": job.adapter.config.output,
    }


def _evidence_of_model(job: Job, seen: Passed, prior: Tensor) -> Tensor:
    """What the model says over the prior (v, C), of the held-out examples."""
    task = job.adapter.task
    return task.to_natural(task.expect(seen.outputs)) - prior


def _columns(natural: Tensor, *, single: bool) -> Tensor:
    """Natural values (..., C) as the model's output has them: of one logit, the second class's over the first's."""
    return natural[..., 1:] - natural[..., :1] if single else natural


def _put(job: Job, modality: str, readout: ExportedReadout, prior: Tensor) -> LateReadout:
    """Fill the readout that stands in the model with what was drawn and fitted."""
    both = posts_of(job.adapter.model, "late")[modality].encoder
    assert isinstance(both, WithEvidence)
    placed, linear = both.readout, readout.linear
    single = _is_single(job)
    with torch.no_grad():
        for name, value in readout.drawn.items():
            placed.get_buffer(name).copy_(value)
        placed.mean.copy_(linear.mean)
        placed.weight.copy_(_columns(linear.weight / linear.scale[:, None], single=single))
        placed.bias.copy_(_columns(linear.bias, single=single))
        placed.prior.copy_(_columns(prior[0], single=single))
    return placed


def _set(job: Job, weights: _Weights, prior: Tensor, placed: Mapping[str, LateReadout]) -> None:
    """Write the fitted weights into the model."""
    assert weights.shares is not None
    first = next(iter(posts_of(job.adapter.model, "late").values())).insert
    with torch.no_grad():
        first.get_buffer("keep").fill_(weights.keep)
        first.get_buffer("offset").copy_((1 - weights.keep) * _columns(prior[0], single=_is_single(job)))
        for m, readout in placed.items():
            readout.share.fill_(weights.shares[m])


def _notes(placed: Mapping[str, LateReadout], readouts: Mapping[str, ExportedReadout]) -> Iterator[Result]:
    """Note what was read out of each modality, and with what weight it was added."""
    for m, readout in placed.items():
        yield Result(
            name="late_fusion.weight",
            probe="late_fusion",
            modality=m,
            value=float(readout.share),
            definition="weight of the modality's readout, over the prior, in the sum that the model answers with; fitted on "
            "held-out examples, 0 at least",
            source=SOURCE,
            note=readouts[m].described,
        )
