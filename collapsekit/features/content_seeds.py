"""A seed for each modality that follows what its inputs hold, not what it is called or where it stands."""

from __future__ import annotations

from collapsekit.adapters.base import Adapter
from collapsekit.features.features import Features
from collapsekit.stats.seeds import content_seeds


def modality_seeds(adapter: Adapter, features: Features, seed: int) -> dict[str, int]:
    """Make a seed for each modality that follows its inputs' content (see ``content_seeds``).

    Of the inputs, since their bits do not depend on the batch size as those of features do; modalities that read the
    same inputs are told apart by the size of their features.

    Args:
        adapter: the model, which knows which inputs are whose.
        features: the examples.
        seed: the seed of the diagnosis.

    Returns:
        A seed by modality.
    """
    known = features.facts.content_seeds
    if seed not in known:
        contents = [[features.inputs[k] for k in adapter.input_keys(m)] for m in features.modalities]
        sizes = [float(features.pooled[m].double().square().sum()) for m in features.modalities]
        known[seed] = dict(zip(features.modalities, content_seeds(contents, sizes, seed), strict=True))
    return known[seed]
