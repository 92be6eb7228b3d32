"""Readouts of each modality, of its encoder, of encoders trained alone and of raw inputs, and which is the strongest."""

from __future__ import annotations

from dataclasses import dataclass

from collapsekit.adapters.base import Adapter
from collapsekit.features.features import Features
from collapsekit.readouts.choosing import ChosenReadout, choose_features
from collapsekit.readouts.linear import FitSplit
from collapsekit.readouts.poolings import recorded_sets
from collapsekit.readouts.raw import ReadoutOptions, fit_families
from collapsekit.readouts.strength import OWN_ENCODER, TRAINED_ALONE, ReferenceStrength, TriedReadout, weigh_readouts
from collapsekit.readouts.unimodal import Baselines, Plan


@dataclass(frozen=True)
class ReferencePlan:
    """What is tried beside the checkpoint's own encoder."""

    training: Plan | None  # of encoders alone; None: none is trained
    options: ReadoutOptions


class ModalityReadouts:
    """What was fitted on some examples, as training examples of others, and what was read out of them."""

    def __init__(self, adapter: Adapter, features: Features, seed: int) -> None:
        self.adapter, self.features, self.seed = adapter, features, seed
        self._fitted: dict[tuple[str, str], ChosenReadout] = {}
        self._prefixes: dict[str, TriedReadout] = {}
        self._references: dict[tuple[str, ReferencePlan], ReferenceStrength] = {}

    def fitted(self, modality: str, at: FitSplit) -> ChosenReadout:
        """Fit the readout of the checkpoint's own encoder, which nothing of the diagnosed examples is in, once."""
        key = modality, at.held.split
        if key not in self._fitted:
            sets = recorded_sets(self.adapter, at, modality, self.seed)
            self._fitted[key] = choose_features(self.adapter.task, at, sets)
        return self._fitted[key]

    def prefix(self, modality: str, at: FitSplit, train: ModalityReadouts) -> TriedReadout:
        """Read these examples out of the checkpoint's own encoder.

        Args:
            modality: whose encoder.
            at: the examples to fit on.
            train: of the training examples.

        Returns:
            The readout, and what it reads.
        """
        if modality not in self._prefixes:
            chosen = train.fitted(modality, at)
            readout = chosen.read(self.adapter.task, self.features)
            self._prefixes[modality] = TriedReadout(OWN_ENCODER, readout, f"{OWN_ENCODER}: {chosen.described}")
        return self._prefixes[modality]

    def reference(
        self, modality: str, at: FitSplit, train: ModalityReadouts, baselines: Baselines | None, how: ReferencePlan
    ) -> ReferenceStrength:
        """Choose the readout that what is due to a modality is read from.

        Args:
            modality: whose.
            at: the examples to fit on.
            train: of the training examples.
            baselines: the encoders trained alone; None: none are in this profile.
            how: these were trained, and raw inputs are read out.

        Returns:
            The readout, and how strong it is beside all others.
        """
        if (modality, how) not in self._references:
            task, encoders = self.adapter.task, [self.prefix(modality, at, train)]
            why = "profile quick trains no encoders" if baselines is None else baselines.why_not(modality)
            if baselines is not None and modality in baselines.trained:
                read = f"{TRAINED_ALONE} ({baselines.described[modality]}): {baselines.read[modality]}"
                encoders.append(TriedReadout(TRAINED_ALONE, baselines.trained[modality], read))
            raw = [
                TriedReadout(family, chosen.read(task, self.features), f"{family}: {chosen.described}")
                for family, chosen in fit_families(self.adapter, at, modality, self.seed, how.options).items()
            ]
            if raw and self._has_nothing_to_train(modality):
                why = None
            self._references[modality, how] = weigh_readouts(task, at, encoders, raw, why)
        return self._references[modality, how]

    def _has_nothing_to_train(self, modality: str) -> bool:
        """Whether a module without weights stands for the encoder, so that what it reads can be read out as well."""
        path = self.adapter.config.modalities[modality].encoder
        if path is None or path.endswith(":input"):
            return False  # parts of the fusion read it, which may be encoders
        return not any(True for _ in self.adapter.encoder_module(modality).parameters())
