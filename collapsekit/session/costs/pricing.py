"""Seconds of what is counted: by one timed batch of each kind, and by size from a small one that was timed.

The latter are linear readouts, scores and statistics. How they grow was measured on the demo and on planted subjects, and
holds to a factor (``python -m benchmarks.reckoned``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace

from collapsekit.errors import CollapsekitError, ConfigError, NumericsError
from collapsekit.games.coalitions import SUBSETS
from collapsekit.readouts.choosing import NUMBERS, SCREENED
from collapsekit.readouts.fit import steps_of
from collapsekit.readouts.raw import BANDWIDTHS, FOURIER, KERNELS, SUMS
from collapsekit.readouts.synergy import NETWORKS, recipe_for
from collapsekit.readouts.unimodal import ALONE
from collapsekit.registry import ProbeSpec
from collapsekit.session.costs.cost import COUNTS, Cost
from collapsekit.session.costs.preview import Preview
from collapsekit.session.costs.timing import evaluation
from collapsekit.session.readouts import READOUTS
from collapsekit.session.session import Session
from collapsekit.user_code.frames import one_line
from collapsekit.user_code.process_state import user_code

EARLY = 0.7  # of a count that is only bounded from above, what is usually run: training stops early
# Epochs after which networks over modalities are usually at their best, then come those of patience: their bound, of more
# epochs on fewer examples, says little. Seen on planted subjects: 2 to 13 of 4,000 examples, 1 to 3 of 1,200.
LEARNED = 4
# A linear readout tries all penalties, of which the larger were timed; to the last digit it takes more evaluations, and
# where sets of features are only compared, fewer. Seen on the demo and on planted subjects, to a factor of two.
GRID, PRECISE, COMPARED = 1.6, 2.0, 0.65
UNTRIED = 100.0  # evaluations of the penalties that would be timed, where none can be
# Optimiser steps that take as long as what a modality adds beside another, which is averaged over other examples.
SHARED = 25.0
DISTANCE = 4e-8  # seconds of a distance between two examples in one modality, and of what is done with it
KINDS = 2  # in which a coalition is scored where the model is calibrated: as it is, and calibrated
CONVOLVED = 2 * KERNELS  # features of random convolutions
SMALLEST = 0.05  # seconds of a probe that costs nothing else
PER_SQUARE = 2e-10  # seconds that statistics take beyond, for an example and the square of the widest features
ON_FEATURES = frozenset({"prefixes", "pooled", "alone"})  # measurements that fit readouts of what encoders give
PARTS = {"alone": ALONE, "raw": READOUTS, "synergy": NETWORKS, "raw synergy": NETWORKS}  # by what is told of them


@dataclass(frozen=True)
class PricedPart:
    """What is counted, and what is reckoned beside it, in units that are timed."""

    cost: Cost
    readouts: float = 0.0  # linear readouts, in evaluations as they are reckoned
    steps: float = 0.0  # beside those counted; below 0: not expected to be run though they are counted
    averaged: float = 0.0  # examples whose answers are averaged as those of replays are
    scored: float = 0.0  # examples that are scored, once a score
    scored_draws: float = 0.0  # the same of means over draws, which are also scored without each group that was drawn
    compared: float = 0.0  # distances between two examples in one modality

    def __add__(self, other: PricedPart) -> PricedPart:
        """Add up two parts."""
        return self._joined(other, 1, self.cost + other.cost)

    def without(self, other: PricedPart) -> PricedPart:
        """Leave out what is reckoned beside the counts of another part."""
        return self._joined(other, -1, self.cost)

    def _joined(self, other: PricedPart, sign: int, cost: Cost) -> PricedPart:
        beside = [f.name for f in fields(self) if f.name != "cost"]
        return PricedPart(cost, **{name: getattr(self, name) + sign * getattr(other, name) for name in beside})

    def seconds(self, units: Mapping[str, float]) -> float:
        """Reckon it, by seconds of one unit of each kind."""
        counted = seconds_of(self.cost, units) + self.steps * units.get("steps", 0.0)
        beside = {"replays": self.averaged, "scores": self.scored, "draw_scores": self.scored_draws}
        scored = sum(units.get(name, 0.0) * count for name, count in beside.items())
        readouts = self.readouts * units.get("readouts", UNTRIED)
        return max(0.0, counted) + scored + readouts + self.compared * DISTANCE


class PricedPreview(Preview):
    """A preview that also reckons what is not counted, linear readouts and scores, and keeps apart what is told of by
    itself while it runs."""

    def __init__(self, session: Session, count: Callable[[str], int]) -> None:
        super().__init__(session, count)
        self.beside = PricedPart(Cost())  # what is reckoned beside the counts, until now
        self.parts = dict[str, PricedPart]()  # by what is told

    @property
    def statistics(self) -> float:
        """Seconds of a probe that runs and fits nothing."""
        widest = max(x.shape[1] for x in self.features.pooled.values())
        return SMALLEST + PER_SQUARE * self.size * widest**2

    def once(self, name: object, cost: Callable[[], Cost]) -> Cost:
        before = self.beside
        found = super().once(name, cost)
        if name in ON_FEATURES:
            widths = [x.shape[1] for x in self.features.pooled.values()]
            self.reckon(readouts=found.heads * PRECISE * self._readout(sum(widths) / len(widths)))
        elif name == "raw" and found.heads:
            self.reckon(readouts=sum(self._raw_readouts(m) for m in self.modalities))
        elif PARTS.get(str(name)) == NETWORKS and found.heads:
            fit = self.fit_sizes.fit
            epochs = min(recipe_for(fit, 0.0, 0).patience + LEARNED, recipe_for(fit, 0.0, 0).epochs)
            self.reckon(steps=found.heads * epochs * steps_of(fit) - EARLY * found.steps)
        if name in PARTS:
            self._keep(PARTS[str(name)], replace(self.beside.without(before), cost=found))
        return found

    def balanced_reference(self) -> Cost:
        found = super().balanced_reference()
        if "valued reference" not in self._counted:  # all its coalitions, and what each modality adds beside each other
            self._counted.add("valued reference")
            every, pairs = len(self.shapley_masks) * self.size, len(self.modalities) ** 2
            self.reckon(averaged=every * self.draws, scored_draws=every, steps=pairs * SHARED)
        return found

    def coalitions(self, masks: Iterable[int], *, calibrated: bool = False, split: str | None = None) -> Cost:
        listed = list(masks)
        found = super().coalitions(listed, calibrated=calibrated, split=split)
        if split in (None, self.features.split):
            scored = len(listed) * self.size * (KINDS if calibrated else 1) if found.replays else 0
            self.reckon(scored_draws=scored)
            self._keep(SUBSETS, PricedPart(Cost(replays=found.replays), scored_draws=scored))
        return found

    def reckon(self, **more: float) -> None:
        self.beside += PricedPart(Cost(), **more)

    def _keep(self, name: str, part: PricedPart) -> None:
        self.parts[name] = self.parts.get(name, PricedPart(Cost())) + part

    def _raw_readouts(self, modality: str) -> float:
        """The readouts of a modality's inputs: of numbers, random features and convolutions, of which the second come at
        several bandwidths, compared on fewer examples."""
        inputs = [self.features.inputs[k] for k in self.adapter.input_keys(modality) if k in self.features.inputs]
        width = min(SUMS, sum(x[0].numel() for x in inputs))
        screened = len(BANDWIDTHS) * COMPARED * self._readout(FOURIER, SCREENED)
        return screened + sum(self._readout(w) for w in (width, FOURIER, CONVOLVED))

    def _readout(self, width: float, most: float = math.inf) -> float:
        """A linear readout of so many features, fitted on at most so many examples, in evaluations as they are reckoned."""
        rows = min(self.fit_sizes.fit, NUMBERS / max(1.0, width), most)
        return GRID * evaluation(rows, width, self.features.outputs[0].numel())


@dataclass(frozen=True)
class PricedProbe:
    """What a probe costs; whether it says so, and why it would measure nothing; and what is told of by itself while it
    runs."""

    spec: ProbeSpec
    estimated: bool
    skipped: str | None
    whole: PricedPart
    parts: dict[str, PricedPart]


def count_probes(preview: PricedPreview, chosen: Sequence[ProbeSpec]) -> list[PricedProbe]:
    """Count what probes cost, in the order in which they run, after ``opening``."""
    found = []
    for spec in chosen:
        before, preview.parts = preview.beside, {}
        cost, skipped = cost_of(spec, preview)
        whole = replace(preview.beside.without(before), cost=cost or Cost())
        found.append(PricedProbe(spec, cost is not None, skipped, whole, preview.parts))
    return found


def seconds_of(cost: Cost, units: Mapping[str, float]) -> float:
    """Reckon the seconds of what is run and trained, by seconds of one unit of each kind."""
    shares = {name: EARLY if name in cost.bounded else 1.0 for name in COUNTS}
    return sum(units.get(name, 0.0) * count * shares[name] for name, count in cost.counts().items())


def cost_of(spec: ProbeSpec, preview: Preview) -> tuple[Cost | None, str | None]:
    """Count what a probe costs (None where it does not say), and say why it would measure nothing, all the same after
    reading a split, say."""
    if spec.cost is None:
        return None, None
    preview.shared = Cost()
    ours = spec.run.__module__.startswith("collapsekit.")
    try:
        with nullcontext() if ours else user_code(f"the cost of probe {spec.name!r}"):
            cost = spec.cost(preview)
    except NumericsError as e:
        return preview.shared, str(e).rstrip(".")
    except CollapsekitError:
        raise
    except Exception as e:
        if ours:
            raise
        raise ConfigError(f"the cost of probe {spec.name!r} cannot be estimated: {one_line(e)}.") from e
    if not isinstance(cost, Cost):
        raise ConfigError(f"the cost of probe {spec.name!r} is {type(cost).__name__}, expected a collapsekit.ext.Cost.")
    return cost, None
