"""What a diagnosis would cost, part by part: counts, seconds by one timed batch of each kind, and memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch

from collapsekit.distributed.process_group import current
from collapsekit.errors import CollapsekitError, ConfigError, NumericsError
from collapsekit.features.features import Features
from collapsekit.io.hub import name_of
from collapsekit.registry import ProbeSpec
from collapsekit.report.cost import OPENING, TOTAL, CostReport, CostRow
from collapsekit.session.costs.cost import COUNTS, Cost
from collapsekit.session.costs.preview import Preview
from collapsekit.session.costs.timing import Clock, UnitCosts, time_units
from collapsekit.user_code.frames import one_line
from collapsekit.user_code.process_state import user_code
from collapsekit.version import __version__


def estimate_costs(preview: Preview, chosen: Sequence[ProbeSpec], opened: float, clock: Clock) -> CostReport:
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
    costs = [cost_of(spec, preview) for spec in chosen]
    total = sum((cost for cost, _ in costs if cost is not None), opening)
    wanted = {name for name in COUNTS if getattr(total, name)}
    units = current().on_main(lambda: time_units(preview.session, wanted, clock))
    rows = [_row(spec.name, cost, units, skipped=why) for spec, (cost, why) in zip(chosen, costs, strict=True)]
    first = _row(OPENING, opening, units, opened)
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
        total=_row(TOTAL, total, units, opened),
        unit_seconds=units.seconds,
        kept_bytes=sum(_bytes_of(preview.features.of(split)) * n for split, n in preview.read.items()),
        peak_bytes=units.peak,
    )


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


def _row(name: str, cost: Cost | None, units: UnitCosts, beside: float = 0.0, *, skipped: str | None = None) -> CostRow:
    """A row of the report; ``beside``: seconds that were spent already and will be again."""
    if cost is None:
        return CostRow(name=name, estimated=False)
    seconds = sum(units.seconds.get(what, 0.0) * count for what, count in cost.counts().items())
    bounds = tuple(what for what in COUNTS if what in cost.bounded)
    return CostRow(name=name, **cost.counts(), at_most=bounds, why=cost.why, seconds=beside + seconds, skipped=skipped)


def _bytes_of(features: Features) -> int:
    """Bytes that are kept of each example."""
    tensors = [*features.inputs.values(), *(t for r in features.recorded.values() for t in r)]
    tensors += [
        *features.predictions.values(),
        *features.pooled.values(),
        features.fused,
        features.outputs,
        features.targets,
    ]
    return sum(_row_bytes(t) for t in tensors)


def _row_bytes(values: torch.Tensor) -> int:
    """Bytes of one row of values (n, ...)."""
    return values[0].numel() * values.element_size()
