"""What a diagnosis would cost, part by part: counts, seconds, and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from collapsekit.distributed.process_group import current
from collapsekit.features.features import Features
from collapsekit.io.hub import name_of
from collapsekit.registry import ProbeSpec
from collapsekit.report.cost import OPENING, TOTAL, CostReport, CostRow
from collapsekit.session.costs.cost import COUNTS, Cost
from collapsekit.session.costs.pricing import PricedPreview, PricedProbe, count_probes
from collapsekit.session.costs.timing import Clock, UnitCosts, time_units
from collapsekit.version import __version__


def estimate_costs(preview: PricedPreview, chosen: Sequence[ProbeSpec], opened: float, clock: Clock) -> CostReport:
    """Estimate what the ``chosen`` probes would cost on the session that is previewed.

    Args:
        preview: The first examples of the session.
        chosen: The probes, in the order in which they would run.
        opened: Seconds that checking the model on the first batch took.
        clock: What time it is, in seconds.

    Returns:
        The report.

    Raises:
        ConfigError: Where a user's own probe fails at saying what it costs.
    """
    opening = preview.opening()
    before = preview.beside
    counted = count_probes(preview, chosen)
    total = sum((one.whole.cost for one in counted), opening)
    wanted = {name for name in COUNTS if getattr(total, name)}
    units = current().on_main(lambda: time_units(preview.session, wanted, clock))
    rows = [_row(one, units, preview.statistics) for one in counted]
    first = _counts(OPENING, opening, opened + replace(before, cost=opening).seconds(units.seconds))
    whole = sum(row.seconds or 0.0 for row in (first, *rows))
    read = preview.adapter.checkpoint
    return CostReport(
        collapsekit=__version__,
        checkpoint=name_of(read.path) if read is not None else f"live {type(preview.adapter.model).__name__}",
        profile=preview.profile,
        split=preview.features.split,
        seed=preview.seed,
        examples=preview.read,
        opening=first,
        probes=tuple(rows),
        total=_counts(TOTAL, total, whole),
        unit_seconds={name: seconds for name, seconds in units.seconds.items() if name in COUNTS},
        kept_bytes=sum(_bytes_of(preview.features.of(split)) * n for split, n in preview.read.items()),
        peak_bytes=units.peak,
    )


def _row(one: PricedProbe, units: UnitCosts, statistics: float) -> CostRow:
    """A probe's row of the report."""
    if not one.estimated:
        return CostRow(name=one.spec.name, estimated=False)
    seconds = one.whole.seconds(units.seconds) + (0.0 if one.skipped else statistics)
    return _counts(one.spec.name, one.whole.cost, seconds, one.skipped)


def _counts(name: str, cost: Cost, seconds: float, skipped: str | None = None) -> CostRow:
    bounds = tuple(what for what in COUNTS if what in cost.bounded)
    return CostRow(name=name, **cost.counts(), at_most=bounds, why=cost.why, seconds=seconds, skipped=skipped)


def _bytes_of(features: Features) -> int:
    """Bytes that are kept of each example."""
    tensors = [*features.inputs.values(), *(t for r in features.recorded.values() for t in r)]
    tensors += [
        *features.predictions.values(),
        *features.alone.values(),
        *features.pooled.values(),
        features.fused,
        features.outputs,
        features.targets,
    ]
    return sum(_row_bytes(t) for t in tensors)


def _row_bytes(values: torch.Tensor) -> int:
    """Bytes of one row of values (n, ...)."""
    return values[0].numel() * values.element_size()
