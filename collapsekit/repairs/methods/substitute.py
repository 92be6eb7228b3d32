"""substitute: heads h·h⁻¹ behind every encoder meet in one latent space, where one modality's encoding stands in for
another's now and then, so that each can be without."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.registry import repair_method
from collapsekit.repairs.ingredients.heads import BEHIND, Around, HeadOptions, train_heads
from collapsekit.repairs.training.job import Job, Stage


class SubstituteOptions(HeadOptions):
    """Training with modalities substituted."""


@repair_method(
    "substitute",
    summary="heads h·h⁻¹ behind every encoder, trained with one modality's encoding in another's place",
    definition=(
        f"{BEHIND} while, in one latent space common to all, encodings of other modalities stand in for a modality at "
        "random (`substitution`). The epoch of the least held-out loss, under the same substitution, is kept. Then "
        "plain fine-tuning, with every modality there (`finish`). Before all, encoders that never learned are trained alone "
        "(`warm_up`), and a new fusion (`settle`), with a modality of an example zeros now and then (`drop`). Nothing but "
        "substitution brings the encodings together."
    ),
    source="heads and substitution after Chaudhuri et al. 2025, section 4.4 and Appendix C.1; the training is ours",
    options=SubstituteOptions,
)
def substitute(job: Job) -> Iterator[Stage]:
    """Yield the stages: warm-up of encoders where it is due, a new fusion, the model with its heads, plain training."""
    yield from train_heads(job, "substitute", job.own(SubstituteOptions), Around)
