"""Seconds that each probe is reckoned at before it runs, for whoever shows how far a diagnosis is. No result rests on it.

What is run and trained is counted as for ``--dry-run``, on features that are at hand; one timed batch of each kind gives
seconds. Readouts and statistics, which run nothing of the model, are priced by their sizes: those prices were measured on
the demo and hold to a factor, which the measured pace then puts right (``python -m benchmarks.progress``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence

from collapsekit.adapters.build import preserve_rng_state
from collapsekit.distributed.process_group import current
from collapsekit.features.features import Features
from collapsekit.games.coalitions import SUBSETS
from collapsekit.readouts.choosing import NUMBERS, PENALTIES, SCREENED
from collapsekit.readouts.linear import L2_GRID
from collapsekit.readouts.raw import BANDWIDTHS, FOURIER, KERNELS, SUMS
from collapsekit.readouts.synergy import NETWORKS
from collapsekit.readouts.unimodal import ALONE
from collapsekit.registry import ProbeSpec
from collapsekit.session.costs.cost import COUNTS, Cost
from collapsekit.session.costs.estimate import cost_of
from collapsekit.session.costs.preview import Preview
from collapsekit.session.costs.timing import time_units
from collapsekit.session.readouts import READOUTS
from collapsekit.session.session import Session

EARLY = 0.7  # of a count that is only bounded from above, what is usually run: training stops early
STEP = 1.5  # times the timed step: that of the networks which read several modalities together
# Seconds of a linear readout: of any, for an example, and for an example, a feature and an output. Those of what encoders
# give are fitted to the last digit, those of raw inputs roughly.
PRECISE, ROUGHLY = (0.09, 1.5e-4, 1.0e-6), (0.12, 0.0, 1.4e-7)
CONVOLVED = 2 * KERNELS  # features of random convolutions
SMALLEST = 0.1  # seconds of a probe that costs nothing else
PER_SQUARE = 2e-10  # seconds that statistics take beyond, for an example and the square of the widest features
UNKNOWN = {"nothing": 1.0, "heads": 4.0, "models": 8.0}  # shares by what a probe trains, where nothing can be counted
ON_FEATURES = frozenset({"prefixes", "pooled", "alone"})  # measurements that fit readouts of what encoders give
PARTS = {"alone": ALONE, "raw": READOUTS, "synergy": NETWORKS, "raw synergy": NETWORKS}  # by what is told of them
ENDING = 0.5  # seconds of verdicts and records


class _Counted(Preview):
    """A preview that also reckons linear readouts, of which a timed batch says nothing, and keeps apart what is told of by
    itself while it runs."""

    def __init__(self, session: Session, count: Callable[[str], int]) -> None:
        super().__init__(session, count)
        self.seconds = 0.0  # of linear readouts
        self.parts = dict[str, tuple[Cost, float]]()  # costs and seconds of linear readouts, by what is told

    def once(self, name: object, cost: Callable[[], Cost]) -> Cost:
        before = self.seconds
        found = super().once(name, cost)
        if name in ON_FEATURES:
            widths = [x.shape[1] for x in self.features.pooled.values()]
            self.seconds += found.heads * self._readout(sum(widths) / len(widths), PRECISE)
        elif name == "raw" and found.heads:
            self.seconds += sum(self._raw_readouts(m) for m in self.modalities)
        if name in PARTS:
            self._keep(PARTS[str(name)], found, self.seconds - before)
        return found

    def coalitions(self, masks: Iterable[int], *, calibrated: bool = False, split: str | None = None) -> Cost:
        found = super().coalitions(masks, calibrated=calibrated, split=split)
        if split in (None, self.features.split):
            self._keep(SUBSETS, Cost(replays=found.replays), 0.0)
        return found

    def _keep(self, part: str, cost: Cost, readouts: float) -> None:
        known, seconds = self.parts.get(part, (Cost(), 0.0))
        self.parts[part] = known + cost, seconds + readouts

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


def reckon_probes(session: Session, features: Features, chosen: Sequence[ProbeSpec]) -> dict[str, dict[str, float]]:
    """Reckon what each probe will take on this machine.

    Args:
        session: The session that they will run in; it is left as it is.
        features: The same examples, opened once more, so that nothing is noted as read that no probe reads.
        chosen: The probes, in the order in which they will run.

    Returns:
        By probe the seconds of what is told of by itself, and under the empty name those of all else. Where the costs
        cannot be counted, and of several processes, shares by what the probes train.
    """
    unknown = {spec.name: {"": UNKNOWN.get(spec.trains, 1.0)} for spec in chosen}
    if current().size > 1:
        return unknown
    own = Session(
        session.adapter, features, options=session.options, seed=session.seed, profile=session.profile, cache=None
    )
    try:
        with preserve_rng_state():
            return _reckon(_Counted(own, lambda split: len(features.of(split))), chosen)
    except Exception:  # noqa: BLE001 - whatever is wrong, whoever needs it says so, and no probe is lost for this
        return unknown


def _reckon(preview: _Counted, chosen: Sequence[ProbeSpec]) -> dict[str, dict[str, float]]:
    rows: list[tuple[str, Cost, float, dict[str, tuple[Cost, float]]]] = []
    preview.opening()
    for spec in chosen:
        before, preview.parts = preview.seconds, {}
        cost, _ = cost_of(spec, preview)
        rows.append((spec.name, cost or Cost(), preview.seconds - before, preview.parts))
    total = sum((cost for _, cost, _, _ in rows), Cost())
    units = time_units(preview.session, {name for name in COUNTS if getattr(total, name)}, time.perf_counter).seconds
    widest = max(x.shape[1] for x in preview.features.pooled.values())
    least = SMALLEST + PER_SQUARE * preview.size * widest**2
    found: dict[str, dict[str, float]] = {}
    for name, cost, readouts, parts in rows:
        inner = {part: _seconds(one, units) + more for part, (one, more) in parts.items()}
        inner = {part: seconds for part, seconds in inner.items() if seconds > 0}
        found[name] = {**inner, "": least + max(0.0, _seconds(cost, units) + readouts - sum(inner.values()))}
    return found


def _seconds(cost: Cost, units: dict[str, float]) -> float:
    shares = {name: EARLY if name in cost.bounded else 1.0 for name in COUNTS}
    shares["steps"] *= STEP
    return sum(units.get(name, 0.0) * count * shares[name] for name, count in cost.counts().items())
