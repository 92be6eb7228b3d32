"""Late fusion of the modalities that are present, by their linear readouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.features.features import Features
from collapsekit.games.balanced_reference import make_reference
from collapsekit.readouts.linear import UnimodalReadout


def fuse_late(
    adapter: Adapter, features: Features, readouts: Mapping[str, UnimodalReadout]
) -> Callable[[Tensor], Tensor]:
    """Make late fusion of the modalities that are present.

    Args:
        adapter: the model, for its task.
        features: n examples to diagnose.
        readouts: a linear readout of each modality.

    Returns:
        A function of ``absent``, bool (n, modalities), that gives expectations (n, ...): the prior, plus the evidence of the
        readouts of the modalities present, times one weight for each set of them, fitted on held-out examples.

    Raises:
        NumericsError: where the task has no prior.
    """
    whole = make_reference(adapter, features, dict(readouts), [])
    weights: dict[tuple[str, ...], float] = {}

    def expected(absent: Tensor) -> Tensor:
        natural = whole.prior.expand(len(features), -1).clone()
        patterns, which = absent.unique(dim=0, return_inverse=True)
        for k, pattern in enumerate(patterns.tolist()):
            present = tuple(m for m, gone in zip(features.modalities, pattern, strict=True) if not gone)
            if present not in weights:
                weights[present] = whole.weight_of(present)
            rows = (which == k).nonzero()[:, 0]
            evidence = torch.stack([whole.evidence[m][0][rows] for m in present]).sum(0)
            natural[rows] += weights[present] * evidence
        return adapter.task.from_natural(natural)

    return expected
