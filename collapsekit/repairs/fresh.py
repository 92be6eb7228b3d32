"""A newly initialised fusion in the place of one that learned to ignore."""

from __future__ import annotations

import torch

from collapsekit.errors import ConfigError
from collapsekit.repairs.stage import Job


def need_factory(job: Job, method: str) -> None:
    """Raises ConfigError where the model cannot be built afresh."""
    if job.adapter.config.model.factory is None:
        raise ConfigError(
            f"{method} trains a fusion built anew, for which the config needs model.factory: give it, or --set "
            f"{method}.fresh_fusion=false."
        )


def renew_fusion(job: Job, method: str) -> None:
    """Put newly initialised weights in the place of all that is no encoder's. Raises ConfigError where the model cannot
    be built afresh."""
    need_factory(job, method)
    twin = job.adapter.fresh(job.seed)
    assert twin is not None  # there is a factory
    encoders = {
        id(t) for m in job.adapter.modalities for t in job.adapter.encoder_module(m).state_dict(keep_vars=True).values()
    }
    new = twin.model.state_dict()
    with torch.no_grad():
        for name, value in job.adapter.model.state_dict(keep_vars=True).items():
            if id(value) not in encoders:
                value.copy_(new[name])
