"""Readouts of each modality, of its encoder, of encoders trained alone and of raw inputs, and which is the strongest."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.context import Progress
from collapsekit.features.features import Features
from collapsekit.readouts.choosing import ChosenReadout, FeatureSet, choose_features
from collapsekit.readouts.linear import FitSplit
from collapsekit.readouts.poolings import recorded_sets
from collapsekit.readouts.raw import ReadoutOptions, fit_families
from collapsekit.readouts.strength import (
    ASKED_ALONE,
    AT_INPUT,
    MODEL_ALONE,
    OWN_ENCODER,
    PREDICTIONS,
    TRAINED_ALONE,
    ReferenceStrength,
    TriedReadout,
    weigh_readouts,
)
from collapsekit.readouts.unimodal import Baselines, Plan

READOUTS = "strongest readouts"  # what is counted of them


@dataclass(frozen=True)
class ReferencePlan:
    """What is tried beside the checkpoint's own encoder."""

    training: Plan | None  # of encoders alone; None: none is trained
    options: ReadoutOptions


class ModalityReadouts:
    """What was fitted on some examples, as training examples of others, and what was read out of them."""

    def __init__(self, adapter: Adapter, features: Features, seed: int, progress: Progress | None = None) -> None:
        self.adapter, self.features, self.seed = adapter, features, seed
        self.progress = progress or Progress()
        self._fitted: dict[tuple[str, str, bool], ChosenReadout] = {}
        self._prefixes: dict[str, TriedReadout] = {}
        self._references: dict[tuple[str, ReferencePlan], ReferenceStrength] = {}

    def fitted(self, modality: str, at: FitSplit, *, pooled: bool = False) -> ChosenReadout:
        """Fit the readout of the checkpoint's own encoder, which nothing of the diagnosed examples is in, once.

        Args:
            modality: whose encoder.
            at: the examples to fit on.
            pooled: read features as the adapter pools them only.

        Returns:
            The readout.
        """
        key = modality, at.held.split, pooled
        if key not in self._fitted:
            sets = recorded_sets(self.adapter, at, modality, self.seed)
            self._fitted[key] = choose_features(self.adapter.task, at, sets[:1] if pooled else sets)
            if len(sets) == 1:  # either way it is the same
                self._fitted[modality, at.held.split, not pooled] = self._fitted[key]
        return self._fitted[key]

    def alike(self, modality: str, at: FitSplit) -> bool:
        """Tell whether inputs and features of a modality have one shape in all splits that are read."""
        keys = [k for k in self.adapter.input_keys(modality) if k in at.train.inputs]
        shapes = [
            [f.inputs[k].shape[1:] for k in keys] + [t.shape[1:] for t in f.recorded[modality]]
            for f in (at.train, at.held, self.features)
        ]
        return all(shape == shapes[0] for shape in shapes)

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
            chosen = train.fitted(modality, at, pooled=not self.alike(modality, at))
            readout = chosen.read(self.adapter.task, self.features)
            family = AT_INPUT if modality in self.adapter.at_input else OWN_ENCODER
            self._prefixes[modality] = TriedReadout(family, readout, f"{family}: {chosen.described}")
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
            self._tell(how)
            task, encoders = self.adapter.task, [self.prefix(modality, at, train)]
            why = "profile quick trains no encoders" if baselines is None else baselines.why_not(modality)
            if baselines is not None and modality in baselines.trained:
                family = MODEL_ALONE if modality in self.adapter.at_input else TRAINED_ALONE
                read = f"{family} ({baselines.described[modality]}): {baselines.read[modality]}"
                encoders.append(TriedReadout(family, baselines.trained[modality], read))
            if (
                asked := self._read(ASKED_ALONE, modality, at)
            ) is not None:  # through the checkpoint, as encoders are read
                encoders.append(asked)
            families = (
                fit_families(self.adapter, at, modality, self.seed, how.options) if self.alike(modality, at) else {}
            )
            raw = [
                TriedReadout(family, chosen.read(task, self.features), f"{family}: {chosen.described}")
                for family, chosen in families.items()
            ]
            if raw and self._has_nothing_to_train(modality):
                why = None
            if (own := self._read(PREDICTIONS, modality, at)) is not None:
                raw.append(own)
            self._references[modality, how] = weigh_readouts(task, at, encoders, raw, why)
            self._tell(how)
        return self._references[modality, how]

    def _tell(self, how: ReferencePlan) -> None:
        done = sum(plan == how for _, plan in self._references)
        self.progress.step(READOUTS, done, len(self.features.modalities))

    def _read(self, family: str, modality: str, at: FitSplit) -> TriedReadout | None:
        """The readout of what the user's own model of the modality predicts, or of what the model itself answers to it
        alone, by the family; None where nobody did."""

        def of(features: Features) -> Tensor | None:
            return (features.predictions if family == PREDICTIONS else features.alone).get(modality)

        def flat(features: Features) -> Tensor:
            values = of(features)
            assert values is not None
            return values.reshape(len(features), -1).float()

        if of(self.features) is None:
            return None
        chosen = choose_features(self.adapter.task, at, [FeatureSet("read out linearly", flat)])
        return TriedReadout(family, chosen.read(self.adapter.task, self.features), f"{family}: {chosen.described}")

    def _has_nothing_to_train(self, modality: str) -> bool:
        """Whether a module without weights stands for the encoder, so that what it reads can be read out as well."""
        path = self.adapter.config.modalities[modality].encoder
        if path is None or path.endswith(":input"):
            return False  # parts of the fusion read it, which may be encoders
        return not any(True for _ in self.adapter.encoder_module(modality).parameters())
