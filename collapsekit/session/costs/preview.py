"""Preview: a session before it is opened, and what each of its measurements would cost whoever asks for it first.

The first few examples tell how wide features are, what the model reads and which layer mixes; the rest is arithmetic. Each
method bears the name of what it is the cost of; as in a session, the second who asks pays nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from functools import cached_property

import torch

from collapsekit.errors import NumericsError
from collapsekit.readouts import synergy, unimodal
from collapsekit.readouts.fit import BATCH, steps_of
from collapsekit.readouts.linear import FitSplit
from collapsekit.readouts.poolings import EPOCHS, learns_query, ways_of
from collapsekit.readouts.raw import FAMILIES
from collapsekit.session.costs.cost import Cost
from collapsekit.session.costs.questions import FitSizes, QuestionCosts
from collapsekit.session.layouts import undecided_layouts

STOPS = "training stops early where the held-out loss no longer falls"
CACHED = "encoders that were trained before come from the cache"
UNITS = "data.group decides which examples are held out"
WEAK = "encoders are trained together only where a modality says next to nothing alone"
RAW = "readouts of raw inputs end where little is left to gain, and are kept for other models of the same inputs"
WEAK_RAW = "raw inputs are read together only where a modality says next to nothing alone"
ONE_WAY = "features that are pooled in one way only are read out once"
WON = "features pooled by a learned query are made again only where a readout does best with them"
SMALL = 32  # examples an encoder runs on, at most, to find out what is trained and under which name it is kept
REACHED = 4  # of these, to find out which weights are the encoder's


class Preview(QuestionCosts):
    """What the measurements of a session would cost, each once."""

    def opening(self) -> Cost:
        """Encode the diagnosed examples, and choose the layout of features where nothing says it."""
        undecided, cost = len(undecided_layouts(self.session)), Cost(passes=self.size + self.substitutes)
        if undecided:
            with suppress(NumericsError):  # none is chosen then
                cost += self.fit_split() + Cost(heads=undecided)
        return cost

    def prefixes(self) -> Cost:
        """Read out every modality's features linearly. Raises NumericsError where there is nothing to fit on."""
        heads = Cost(heads=len(self.modalities))
        return self.fit_split() + self.once("prefixes", lambda: heads + self._queries(self.modalities))

    def pooled_readouts(self) -> Cost:
        """Read out every modality's pooled features. Raises NumericsError where there is nothing to fit on."""
        if all(len(self._ways(m)) < 2 for m in self.modalities):
            return self.prefixes()  # the same
        heads = Cost(heads=len(self.modalities)).at_most(ONE_WAY)
        return self.fit_split() + self.once("pooled", lambda: heads)

    def _ways(self, modality: str) -> Collection[str]:
        """In which ways the features of a modality are pooled where the best is chosen."""
        rows = torch.arange(1)
        recorded = tuple(t.index_select(0, rows) for t in self.features.recorded[modality])
        inputs = {k: v.index_select(0, rows) for k, v in self.features.inputs.items()}
        return ways_of(self.adapter, modality, self.adapter.features_of(modality, recorded), inputs)

    def raw_readouts(self) -> Cost:
        """Read out every modality's raw inputs. Raises NumericsError where there is nothing to fit on."""
        most = Cost(heads=len(FAMILIES) * len(self.modalities)).at_most(RAW)
        own = Cost(heads=len(self.features.predictions))
        return self.fit_split() + self.once("raw", lambda: most + own)

    def references(self) -> Cost:
        """Find the strongest readout of every modality. Raises NumericsError where there is nothing to fit on."""
        return self.trained_alone() + self.prefixes() + self.raw_readouts()

    def balanced_reference(self) -> Cost:
        """Fit the balanced reference. Raises NumericsError where there is nothing to fit on."""
        return self.references() + self.synergy() + self.synergy_on_encoders() + self.synergy_on_raw()

    def _queries(self, modalities: Iterable[str]) -> Cost:
        """Learn queries over the positions of features."""
        at = self.fit_sizes
        count = sum(learns_query(self.adapter, self.features, m, at.train) for m in modalities)
        return Cost(heads=count) + Cost(steps=count * EPOCHS * steps_of(at.fit)).at_most(STOPS)

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

    def synergy_on_raw(self) -> Cost:
        """Fit the same on raw inputs."""
        epochs = synergy.recipe_for(self.fit_sizes.fit, 0.0, 0).epochs
        return self.once("raw synergy", lambda: self.fitted(len(synergy.RATES), epochs).at_most(WEAK_RAW))

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
        again = [m for m in seconds if m not in left_out and learns_query(self.adapter, self.features, m, at.train)]
        cost += Cost(encodings=len(again) * 2 * self._rows_read(at)).at_most(WON)
        return cost + Cost(heads=planned) + self._queries(again)

    def _rows_read(self, at: FitSizes) -> int:
        return sum(self.size_of(split) for split in {"train", at.held, self.features.split})
