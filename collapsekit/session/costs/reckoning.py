"""Seconds that each probe is reckoned at before it runs, for whoever shows how far a diagnosis is. No result rests on it.

What is run and trained is counted as for ``--dry-run``, on features that are at hand; one timed batch of each kind gives
seconds. Readouts and statistics, which run nothing of the model, are priced by their sizes: those prices were measured on
the demo and hold to a factor, which the measured pace then puts right (``python -m benchmarks.progress``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from collapsekit.adapters.build import preserve_rng_state
from collapsekit.distributed.process_group import current
from collapsekit.features.features import Features
from collapsekit.readouts.choosing import NUMBERS, PENALTIES, SCREENED
from collapsekit.readouts.linear import L2_GRID
from collapsekit.readouts.raw import BANDWIDTHS, FOURIER, KERNELS, SUMS
from collapsekit.registry import ProbeSpec
from collapsekit.session.costs.cost import COUNTS, Cost
from collapsekit.session.costs.estimate import cost_of
from collapsekit.session.costs.preview import Preview
from collapsekit.session.costs.timing import time_units
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
ENDING = 0.5  # seconds of verdicts and records


class _Counted(Preview):
    """A preview that also reckons linear readouts, of which a timed batch says nothing."""

    seconds = 0.0

    def once(self, name: object, cost: Callable[[], Cost]) -> Cost:
        found = super().once(name, cost)
        if name in ON_FEATURES:
            widths = [x.shape[1] for x in self.features.pooled.values()]
            self.seconds += found.heads * self._readout(sum(widths) / len(widths), PRECISE)
        elif name == "raw" and found.heads:
            self.seconds += sum(self._raw_readouts(m) for m in self.modalities)
        return found

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


def reckon_probes(session: Session, features: Features, chosen: Sequence[ProbeSpec]) -> dict[str, float]:
    """Reckon what each probe will take on this machine.

    Args:
        session: The session that they will run in; it is left as it is.
        features: The same examples, opened once more, so that nothing is noted as read that no probe reads.
        chosen: The probes, in the order in which they will run.

    Returns:
        Seconds by probe. Where the costs cannot be counted, and of several processes, shares by what the probes train.
    """
    if current().size > 1:
        return {spec.name: UNKNOWN.get(spec.trains, 1.0) for spec in chosen}
    own = Session(
        session.adapter, features, options=session.options, seed=session.seed, profile=session.profile, cache=None
    )
    try:
        with preserve_rng_state():
            return _reckon(_Counted(own, lambda split: len(features.of(split))), chosen)
    except Exception:  # noqa: BLE001 - whatever is wrong, whoever needs it says so, and no probe is lost for this
        return {spec.name: UNKNOWN.get(spec.trains, 1.0) for spec in chosen}


def _reckon(preview: _Counted, chosen: Sequence[ProbeSpec]) -> dict[str, float]:
    rows: list[tuple[str, Cost, float]] = []
    preview.opening()
    for spec in chosen:
        before = preview.seconds
        cost, _ = cost_of(spec, preview)
        rows.append((spec.name, cost or Cost(), preview.seconds - before))
    total = sum((cost for _, cost, _ in rows), Cost())
    units = time_units(preview.session, {name for name in COUNTS if getattr(total, name)}, time.perf_counter).seconds
    widest = max(x.shape[1] for x in preview.features.pooled.values())
    least = SMALLEST + PER_SQUARE * preview.size * widest**2
    return {name: least + _seconds(cost, units) + readouts for name, cost, readouts in rows}


def _seconds(cost: Cost, units: dict[str, float]) -> float:
    shares = {name: EARLY if name in cost.bounded else 1.0 for name in COUNTS}
    shares["steps"] *= STEP
    return sum(units.get(name, 0.0) * count * shares[name] for name, count in cost.counts().items())
