"""Session: one model on the examples to diagnose, and whatever is measured of them once for all probes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.context import Kind, Options, Profile, Progress, Settings
from collapsekit.features.features import Features
from collapsekit.games.balanced_reference import make_reference
from collapsekit.games.coalitions import CoalitionGame, GameOptions, KeptAnswers, draws_for, shapley_values
from collapsekit.games.enough import find_draws
from collapsekit.games.fitted_reference import FittedReference, add_joint
from collapsekit.games.late_fusion import fuse_late
from collapsekit.games.pairs import PairedReference, make_paired_reference
from collapsekit.readouts.calibration import Calibration, fit_calibration
from collapsekit.readouts.choosing import ChosenReadout
from collapsekit.readouts.linear import FitSplit, UnimodalReadout, make_split
from collapsekit.readouts.raw import ReadoutOptions
from collapsekit.readouts.strength import ReferenceStrength
from collapsekit.readouts.synergy import JointReadouts
from collapsekit.readouts.unimodal import Baselines, Plan, UnimodalOptions, train_baselines
from collapsekit.session.readouts import ModalityReadouts, ReferencePlan
from collapsekit.tasks.base import Task

LEVEL = 0.95


class Session:
    """A model (``adapter``), the examples to diagnose (``features``), and under what it is asked. What several probes need
    is measured when the first one asks for it, and then kept."""

    def __init__(
        self,
        adapter: Adapter,
        features: Features,
        *,
        options: Mapping[str, Options] | None = None,
        seed: int = 0,
        level: float = LEVEL,
        profile: Profile = "standard",
        progress: Progress | None = None,
        cache: Path | None = None,
    ) -> None:
        """``options``: of every probe, by name; ``cache``: where trained baselines are kept (None: nowhere)."""
        self.adapter, self.features = adapter, features
        self.options: Mapping[str, Options] = options or {}
        self.seed, self.level, self.profile, self.cache = seed, level, profile, cache
        self.progress = progress or Progress()
        self._unimodal = ModalityReadouts(adapter, features, seed, self.progress)
        self._baselines: dict[Plan, Baselines] = {}
        self.games: dict[int, CoalitionGame] = {}
        self._kept = KeptAnswers()
        self._balanced: dict[tuple[ReferencePlan, int], FittedReference] = {}  # and how many draws
        self._joint = JointReadouts(adapter, features, seed, self.progress)
        features.facts.session = self

    @classmethod
    def of(cls, adapter: Adapter, features: Features, settings: Settings | None = None) -> Session:
        """Find the session that measures on these features, or begin one.

        Args:
            adapter: the model.
            features: the examples.
            settings: under which it has to be; None: whichever there is.

        Returns:
            The session.
        """
        known = features.facts.session
        wanted = settings or Settings()
        if isinstance(known, Session) and (settings is None or _shares(known, settings)):
            return known if settings is None else _beside(known, settings)
        return cls(
            adapter,
            features,
            options=wanted.others,
            seed=wanted.seed,
            level=wanted.level,
            profile=wanted.profile,
            progress=wanted.progress,
            cache=wanted.cache,
        )

    def on(self, features: Features) -> Session:
        """Find the session of the same model on other examples, such as those readouts are fitted on."""
        return self if features is self.features else Session.of(self.adapter, features, self.settings)

    @property
    def settings(self) -> Settings:
        """Under what each probe runs."""
        return Settings(
            seed=self.seed,
            level=self.level,
            profile=self.profile,
            progress=self.progress,
            cache=self.cache,
            others=self.options,
        )

    def settings_of(self, probe: str) -> Settings:
        """Make what a probe is given that takes settings instead of the session: its own options among them."""
        return replace(self.settings, options=self.options.get(probe, Options()))

    def options_of(self, probe: str, kind: type[Kind]) -> Kind:
        """Give the options that are set under a probe's name, as ``kind``: the type it registered or a base of that."""
        return self.settings.of(probe, kind)

    @property
    def task(self) -> Task:
        """What the model is trained for."""
        return self.adapter.task

    @property
    def modalities(self) -> tuple[str, ...]:
        """The model's modalities, in the order of results."""
        return self.features.modalities

    # ---- what readouts are fitted and chosen on

    @property
    def fit_split(self) -> FitSplit:
        """Training and choosing examples. Raises NumericsError where there are none."""
        return make_split(self.adapter, self.features)

    @cached_property
    def calibration(self) -> Calibration | None:
        """By which the model is as sure as it is right; None where there is nothing to fit it on."""
        return fit_calibration(self.adapter, self.features)

    # ---- readouts of one modality

    def prefix(self, modality: str) -> UnimodalReadout:
        """Linear evaluation of a modality's features as multimodal training left them ("multimodal prefix")."""
        at = self.fit_split
        return self._unimodal.prefix(modality, at, self.on(at.train)._unimodal).readout

    def pooled_readout(self, modality: str) -> ChosenReadout:
        """Fit the linear readout of a modality's features as all probes read them, ``Features.pooled``."""
        at = self.fit_split
        return self.on(at.train)._unimodal.fitted(modality, at, pooled=True)

    def reference(self, modality: str) -> ReferenceStrength:
        """Choose the readout that what is due to a modality is read from, and say how strong it is beside all others."""
        if self.task.embeddings > 1:
            return self.pairs.strengths[modality]
        at = self.fit_split
        how = ReferencePlan(self.plan, self.options_of("utilisation", ReadoutOptions))
        return self._unimodal.reference(modality, at, self.on(at.train)._unimodal, self.trained_alone, how)

    @property
    def prefixes(self) -> dict[str, UnimodalReadout]:
        """The prefix of every modality."""
        return {m: self.prefix(m) for m in self.features.modalities}

    @property
    def plan(self) -> Plan | None:
        """How encoders are trained alone; None in the quick profile, which trains none."""
        if self.profile == "quick":
            return None
        options = self.options_of("prefix_gap", UnimodalOptions)
        budget = math.inf if self.profile == "full" else options.budget
        return Plan(options.start, options.rates, options.epochs, budget)

    @property
    def trained_alone(self) -> Baselines | None:
        """Every modality's encoder trained by itself, as far as the budget goes; None in the quick profile."""
        return None if (plan := self.plan) is None else self.baselines(plan)

    def baselines(self, plan: Plan) -> Baselines:
        """Train every modality's encoder by itself under this plan."""
        if plan not in self._baselines:
            self._baselines[plan] = train_baselines(
                self.adapter, self.features, plan, self.seed, progress=self.progress, cache=self.cache
            )
        return self._baselines[plan]

    # ---- what modalities say together

    def late_fusion(self) -> Callable[[Tensor], Tensor]:
        """Late fusion of the prefixes of the modalities that are present, of ``absent`` (n, modalities)."""
        return fuse_late(self.adapter, self.features, self.prefixes)

    @cached_property
    def pairs(self) -> PairedReference:
        """The balanced reference of a task that compares two embeddings."""
        return make_paired_reference(self.adapter, self.features, self.fit_split, self.game.donors, self.seed)

    @property
    def balanced_reference(self) -> FittedReference:
        """The balanced reference: what a model would do that used every modality for what it is worth."""
        if self.task.embeddings > 1:
            return FittedReference(self.pairs.summed, self.pairs.summed, None)
        how, donors = ReferencePlan(self.plan, self.options_of("utilisation", ReadoutOptions)), self.game.donors
        key = how, len(donors)
        if key not in self._balanced:
            at, readouts = self.fit_split, {m: self.reference(m).used.readout for m in self.modalities}
            summed = make_reference(self.adapter, self.features, readouts, donors)
            raw = all(self._unimodal.alike(m, at) for m in self.modalities)
            train = self.on(at.train)._joint
            self._balanced[key] = add_joint(summed, self._joint, train, how.training, raw=raw)
        return self._balanced[key]

    # ---- the game of coalitions

    @property
    def game(self) -> CoalitionGame:
        """The model's coalitions, under the draws that the options ask for."""
        wanted = self.options_of("reliance", GameOptions).draws
        return self.game_of(find_draws(draws_for(self.adapter, self.features, wanted), wanted, self.game_of))

    @property
    def permutations(self) -> int:
        """Orders that are sampled where Shapley credit is not exact."""
        return self.options_of("reliance", GameOptions).permutations

    def shapley_values(self, worth: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
        """Compute the Shapley credit (modalities, ...) of ``worth``, of a coalition's bitmask, and its standard error."""
        return shapley_values(worth, len(self.modalities), self.permutations, self.seed)

    def game_of(self, draws: int) -> CoalitionGame:
        """Make the model's coalitions over so many draws of other examples, once."""
        if draws not in self.games:
            how = self.options_of("reliance", GameOptions)
            self.games[draws] = CoalitionGame(
                self.adapter, self.features, draws, self.seed, self.progress, lambda: self.calibration, self._kept, how
            )
        return self.games[draws]


def _shares(session: Session, settings: Settings) -> bool:
    """Whether what the session measures is what would be measured under these settings."""
    return (session.seed, session.cache) == (settings.seed, settings.cache)


def _beside(session: Session, settings: Settings) -> Session:
    """The session, or one beside it that shares whatever is measured, where these settings read it otherwise."""
    session.progress = settings.progress
    wanted = settings.others, settings.level, settings.profile
    if wanted == (session.options, session.level, session.profile):
        return session
    beside = copy.copy(session)
    beside.options, beside.level, beside.profile = wanted
    return beside
