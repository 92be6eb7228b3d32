"""Seconds of what is counted: by one timed batch of each kind, and by size where no batch of it can be timed before.

The latter are linear readouts and statistics. Their prices were measured on one core, on the demo and on planted subjects,
and hold to a factor (``python -m benchmarks.reckoned``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from collapsekit.errors import CollapsekitError, ConfigError, NumericsError
from collapsekit.games.coalitions import SUBSETS
from collapsekit.readouts.choosing import NUMBERS, PENALTIES, SCREENED
from collapsekit.readouts.fit import steps_of
from collapsekit.readouts.linear import L2_GRID
from collapsekit.readouts.raw import BANDWIDTHS, FOURIER, KERNELS, SUMS
from collapsekit.readouts.synergy import NETWORKS, recipe_for
from collapsekit.readouts.unimodal import ALONE
from collapsekit.registry import ProbeSpec
from collapsekit.session.costs.cost import COUNTS, Cost
from collapsekit.session.costs.preview import Preview
from collapsekit.session.readouts import READOUTS
from collapsekit.session.session import Session
from collapsekit.user_code.frames import one_line
from collapsekit.user_code.process_state import user_code

EARLY = 0.7  # of a count that is only bounded from above, what is usually run: training stops early
# Epochs after which networks over modalities are usually at their best, then come those of patience: their bound, of more
# epochs on fewer examples, says little. Seen on planted subjects: 2 to 13 of 4,000 examples, 1 to 3 of 1,200.
LEARNED = 4
# Seconds of a linear readout: of any, for an example, and for an example, a feature and an output. Those of what encoders
# give are fitted to the last digit, those of raw inputs roughly.
PRECISE, ROUGHLY = (0.09, 1.5e-4, 1.0e-6), (0.12, 0.0, 1.4e-7)
CONVOLVED = 2 * KERNELS  # features of random convolutions
SMALLEST = 0.1  # seconds of a probe that costs nothing else
PER_SQUARE = 2e-10  # seconds that statistics take beyond, for an example and the square of the widest features
ON_FEATURES = frozenset({"prefixes", "pooled", "alone"})  # measurements that fit readouts of what encoders give
PARTS = {"alone": ALONE, "raw": READOUTS, "synergy": NETWORKS, "raw synergy": NETWORKS}  # by what is told of them


@dataclass(frozen=True)
class PricedPart:
    """What is counted, seconds of linear readouts, and steps that are not expected to be run though they are counted."""

    cost: Cost
    readouts: float = 0.0
    spared: float = 0.0

    def __add__(self, other: PricedPart) -> PricedPart:
        """Add up two parts."""
        return PricedPart(self.cost + other.cost, self.readouts + other.readouts, self.spared + other.spared)

    def seconds(self, units: Mapping[str, float]) -> float:
        """Reckon it, by seconds of one unit of each kind."""
        return max(0.0, seconds_of(self.cost, units) - self.spared * units.get("steps", 0.0)) + self.readouts


class PricedPreview(Preview):
    """A preview that also reckons linear readouts, of which a timed batch says nothing, and keeps apart what is told of by
    itself while it runs."""

    def __init__(self, session: Session, count: Callable[[str], int]) -> None:
        super().__init__(session, count)
        self.seconds = 0.0  # of linear readouts
        self.spared = 0.0  # steps of networks over modalities that are not expected to be run, beyond EARLY's
        self.parts = dict[str, PricedPart]()  # by what is told

    @property
    def statistics(self) -> float:
        """Seconds of a probe that runs and fits nothing."""
        widest = max(x.shape[1] for x in self.features.pooled.values())
        return SMALLEST + PER_SQUARE * self.size * widest**2

    def once(self, name: object, cost: Callable[[], Cost]) -> Cost:
        before, spared = self.seconds, self.spared
        found = super().once(name, cost)
        if name in ON_FEATURES:
            widths = [x.shape[1] for x in self.features.pooled.values()]
            self.seconds += found.heads * self._readout(sum(widths) / len(widths), PRECISE)
        elif name == "raw" and found.heads:
            self.seconds += sum(self._raw_readouts(m) for m in self.modalities)
        elif PARTS.get(str(name)) == NETWORKS and found.heads:
            fit = self.fit_sizes.fit
            epochs = min(recipe_for(fit, 0.0, 0).patience + LEARNED, recipe_for(fit, 0.0, 0).epochs)
            self.spared += EARLY * found.steps - found.heads * epochs * steps_of(fit)
        if name in PARTS:
            self._keep(PARTS[str(name)], PricedPart(found, self.seconds - before, self.spared - spared))
        return found

    def coalitions(self, masks: Iterable[int], *, calibrated: bool = False, split: str | None = None) -> Cost:
        found = super().coalitions(masks, calibrated=calibrated, split=split)
        if split in (None, self.features.split):
            self._keep(SUBSETS, PricedPart(Cost(replays=found.replays)))
        return found

    def _keep(self, name: str, part: PricedPart) -> None:
        self.parts[name] = self.parts.get(name, PricedPart(Cost())) + part

    def _raw_readouts(self, modality: str) -> float:
        """Seconds of the readouts of a modality's inputs: of numbers, random features and convolutions, of which the second
        come at several bandwidths, compared on fewer examples."""
        inputs = [self.features.inputs[k] for k in self.adapter.input_keys(modality) if k in self.features.inputs]
        width = min(SUMS, sum(x[0].numel() for x in inputs))
        screened = len(BANDWIDTHS) * self._readout(FOURIER, ROUGHLY, SCREENED) * len(PENALTIES) / len(L2_GRID)
        return screened + sum(self._readout(w, ROUGHLY) for w in (width, FOURIER, CONVOLVED))

    def _readout(self, width: float, price: tuple[float, float, float], most: float = math.inf) -> float:
        """Seconds of a linear readout of so many features, fitted on at most so many examples."""
        rows = min(self.fit_sizes.fit, NUMBERS / max(1.0, width), most)
        outputs = min(1024, max(1, self.features.outputs[0].numel()))
        any_, row, number = price
        return any_ + rows * (row + number * width * outputs)


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
        before, spared, preview.parts = preview.seconds, preview.spared, {}
        cost, skipped = cost_of(spec, preview)
        whole = PricedPart(cost or Cost(), preview.seconds - before, preview.spared - spared)
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
