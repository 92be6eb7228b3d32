"""A newly initialised fusion in the place of one that learned to ignore."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import torch

from collapsekit.errors import ConfigError
from collapsekit.repairs.training.job import Job

Fresh = bool | Literal["auto"]
WHETHER = (
    "train a newly initialised fusion and head, not those that learned to ignore; auto: where the diagnosis found a "
    "modality to repair {}"
)


def begin_fresh(job: Job, method: str, wanted: Fresh, neglected: tuple[str, ...]) -> bool:
    """Renew the fusion where that is wanted.

    Args:
        job: The repair's job.
        method: The method's name, for messages.
        wanted: Whether it is wanted; "auto": where a modality is neglected, the model can be built afresh, and it is to
            change whole.
        neglected: The modalities to repair that the model neglects.

    Returns:
        Whether it was renewed.

    Raises:
        ConfigError: Where it is wanted and cannot be.
    """
    if wanted == "auto":
        wanted = bool(neglected) and not job.training.freeze and job.adapter.config.model.factory is not None
    if wanted:
        renew_fusion(job, method)
    return wanted


def need_factory(job: Job, method: str) -> None:
    """Raise ConfigError where the model cannot be built afresh."""
    if job.adapter.config.model.factory is None:
        raise ConfigError(
            f"{method} trains a fusion built anew, for which the config needs model.factory: give it, or --set "
            f"{method}.fresh_fusion=false."
        )


def renew_fusion(job: Job, method: str) -> None:
    """Put newly initialised weights in the place of all that is no encoder's and not frozen. Raises ConfigError where the
    model cannot be built afresh."""
    need_factory(job, method)
    twin = job.adapter.fresh(job.seed)
    assert twin is not None  # there is a factory
    stay = [*(job.adapter.encoder_module(m) for m in job.adapter.modalities), *job.frozen()]
    kept = {id(tensor) for module in stay for tensor in module.state_dict(keep_vars=True).values()}
    new = twin.model.state_dict()
    with torch.no_grad():
        for name, value in job.adapter.model.state_dict(keep_vars=True).items():
            if id(value) not in kept:
                value.copy_(new[name])


def renew_encoder(job: Job, modality: str) -> None:
    """Put newly initialised weights in the place of an encoder's, where the model can be built afresh; those that it shares
    with the rest of the model stay."""
    twin = job.adapter.fresh(job.seed)
    if twin is None:
        return
    own = job.adapter.encoder_module(modality).state_dict(keep_vars=True)
    here, everywhere = (Counter(map(id, s.values())) for s in (own, job.adapter.model.state_dict(keep_vars=True)))
    new = twin.encoder_module(modality).state_dict()
    with torch.no_grad():
        for name, value in own.items():
            if here[id(value)] == everywhere[id(value)]:
                value.copy_(new[name])
