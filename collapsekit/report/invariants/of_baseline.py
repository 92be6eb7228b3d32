"""A baseline: each run by itself, none twice, and the numbers of each those of its records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from collapsekit.io.safe_text import quoted
from collapsekit.report.invariants.of_report import report_contradiction

if TYPE_CHECKING:
    from collapsekit.report.baseline import Baseline
    from collapsekit.report.diagnosis import Report


def baseline_contradiction(baseline: Baseline, same: Callable[[Report, Report], bool]) -> str | None:
    """The first contradiction within a baseline; None where its parts agree. ``same``: whether reports are of one run."""
    return next(_contradictions(baseline, same), None)


def _contradictions(baseline: Baseline, same: Callable[[Report, Report], bool]) -> Iterator[str]:
    reports = [run.report for run in baseline.runs]
    for i, report in enumerate(reports):
        said = report_contradiction(report)
        if said is not None:
            yield f"in the report of its run {i + 1}, {said}"
        again = next((j for j, other in enumerate(reports[:i]) if same(other, report)), None)
        if again is not None:
            yield (
                f"its runs {again + 1} and {i + 1} ({quoted(reports[again].subject.checkpoint)} and "
                f"{quoted(report.subject.checkpoint)}) are one: the same weights or the same training seed"
            )
