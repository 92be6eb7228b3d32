"""Where features hold their channels, chosen once on held-out examples before any probe reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from collapsekit.adapters.base import Adapter
from collapsekit.adapters.pooling import pool_ways
from collapsekit.errors import NumericsError
from collapsekit.features.summing import find_undecided
from collapsekit.readouts.choosing import FeatureSet, choose_features
from collapsekit.readouts.linear import FitSplit
from collapsekit.readouts.poolings import ROWS, reader
from collapsekit.session.session import Session

Layout = Literal["first", "last"]


def settle_layouts(session: Session) -> dict[str, Layout]:
    """Choose on held-out examples where features hold their channels, where neither config nor layers say so.

    The adapter pools by that from here on, and what was pooled already is pooled anew.

    Returns what was chosen by modality; nothing where there is nothing to choose by.
    """
    adapter, features, undecided = session.adapter, session.features, undecided_layouts(session)
    if not undecided:
        return {}
    try:
        at = session.fit_split
        chosen = {m: _layout_chosen(adapter, at, m, shape) for m, shape in undecided.items()}
    except NumericsError:  # nothing to fit on, or a task without a readout
        return {}
    sections = {
        m: section.model_copy(update={"channels": chosen[m]}) if m in chosen else section
        for m, section in adapter.config.modalities.items()
    }
    adapter.config = adapter.config.model_copy(update={"modalities": sections})
    for f in {id(f): f for f in (features, *features.read.values())}.values():
        for m in chosen:
            x = adapter.features_of(m, f.recorded[m])
            parts = torch.arange(len(f)).split(ROWS)
            pooled = [adapter.pool(m, x[rows], {k: v[rows] for k, v in f.inputs.items()}) for rows in parts]
            f.pooled[m] = torch.cat([part.float() for part in pooled])
    return chosen


def undecided_layouts(session: Session) -> dict[str, torch.Size]:
    """Find the features whose layout neither config nor layers say, and that the adapter pools: their shapes by modality."""
    return find_undecided(session.adapter, session.features.recorded)


def _layout_chosen(adapter: Adapter, at: FitSplit, modality: str, shape: Sequence[int]) -> Layout:
    """The layout whose mean or maximum over positions a linear readout does best with."""
    ways = {name: way for name, way in pool_ways(shape).items() if way[0] in ("mean", "max")}
    found = choose_features(adapter.task, at, [FeatureSet(k, reader(adapter, modality, w)) for k, w in ways.items()])
    layout = ways[found.features.described][1]
    assert layout is not None
    return layout
