"""Measurements of the session, for what is told a model and its features instead of the session itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.context import Progress, Settings
from collapsekit.features.features import Features
from collapsekit.games.coalitions import CoalitionGame
from collapsekit.readouts.calibration import Calibration
from collapsekit.readouts.linear import UnimodalReadout
from collapsekit.readouts.synergy import Synergy
from collapsekit.readouts.unimodal import Baselines, Plan
from collapsekit.session.session import Session


def calibration(adapter: Adapter, features: Features) -> Calibration | None:
    """See ``Session.calibration``."""
    return Session.of(adapter, features).calibration


def multimodal_prefix(adapter: Adapter, features: Features, modality: str) -> UnimodalReadout:
    """Ask the session for the prefix of a modality.

    Args:
        adapter: the model.
        features: the examples.
        modality: whose.

    Returns:
        See ``Session.prefix``.
    """
    return Session.of(adapter, features).prefix(modality)


def baselines(adapter: Adapter, features: Features, plan: Plan, settings: Settings) -> Baselines:
    """Ask the session for encoders trained alone.

    Args:
        adapter: the model.
        features: the examples.
        plan: how.
        settings: seed, progress and cache.

    Returns:
        See ``Session.baselines``.
    """
    return Session.of(adapter, features, settings).baselines(plan)


def on_recorded(adapter: Adapter, features: Features, offset: Mapping[str, Tensor], settings: Settings) -> Synergy:
    """Ask the session for what modalities say together.

    Args:
        adapter: the model.
        features: the examples.
        offset: natural parameters by split, (n, C).
        settings: the seed.

    Returns:
        See ``Session.synergy``.
    """
    return Session.of(adapter, features, settings).synergy(offset)


def late_fusion(adapter: Adapter, features: Features) -> Callable[[Tensor], Tensor]:
    """Late fusion of prefixes, of ``absent`` (n, modalities); see ``Session.late_fusion``."""
    return Session.of(adapter, features).late_fusion()


def make_game(adapter: Adapter, features: Features, draws: int, seed: int, progress: Progress) -> CoalitionGame:
    """Ask the session for the model's coalitions.

    Args:
        adapter: the model.
        features: the examples.
        draws: other examples an absent modality is taken from.
        seed: of the draws.
        progress: told of each coalition.

    Returns:
        See ``Session.game_of``.
    """
    known = Session.of(adapter, features)
    return Session.of(adapter, features, replace(known.settings, seed=seed, progress=progress)).game_of(draws)
