"""Preview: a session before it is opened, and what each of its measurements would cost whoever asks for it first.

The first few examples tell how wide features are, what the model reads and which layer mixes; the rest is arithmetic. Each
method bears the name of what it is the cost of; as in a session, the second who asks pays nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.features.features import Features
from collapsekit.games.coalitions import GameOptions, draws_for, moves_whole
from collapsekit.interventions.edits import TRIED, unread_inputs
from collapsekit.interventions.imputation import has_split
from collapsekit.interventions.marginal import shifts
from collapsekit.interventions.replay import by_row, count_compared
from collapsekit.readouts import synergy, unimodal
from collapsekit.readouts.fit import BATCH, steps_of
from collapsekit.readouts.linear import FitSplit, need_enough, need_train
from collapsekit.session.cost import Cost
from collapsekit.session.first_look import READ, FirstLook

STOPS = "training stops early where the held-out loss no longer falls"
CACHED = "encoders that were trained before come from the cache"
UNITS = "data.group decides which examples are held out"
WEAK = "encoders are trained together only where a modality says next to nothing alone"
SMALL = 32  # examples an encoder runs on, at most, to find out what is trained and under which name it is kept
REACHED = 4  # of these, to find out which weights are the encoder's


@dataclass(frozen=True)
class FitSizes:
    """How many examples readouts are fitted on, and by how many of which split they are chosen."""

    train: int  # all of train
    fit: int
    held: str  # the split
    choose: int


class Preview(FirstLook):
    """What the measurements of a session would cost, each once."""

    def encoded(self, split: str) -> Cost:
        """Encode a split that is read beside the diagnosed one."""
        if split == self.features.split:
            return Cost()
        return self.once((READ, split), lambda: Cost(passes=self.size_of(split)))

    # ---- what-if questions

    def replayed(
        self, questions: int, split: str | None = None, *, together: bool = False, part: int | None = None
    ) -> Cost:
        """Ask what-if questions, each about all examples.

        Args:
            questions: how many.
            split: about whose examples; None: the diagnosed ones.
            together: as ``predict_many`` asks them, not ``predict``.
            part: how many of the examples, where they are picked from the split by ``Features.taken``.

        Returns:
            The cost; of the first such questions also that of finding out what a replay reads.
        """
        if not questions:
            return Cost()
        split = split or self.features.split
        features, n = self.features.of(split), self.size_of(split) if part is None else part
        cost = self.once(("inputs", split, part), lambda: self._tried(features, n))
        if together:
            cost += self.once(("rows", split, part), lambda: self._compared(features, n))
        return cost + Cost(replays=questions * n)

    def inputs_tried(self) -> Cost:
        """Find out which raw inputs are read past the encoders."""
        return self.once(("inputs", self.features.split, None), lambda: self._tried(self.features, self.size))

    def _compared(self, features: Features, n: int) -> Cost:
        by_row(self.adapter, features)
        return Cost(replays=2 * count_compared(features, n))

    def _tried(self, features: Features, n: int) -> Cost:
        unread_inputs(self.adapter, features)
        return Cost(replays=features.facts.tried * min(TRIED, n))

    # ---- the game of coalitions

    def coalitions(self, masks: Iterable[int], *, calibrated: bool = False, split: str | None = None) -> Cost:
        """Value coalitions.

        Args:
            masks: which, as bitmasks.
            calibrated: of the calibrated model too.
            split: on whose examples; None: the diagnosed ones.

        Returns:
            The cost of those that were not valued before.
        """
        split = split or self.features.split
        features, full = self.features.of(split), (1 << len(self.modalities)) - 1
        turns = shifts(self.size_of(split), self.draws)
        paired = sum(self.size_of(split) - turn in turns for turn in turns)
        whole = bool(paired) and moves_whole(self.adapter, features)
        each = 2 * len(turns) - paired if whole else len(turns)
        questions, cost = 0, self.calibration() if calibrated else Cost()
        for mask in masks:
            key = (split, len(turns), min(mask, full & ~mask) if whole else mask)
            known = {("value", *key), ("sure", *key)} if calibrated else {("value", *key)}
            if known <= self._counted:
                continue
            self._counted |= known
            questions += 0 if mask == full or (whole and not mask) else each
        return cost + self.replayed(questions, split, together=True)

    @property
    def draws(self) -> int:
        """How many other examples an absent modality is taken from."""
        wanted = draws_for(self.adapter, self.features, self.options_of("reliance", GameOptions).draws)
        return len(shifts(self.size, wanted))

    @property
    def full(self) -> int:
        """The coalition of all modalities, as a bitmask."""
        return (1 << len(self.modalities)) - 1

    @property
    def without_one(self) -> list[int]:
        """The coalitions that lack one modality."""
        return [self.full & ~(1 << i) for i in range(len(self.modalities))]

    @cached_property
    def shapley_masks(self) -> tuple[int, ...]:
        """The coalitions that Shapley credit asks for: all, or those that the sampled orders meet."""
        met: list[int] = []

        def note(mask: int) -> Tensor:
            met.append(mask)
            return torch.zeros(1)

        self.session.shapley_values(note)
        return tuple(met)

    def calibration(self) -> Cost:
        """Calibrate the model."""
        try:
            return self.fit_split()
        except NumericsError:  # it is then used as it is
            return Cost()

    # ---- readouts

    @property
    def fit_sizes(self) -> FitSizes:
        """What readouts are fitted on and chosen by. Raises NumericsError where there is nothing."""
        split, task = self.features.split, self.adapter.task
        need_train(self.adapter, split)
        train, n = self.features.of("train"), self.size_of("train")
        need_enough("train", n)
        task.prior(train.targets, task.expect(self.features.outputs[:1])[0].numel())  # raises where it knows none
        if split != "val" and has_split(self.adapter, "val"):
            need_enough("val", self.size_of("val"))
            return FitSizes(n, n, "val", self.size_of("val"))
        if train.units is not None:
            return FitSizes(n, n, "train", n)  # bounds of both
        return FitSizes(n, n - -(-n // 5), "train", -(-n // 5))

    def fit_split(self) -> Cost:
        """Encode what readouts are fitted on and chosen by. Raises NumericsError where there is nothing."""
        need_train(self.adapter, self.features.split)
        cost = self.encoded("train")
        return cost + self.encoded(self.fit_sizes.held)

    def prefixes(self) -> Cost:
        """Read out every modality's features linearly. Raises NumericsError where there is nothing to fit on."""
        return self.fit_split() + self.once("prefixes", lambda: Cost(heads=len(self.modalities)))

    def fitted(self, count: int, epochs: int) -> Cost:
        """Fit networks on recorded features.

        Args:
            count: how many.
            epochs: at most so many, each.

        Returns:
            The cost. Raises NumericsError where there is nothing to fit on.
        """
        at = self.fit_sizes
        return self.fit_split() + Cost(heads=count) + Cost(steps=count * epochs * steps_of(at.fit)).at_most(STOPS)

    def synergy(self) -> Cost:
        """Fit a network for what modalities say together, under each learning rate, on recorded features."""
        epochs = synergy.recipe_for(self.fit_sizes.fit, 0.0, 0).epochs
        return self.once("synergy", lambda: self.fitted(len(synergy.RATES), epochs))

    # ---- encoders that are trained

    def trained_alone(self) -> Cost:
        """Train every modality's encoder by itself. Raises NumericsError where there is nothing to fit on."""
        plan = self.session.plan
        return Cost() if plan is None else self.fit_split() + self.once("alone", lambda: self._alone(plan))

    def synergy_on_encoders(self) -> Cost:
        """Fit a network for what modalities say together on encoders that are trained along."""
        plan = self.session.plan
        if plan is None:
            return Cost()
        at, reckoned, count = self.fit_sizes, self.epoch_seconds, len(self.modalities)
        cost = Cost(encodings=count * (REACHED + BATCH))
        epochs = synergy.recipe_for(at.fit, 0.0, 0).epochs
        allowed = all(why is None for why, _ in reckoned.values())
        if allowed and sum(seconds for _, seconds in reckoned.values()) * epochs <= plan.budget:
            rows = SMALL + epochs * (at.fit + at.choose) + self._rows_read(at)
            cost += Cost(encodings=count * rows, heads=1, encoders=count, encoder_steps=epochs * steps_of(at.fit))
        return cost.at_most(WEAK).at_most(STOPS)

    @cached_property
    def epoch_seconds(self) -> dict[str, tuple[str | None, float]]:
        """What an epoch of training each encoder is reckoned at, or why it cannot be trained."""
        plan, at = self.session.plan, self.fit_sizes
        assert plan is not None
        train = self.features.of("train")
        few = FitSplit(train, torch.arange(at.fit), train, torch.arange(0), 1)
        start = unimodal.starting_point(self.adapter, plan)
        return {m: unimodal.reckoned(self.adapter, few, m, start, self.seed) for m in self.modalities}

    def _alone(self, plan: unimodal.Plan) -> Cost:
        at, reckoned = self.fit_sizes, self.epoch_seconds
        seconds = {m: cost for m, (why, cost) in reckoned.items() if why is None}
        rates, epochs, left_out = unimodal.fit_budget(seconds, plan)
        planned, runs = len(seconds) - len(left_out), (len(seconds) - len(left_out)) * len(rates)
        each = SMALL + epochs * (at.fit + at.choose)
        rows = planned * (SMALL + self._rows_read(at)) + runs * each
        steps = runs * epochs * steps_of(at.fit)
        rows += len(reckoned) * (REACHED + BATCH)
        cost = Cost(encodings=rows, encoders=runs, encoder_steps=steps).at_most(STOPS).at_most(CACHED)
        return cost + Cost(heads=planned)

    def _rows_read(self, at: FitSizes) -> int:
        return sum(self.size_of(split) for split in {"train", at.held, self.features.split})
