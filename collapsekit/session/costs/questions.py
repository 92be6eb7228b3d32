"""What what-if questions about a model would cost, and what else is asked of its recordings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.features.features import Features
from collapsekit.games.coalitions import KEPT, GameOptions, answer_bytes, count_draws, draws_for, moves_whole
from collapsekit.games.enough import count_asked, may_stop_early
from collapsekit.games.seed_noise import count_seed_noise
from collapsekit.interventions.edits import TRIED, unread_inputs
from collapsekit.interventions.imputation import has_split
from collapsekit.interventions.marginal import shifts
from collapsekit.interventions.replay import by_row, count_compared
from collapsekit.readouts.linear import need_enough, need_train
from collapsekit.session.costs.cost import Cost
from collapsekit.session.costs.first_look import READ, FirstLook

ENOUGH = "fewer other examples are taken where more would not move a share of the credit"


@dataclass(frozen=True)
class FitSizes:
    """How many examples readouts are fitted on, and by how many of which split they are chosen."""

    train: int  # all of train
    fit: int
    held: str  # the split
    choose: int


class QuestionCosts(FirstLook):
    """What the measurements of a session cost that ask the model, each once."""

    def encoded(self, split: str) -> Cost:
        """Encode a split that is read beside the diagnosed one."""
        if split == self.features.split:
            return Cost()
        return self.once((READ, split), lambda: Cost(passes=self.size_of(split) + self.substitutes))

    @property
    def substitutes(self) -> int:
        """How many examples are run to record what stands for absent modalities."""
        return sum(stand.count for stand in self.features.substitutes.values())

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
        chosen = self.draws_chosen
        if chosen and split == self.features.split:
            each = count_asked(self.size, len(turns), whole=whole)
        questions, cost = 0, self.calibration() if calibrated else Cost()
        for mask in masks:
            key = (split, len(turns), min(mask, full & ~mask) if whole else mask)
            known = {("value", *key), ("sure", *key)} if calibrated else {("value", *key)}
            if known <= self._counted:
                continue
            self._counted |= known
            number = each if whole else count_draws(features, full & ~mask, each)
            number = 0 if mask == full or (whole and not mask) else number
            questions += number if self._asks_anew(key, number, features, again=not calibrated) else 0
        found = self.replayed(questions, split, together=True)
        return cost + (found.at_most(ENOUGH) if chosen else found)

    @cached_property
    def draws_chosen(self) -> bool:
        """Whether it shows only while the model is asked how many other examples are enough."""
        wanted = self.options_of("reliance", GameOptions).draws
        sets = self.adapter.task.expects_sets
        return wanted == "enough" and may_stop_early(self.features, self.size, self.draws, sets=sets)

    def _asks_anew(self, key: tuple[str, int, int], number: int, features: Features, *, again: bool) -> bool:
        """Whether a game lacks this number of answers from before; with ``again`` it keeps them, if there is room."""
        if ("kept", *key) in self._counted:
            self._counted.discard(("kept", *key))
            return False
        size, split = answer_bytes(features, self.size_of(key[0]), number), key[:2]
        if again and size <= self._rooms.setdefault(split, KEPT):
            self._rooms[split] -= size
            self._counted.add(("kept", *key))
        return True

    def seed_noise(self) -> Cost:
        """Measure what seeds do to answers of a model that samples."""
        return self.replayed(count_seed_noise(self.adapter))

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
