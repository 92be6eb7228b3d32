"""Which other example a modality is taken from."""

from __future__ import annotations

import torch
from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.errors import NumericsError
from collapsekit.features.features import Features
from collapsekit.stats.seeds import content_seeds


def donors(n: int, draws: int, seed: int) -> list[Tensor]:
    """``draws`` assignments of another example to each of n examples, each example lent once a draw."""
    if n < 2:
        raise NumericsError(f"taking a modality from another example needs at least 2 examples, found {n}: use more")
    shuffle = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    out = []
    for k in range(min(draws, n - 1)):
        other = torch.empty(n, dtype=torch.long)
        other[shuffle] = shuffle.roll(1 + k * (n - 1) // min(draws, n - 1))
        out.append(other)
    return out


def seeds(adapter: Adapter, features: Features, seed: int) -> dict[str, int]:
    """A seed a modality that follows its inputs' content (see ``content_seeds``).

    Of the inputs, since their bits do not depend on the batch size as those of features do; modalities that read the
    same inputs are told apart by the size of their features.
    """

    known = features.facts.content_seeds
    if seed not in known:
        contents = [[features.inputs[k] for k in adapter.input_keys(m)] for m in features.modalities]
        sizes = [float(features.pooled[m].double().square().sum()) for m in features.modalities]
        known[seed] = dict(zip(features.modalities, content_seeds(contents, sizes, seed), strict=True))
    return known[seed]
