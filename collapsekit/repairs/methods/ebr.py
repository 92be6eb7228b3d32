"""ebr: explicit basis reallocation. Heads h·h⁻¹ behind every encoder meet in one latent space, where an adversary must
not tell the modalities apart and one modality's encoding may stand in for another's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.adapters.base import TrainPass
from collapsekit.adapters.inserts import capture_latents, posts_of, substitute_missing
from collapsekit.context import Options
from collapsekit.data.base import Batch
from collapsekit.errors import ConfigError
from collapsekit.registry import repair_method
from collapsekit.repairs.methods._channels import layouts_of, widths_of
from collapsekit.repairs.methods._masking import DROP, drawn, new_fusion
from collapsekit.repairs.methods._reinit import WHETHER, Fresh, begin_fresh
from collapsekit.repairs.methods._substitution import latent_vectors, note_substitutes, pooled_latent
from collapsekit.repairs.methods._warm_up import WARM, Warm, warm_up
from collapsekit.repairs.training.job import Job, Stage, Step, finishing, held_task_loss
from collapsekit.report.diagnosis import Result

DRAWS = 4  # of what is substituted in the held-out examples; the same in every epoch
PAPER: dict[str, Any] = {
    "substitution": 0.0,
    "adversary": 1.0,
    "aim": "reverse",
    "interleave": 10,
    "ramp": 0,
    "normalize": False,
    "align": 0.0,
    "fresh_fusion": False,
    "warm_up": False,
    "settle": False,
    "drop": 0.0,
    "finish": False,
}


class EbrOptions(Options):
    """Explicit basis reallocation."""

    preset: Literal["default", "paper"] = Field("default", description="what the other options are where none is given")
    latent: int | None = Field(
        None, ge=1, description="width of the latent space; the widest encoder's where none is named"
    )
    substitution: float = Field(0.5, ge=0, lt=1, description="probability that a modality of an example is substituted")
    adversary: float = Field(0.0, ge=0, description="weight of the modality discriminator")
    aim: Literal["reverse", "uniform"] = Field(
        "uniform", description="raise its loss, or lead it to answer all modalities alike"
    )
    interleave: int = Field(0, ge=0, description="epochs of the adversary, then of the task; 0: both at once")
    ramp: int = Field(10, ge=0, description="epochs over which the adversary's weight grows")
    normalize: bool = Field(True, description="what the discriminator is shown: each encoding normalised")
    align: float = Field(0.0, ge=0, description="weight of the distance between an example's encodings")
    fresh_fusion: Fresh = Field(
        "auto", description=WHETHER.format("collapsed, or underused with an encoder that never learned")
    )
    warm_up: Warm = Field("auto", description=WARM)
    settle: bool = Field(True, description="train a newly initialised fusion before anything is inserted")
    drop: float = Field(0.1, ge=0, lt=1, description=f"{DROP} (settle)")
    finish: bool = Field(True, description="after substitution, train with every modality there")

    @model_validator(mode="before")
    @classmethod
    def _of_the_preset(cls, given: Any) -> Any:
        return {**PAPER, **given} if isinstance(given, dict) and given.get("preset") == "paper" else given


@repair_method(
    "ebr",
    summary="heads h·h⁻¹ that bring all encoders into one latent space, where one modality can stand in for another",
    definition=(
        "Behind every encoder two-layer perceptrons h and h⁻¹ that change nothing at first; the whole model is trained on "
        "the task's loss while, in a latent space common to all, encodings of other modalities stand in for a modality at "
        "random (`substitution`) and a discriminator of modalities is learned and countered (`adversary`). The epoch of the "
        "least held-out loss, under the same substitution, is kept. Then plain fine-tuning, with every modality there "
        "(`finish`). Before all, encoders that never learned are trained alone (`warm_up`), and a new fusion "
        "(`settle`), with a modality of an example zeros now and then (`drop`)."
    ),
    source="Chaudhuri et al. 2025, sections 3.4 and 4.4 and Appendix C.1",
    options=EbrOptions,
)
def ebr(job: Job) -> Iterator[Stage]:
    """Yield the stages: warm-up of encoders where it is due, a new fusion, the model with its heads, plain training."""
    options = job.own(EbrOptions)
    job.adapter.need_encoders()
    new = heads(job, options)  # what cannot be is said before anything is trained
    renewed = begin_fresh(job, "ebr", options.fresh_fusion, job.ignored)
    yield from warm_up(job, "ebr", options.warm_up)
    if renewed and options.settle:
        yield new_fusion(job, "settling the fusion", job.trainable(), options.drop)
    torch.manual_seed(job.seed)
    job.adapter.insert(new)
    made = _known(job)  # or an earlier repair's
    note_substitutes(job)
    discriminator = Discriminator(made[0]["latent"], len(made), normalize=options.normalize)
    yield _stage(job, options, discriminator.to(job.adapter.device))
    told = _told_apart(job, discriminator) if options.adversary else []  # of what it was trained along with
    if options.finish and options.substitution:
        yield finishing(job, _parameters(job))
    job.findings.extend([*note_substitutes(job), *told])


def heads(job: Job, options: EbrOptions) -> list[dict[str, Any]]:
    """Describe the heads to insert, a record each.

    Raises ConfigError where the latent space is too narrow, or another than the model has already.
    """
    widths = widths_of(job)
    known = _known(job)
    if known and options.latent not in (None, known[0]["latent"]):
        raise ConfigError(
            f"ebr.latent is {options.latent}, but the model has heads already, of {known[0]['latent']}: leave it out."
        )
    latent, layouts = options.latent or max(widths.values()), layouts_of(job)
    if latent < max(widths.values()):
        raise ConfigError(
            f"ebr.latent is {latent}, narrower than the widest encoder ({max(widths.values())} features), so that heads "
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
            "latent": latent,
            "hidden": 2 * latent,
        }
        for m, section in job.adapter.config.modalities.items()
    ]


def _known(job: Job) -> list[dict[str, Any]]:
    """The records of the heads that the model has."""
    return [dict(r) for r in job.adapter.config.structure if r["kind"] == "basis"]


class Discriminator(nn.Module):
    """ψ: which modality an encoding is of. Two hidden layers, as wide as the latent space and half of that."""

    def __init__(self, latent: int, modalities: int, *, normalize: bool) -> None:
        super().__init__()
        first = nn.LayerNorm(latent, elementwise_affine=False) if normalize else nn.Identity()
        half = max(2, latent // 2)
        self.layers = nn.Sequential(
            first, nn.Linear(latent, latent), nn.ReLU(), nn.Linear(latent, half), nn.ReLU(), nn.Linear(half, modalities)
        )

    def losses(self, latents: list[Tensor], aim: str) -> tuple[Tensor, Tensor]:
        """Compute both losses, scalars in nats, mean over examples, summed over modalities.

        The first is L_md, which ψ lowers (its inputs fixed); the second is what the encoders lower (ψ fixed).
        ``latents``: a list of (n, latent), one a modality; ``aim``: reverse (minus the first), else how far ψ's answer
        is from uniform.
        """
        labels = torch.cat([torch.full((len(g),), i, device=g.device) for i, g in enumerate(latents)])
        both, m = torch.cat(latents).float(), len(latents)
        own = m * F.cross_entropy(self.layers(both.detach()), labels)
        fixed = {k: v.detach() for k, v in self.named_parameters(prefix="layers")}
        fixed = {k.removeprefix("layers.layers."): v for k, v in fixed.items()}
        seen = torch.func.functional_call(self.layers, fixed, (both,)).log_softmax(1)
        if aim == "reverse":
            return own, -m * F.nll_loss(seen, labels)
        return own, m * (-seen.mean(1).mean() - math.log(m))


def _stage(job: Job, options: EbrOptions, discriminator: Discriminator) -> Stage:
    model = job.adapter.model
    rates = torch.full((len(job.adapter.modalities),), options.substitution)
    # Without an adversary there is nothing to take turns with.
    alternate = options.interleave if options.adversary else 0

    def weight(epoch: int) -> float:
        return options.adversary * min(1.0, epoch / options.ramp if options.ramp else 1.0)

    def loss(step: Step) -> Tensor:
        turn = (step.epoch - 1) // alternate % 2 if alternate else None  # 0: adversary, 1: task
        with capture_latents(model) as heard:
            live = _run(job, job.batch(step.rows), rates)
            latents = [pooled_latent(job, m, heard[m], step.rows) for m in job.adapter.modalities]
        parts = []
        if turn != 0:
            parts.append(job.task_loss(live.outputs, step))
            if options.align:
                parts.append(options.align * _apart(latents))
        if options.adversary and turn != 1:
            own, against = discriminator.losses(latents, options.aim)
            parts += [own, weight(step.epoch) * against]
        return torch.stack(parts).sum()

    def held() -> float:
        """Under the same substitution: with everything there, what this teaches does not show."""
        run = lambda batch: _run(job, batch, rates)  # noqa: E731
        draws = DRAWS if options.substitution else 1
        return sum(held_task_loss(job, lambda live: live.outputs, run) for _ in range(draws)) / draws

    module = nn.ModuleList([model, discriminator])
    parameters = [*_parameters(job), *(discriminator.parameters() if options.adversary else [])]
    return Stage("basis reallocation", module, parameters, loss, held, cycle=max(1, 2 * alternate))


def _parameters(job: Job) -> list[nn.Parameter]:
    """Of the model; what was inserted is trained, whatever is frozen."""
    own = [p for post in posts_of(job.adapter.model, "basis").values() for p in post.insert.parameters()]
    return list({id(p): p for p in (*job.trainable(), *own)}.values())


def _told_apart(job: Job, discriminator: Discriminator) -> list[Result]:
    """How well ψ still tells the modalities apart: its cross-entropy and entropy on the training examples."""
    latents, m = latent_vectors(job), len(job.adapter.modalities)
    with torch.no_grad():
        seen = [
            discriminator.layers(g.float().to(job.adapter.device)).cpu().double().log_softmax(1)
            for g in latents.values()
        ]
    loss = sum(-float(s[:, i].mean()) for i, s in enumerate(seen)) / m
    entropy = sum(-float((s.exp() * s).sum(1).mean()) for s in seen) / m
    what = "of the modality discriminator trained along, mean over modalities and training examples"
    source = "after Chaudhuri et al. 2025, section 3.4 (L_md)"
    note = f"ln {m} = {math.log(m):.3f} would be no telling apart; more than that is confident error"
    return [
        Result(
            name=f"ebr.{name}",
            probe="ebr",
            value=value,
            unit="nats",
            definition=f"{text} {what}",
            source=source,
            note=note,
        )
        for name, text, value in (
            ("discriminator_loss", "cross-entropy", loss),
            ("discriminator_entropy", "entropy", entropy),
        )
    ]


def _run(job: Job, batch: Batch, rates: Tensor) -> TrainPass:
    """A run in which modalities are substituted at random, never all of an example."""
    if not bool(rates.any()):
        return job.adapter.run_live(batch)
    gone = drawn(rates, len(next(iter(batch.values()))))
    with substitute_missing(job.adapter.model, {m: gone[:, i] for i, m in enumerate(job.adapter.modalities)}):
        return job.adapter.run_live(batch)


def _apart(latents: list[Tensor]) -> Tensor:
    """Mean of 1 - cosine between each encoding and the mean of an example's."""
    unit = [F.normalize(g.float(), dim=1) for g in latents]
    centre = F.normalize(torch.stack(unit).mean(0), dim=1).detach()
    return torch.stack([(1 - (u * centre).sum(1)).mean() for u in unit]).mean()
