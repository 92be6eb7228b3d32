"""Seconds that each probe is reckoned at before it runs, for whoever shows how far a diagnosis is. No result rests on it.

What is run and trained is counted and priced as for ``--dry-run``, on features that are at hand. How good that is:
``python -m benchmarks.progress``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from collapsekit.adapters.build import preserve_rng_state
from collapsekit.distributed.process_group import current
from collapsekit.features.features import Features
from collapsekit.registry import ProbeSpec
from collapsekit.session.costs.cost import COUNTS, Cost
from collapsekit.session.costs.pricing import PricedPreview, count_probes
from collapsekit.session.costs.timing import time_units
from collapsekit.session.session import Session

UNKNOWN = {"nothing": 1.0, "heads": 4.0, "models": 8.0}  # shares by what a probe trains, where nothing can be counted
ENDING = 0.05  # seconds of verdicts and records


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
            return _reckon(PricedPreview(own, lambda split: len(features.of(split))), chosen)
    except Exception:  # noqa: BLE001 - whatever is wrong, whoever needs it says so, and no probe is lost for this
        return unknown


def _reckon(preview: PricedPreview, chosen: Sequence[ProbeSpec]) -> dict[str, dict[str, float]]:
    preview.opening()
    rows = count_probes(preview, chosen)
    total = sum((row.whole.cost for row in rows), Cost())
    units = time_units(preview.session, {name for name in COUNTS if getattr(total, name)}, time.perf_counter).seconds
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        inner = {name: part.seconds(units) for name, part in row.parts.items()}
        inner = {part: seconds for part, seconds in inner.items() if seconds > 0}
        rest = row.whole.seconds(units) - sum(inner.values())
        found[row.spec.name] = {**inner, "": preview.statistics + max(0.0, rest)}
    return found
