"""ebr: explicit basis reallocation. Heads h·h⁻¹ behind every encoder meet in one latent space, where a loss brings the
modalities together and one modality's encoding may stand in for another's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor

from collapsekit.errors import ConfigError
from collapsekit.io.transfer import to_device
from collapsekit.registry import repair_method
from collapsekit.repairs.ingredients.adversary import Discriminator, note_discriminator
from collapsekit.repairs.ingredients.alignment import ALIGNMENTS, draw_together
from collapsekit.repairs.ingredients.heads import BEHIND, Around, HeadOptions, known_heads, train_heads
from collapsekit.repairs.training.job import Job, Stage, Step

PAPER: dict[str, Any] = {
    "alignment": "none",
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
PAPERS_TRAINING: dict[str, Any] = {
    "optimizer": "sgd",
    "rate": 0.01,
    "schedule": "paper",
    "epochs": 1200,
    "patience": 1200,
    "clip": None,
}
OF_THE_ADVERSARY = ("spectral_norm", "r1", "conditional")  # what keeps it from winning or losing within an epoch
HOW = {
    "infonce": "a contrast brings encodings of one class, or where there are no classes of one example, together across "
    "modalities (InfoNCE)",
    "coral": "means and covariances of the modalities' encodings are drawn together (CORAL)",
    "vicreg": "an example's encodings are drawn together, their dimensions spread out and apart (VICReg)",
}


class EbrOptions(HeadOptions):
    """Explicit basis reallocation."""

    preset: Literal["default", "paper"] = Field("default", description="what the other options are where none is given")
    alignment: Literal["infonce", "coral", "vicreg", "none"] = Field(
        "infonce", description="the loss that brings the modalities' encodings together"
    )
    alignment_weight: float | None = Field(
        None, gt=0, description="its weight; 1 for infonce and 0.1 for coral and vicreg where none is named"
    )
    adversary: float = Field(0.0, ge=0, description="weight of the modality discriminator")
    aim: Literal["reverse", "uniform"] = Field(
        "uniform", description="raise its loss, or lead it to answer all modalities alike"
    )
    interleave: int = Field(0, ge=0, description="epochs of the adversary, then of the task; 0: both at once")
    ramp: int = Field(10, ge=0, description="epochs over which the adversary's weight grows")
    normalize: bool = Field(True, description="what the discriminator is shown: each encoding normalised")
    spectral_norm: bool = Field(False, description="divide the discriminator's weights by their largest singular value")
    r1: float = Field(0.0, ge=0, description="weight of the penalty of the discriminator's slope (R1)")
    conditional: bool = Field(
        False, description="show the discriminator the outer product of encoding and class, as CDAN does"
    )
    align: float = Field(0.0, ge=0, description="weight of the distance between an example's encodings")

    def training_defaults(self) -> Mapping[str, Any]:
        """Give the paper's training with its preset: no clipping, no early stopping, the whole 1,200 epochs."""
        return PAPERS_TRAINING if self.preset == "paper" else {}

    @model_validator(mode="before")
    @classmethod
    def _of_the_preset(cls, given: Any) -> Any:
        return {**PAPER, **given} if isinstance(given, dict) and given.get("preset") == "paper" else given


def describe(options: EbrOptions) -> str:
    """Say what is trained under these options."""
    parts = ["encodings of other modalities stand in for a modality at random (`substitution`)"] * bool(
        options.substitution
    )
    if options.alignment != "none":
        parts.append(f"{HOW[options.alignment]} (`alignment`, weight {_weight(options):g})")
    if options.align:
        parts.append(f"the mean distance between an example's encodings is lowered (`align`, weight {options.align:g})")
    if options.adversary:
        turns = f"in turns of {options.interleave} epochs" if options.interleave else "at once"
        parts.append(
            f"a discriminator of modalities is learned and countered, {turns} (`adversary`, weight {options.adversary:g}, "
            f"aim {options.aim}{_steadied(options)})"
        )
    kept = "at the end of such turns, " * bool(options.adversary and options.interleave)
    kept += "under the same substitution, " * bool(options.substitution)
    sentences = [
        f"{BEHIND} while, in one latent space common to all, {'; '.join(parts)}.",
        f"The epoch of the least held-out loss, {kept}is kept."
        if kept
        else "The epoch of the least held-out loss is kept.",
    ]
    if options.finish and options.substitution:
        sentences.append("Then plain fine-tuning, with every modality there (`finish`).")
    if options.warm_up is not False:
        sentences.append("Before all, encoders that never learned are trained alone (`warm_up`).")
    if options.settle and options.fresh_fusion is not False:
        sentences.append("A new fusion is trained before the heads (`settle`), a modality zeros now and then (`drop`).")
    if options.preset == "paper":
        sentences.append(
            "Unless asked otherwise it is trained by SGD for 1,200 epochs, at a rate of 0.01 times 0.9 every 100 epochs, "
            "without clipping or early stopping."
        )
    return " ".join(sentences)


@repair_method(
    "ebr",
    summary="heads h·h⁻¹ behind every encoder and a loss that brings the modalities together in one latent space",
    definition=describe,
    source="Chaudhuri et al. 2025, sections 3.4 and 4.4 and Appendix C.1; alignment in the adversary's place is ours",
    options=EbrOptions,
)
def ebr(job: Job) -> Iterator[Stage]:
    """Yield the stages: warm-up of encoders where it is due, a new fusion, the model with its heads, plain training."""
    options = job.own(EbrOptions)
    for name in OF_THE_ADVERSARY:
        if getattr(options, name) and not options.adversary:
            raise ConfigError(
                f"ebr.{name} is about the adversary, whose weight ebr.adversary is 0: set one over 0, or leave {name} out."
            )
    if options.alignment == "none" and not options.adversary and not options.align:
        raise ConfigError(
            "ebr brings modalities together in the latent space, but alignment is none and the weights of adversary and "
            "align are 0: name one, or use the repair substitute."
        )
    yield from train_heads(job, "ebr", options, partial(_around, job, options))


def _steadied(options: EbrOptions) -> str:
    """Say what keeps the discriminator steady."""
    said = "; its weights divided by their largest singular value, `spectral_norm`" * options.spectral_norm
    said += f"; its slope penalised, `r1` {options.r1:g}" * bool(options.r1)
    return said + "; shown encodings of one class at a time, `conditional`" * options.conditional


def _around(job: Job, options: EbrOptions) -> Around:
    """What is trained beside the task, once the heads are there."""
    if not options.adversary:
        return Around(of_latents=_aligned(job, options))
    heads = known_heads(job)  # or an earlier repair's
    if options.conditional and not _has_classes(job):
        raise ConfigError(
            f"ebr.conditional is true, but task {job.adapter.task.name!r} has no single class of an example: leave it out."
        )
    discriminator = Discriminator(
        heads[0]["latent"],
        len(heads),
        normalize=options.normalize,
        spectral_norm=options.spectral_norm,
        r1=options.r1,
        classes=job.at.width if options.conditional else 0,
    )
    return _with_adversary(job, options, discriminator.to(job.adapter.device))


def _aligned(job: Job, options: EbrOptions) -> Callable[[list[Tensor], Step], Tensor | None]:
    """The loss of encodings that goes with the task's, or None where there is none."""
    named = ALIGNMENTS.get(options.alignment)

    def loss(latents: list[Tensor], step: Step) -> Tensor | None:
        total = None
        if named is not None:
            total = _weight(options) * named[0](latents, _classes(job, step, latents[0]))
        if options.align:
            near = options.align * draw_together(latents)
            total = near if total is None else total + near
        return total

    return loss


def _weight(options: EbrOptions) -> float:
    return ALIGNMENTS[options.alignment][1] if options.alignment_weight is None else options.alignment_weight


def _classes(job: Job, step: Step, like: Tensor) -> Tensor | None:
    """The classes of the rows, (n,), where the task has them."""
    return to_device(job.at.train.targets[step.rows], like.device) if _has_classes(job) else None


def _has_classes(job: Job) -> bool:
    targets = job.at.train.targets
    return targets.ndim == 1 and not targets.is_floating_point()


def _with_adversary(job: Job, options: EbrOptions, discriminator: Discriminator) -> Around:
    def weight(epoch: int) -> float:
        return options.adversary * min(1.0, epoch / options.ramp if options.ramp else 1.0)

    def against(latents: list[Tensor], step: Step) -> list[Tensor]:
        classes = _classes(job, step, latents[0]) if options.conditional else None
        own, countered = discriminator.losses(latents, options.aim, classes)
        return [own, weight(step.epoch) * countered]

    def turn(epoch: int) -> int | None:
        return (epoch - 1) // options.interleave % 2 if options.interleave else None

    cycle = max(1, 2 * options.interleave)
    note = partial(note_discriminator, job, discriminator)
    return Around(discriminator, turn, cycle, _aligned(job, options), against, note)
