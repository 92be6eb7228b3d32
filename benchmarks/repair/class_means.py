"""Class means in the place of absent modalities, a baseline of Table 6 (Chaudhuri et al. 2025): of the class that the
modalities present tell, as the true class is not known where a model is used."""

from __future__ import annotations

import torch

from collapsekit.adapters.base import Adapter
from collapsekit.features.extraction import extract
from collapsekit.interventions.replay import predict
from collapsekit.probes.robustness.missing import absent_sets
from collapsekit.session.opening import build_adapter
from collapsekit.session.session import Session


def class_means(adapter: Adapter, split: str) -> float:
    """Mean accuracy over every set of absent modalities, each set to its mean over training examples of the class that
    linear readouts of the others predict."""
    live = build_adapter(
        adapter.config, None, model=adapter.model, source=adapter.source
    )  # without the checkpoint, whose weights it had
    features = extract(live, split)
    train, late = features.of("train"), Session.of(live, features).late_fusion()
    names, total = features.modalities, 0.0
    sets = absent_sets(len(names))
    for gone in sets:
        absent = torch.tensor([[i in gone for i in range(len(names))]]).expand(len(features), -1)
        guess = late(absent).argmax(1)
        recorded = dict(features.recorded)
        for i in gone:
            recorded[names[i]] = tuple(
                torch.stack([t[train.targets == c].mean(0) for c in range(int(train.targets.max()) + 1)])[guess]
                for t in train.recorded[names[i]]
            )
        expected = adapter.task.expect(predict(live, features.changed(recorded)).outputs)
        total += float(adapter.task.metric(expected, features.targets))
    return total / len(sets)
