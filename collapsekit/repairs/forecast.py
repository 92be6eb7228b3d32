"""What a repair will gain, said before it: what adding a modality's best readout to the model gains today."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from collapsekit.report.diagnosis import Report
from collapsekit.report.repair import Forecast

NOW, IF_MISSING = "utilisation.costs_now", "utilisation.costs_if_missing"


def forecasts(before: Report, weak: Sequence[str]) -> tuple[Forecast, ...]:
    """Read what repairing each modality is expected to gain off a diagnosis.

    Args:
        before: The diagnosis that the repair follows.
        weak: The modalities to repair.

    Returns:
        A forecast for each of which that was measured.
    """
    found = [(m, before.find(NOW, m)) for m in weak]
    return tuple(
        Forecast(modality=m, split=before.subject.split, gain=r.value, interval=r.interval)
        for m, r in found
        if r is not None and r.value is not None
    )


def describe_forecasts(before: Report, weak: Sequence[str]) -> Iterator[str]:
    """Say what a repair is expected to gain, and first where that is nothing.

    Args:
        before: The diagnosis that the repair follows.
        weak: The modalities to repair.

    Yields:
        A sentence each; none where nothing was measured.
    """
    known, metric = forecasts(before, weak), before.subject.metric
    if known and all(f.interval is not None and f.interval[0] <= 0 for f in known):
        yield (
            f"Nothing to gain today: what repairing {_and([f.modality for f in known])} is expected to gain in {metric} "
            f"may be 0. {_reason(before, weak)}"
        )
    for f in known:
        ends = "" if f.interval is None else f" [{f.interval[0]:+.3f}, {f.interval[1]:+.3f}]"
        yield (
            f"What repairing {f.modality} is expected to gain today in {metric}: {f.gain:+.3f}{ends} (on {f.split}, by its "
            "best readout added to the model)."
        )


def _reason(before: Report, weak: Sequence[str]) -> str:
    """Why it may be worth it all the same: what a modality would be worth where another one is missing."""
    found = [r for r in before.results if r.name == IF_MISSING and r.modality in weak]
    sure = [(r.value, r.interval, r) for r in found if r.value is not None and r.interval and r.interval[0] > 0]
    if not sure:
        return "Nor is it known to gain anything where another modality is missing."
    value, (low, high), most = max(sure, key=lambda one: one[0])
    return (
        f"A reason may be modalities that are missing: without {most.versus}, {most.modality} would gain {value:+.3f} "
        f"[{low:+.3f}, {high:+.3f}]."
    )


def _and(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
