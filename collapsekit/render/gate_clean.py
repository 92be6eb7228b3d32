"""What the gate's formats share: names made harmless, words for what a check found."""

from __future__ import annotations

from typing import Any

from collapsekit.gate_report import GateCheck, GateReport
from collapsekit.render.numbers import ABSENT, fmt, fmt_estimate
from collapsekit.render.sanitize import NAME_LIMIT, TEXT_LIMIT, clean

MARKS = {"passed": "✓", "failed": "✗", "inconclusive": "?"}
SEVERITY = ("failed", "inconclusive", "passed")


def cleaned_gate(report: GateReport) -> GateReport:
    """The same report with every string cleaned, so that no renderer can forget one."""
    safe: dict[str, Any] = _walk(report.model_dump())
    return GateReport.model_validate(safe)


def _walk(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value, TEXT_LIMIT)
    if isinstance(value, dict):
        return {clean(str(k), TEXT_LIMIT): _walk(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_walk(v) for v in value)
    return value


def short(name: str) -> str:
    """A name fit for a title or a table."""
    return clean(name, NAME_LIMIT)


def worst_first(report: GateReport) -> list[GateCheck]:
    """Failed checks, then those that decided nothing, then the others, each in the report's order."""
    return sorted(report.checks, key=lambda c: SEVERITY.index(c.state))


def subject_line(report: GateReport) -> str:
    """What was gated, in one line."""
    s = report.subject
    return f"{s.checkpoint} · {s.task}, {s.metric} · {s.split} split, {s.examples} examples · {report.verdict}"


def against_line(report: GateReport) -> str | None:
    """What it was held against, in one line; None without a baseline."""
    found = report.against
    if found is None:
        return None
    if found.situation == "paired":
        return f"Against the baseline's run of the same training, example by example ({found.because})."
    runs = "1 training run" if found.runs == 1 else f"{found.runs} training runs"
    return f"Against how {runs} of the baseline vary ({found.because})."


def cells(check: GateCheck) -> list[str]:
    """A row of a table: baseline, found, fall with its interval, p after Holm, what would have been caught."""
    p = ABSENT if check.p_holm is None else ("<0.0001" if check.p_holm < 1e-4 else fmt(check.p_holm))
    caught = ABSENT if check.detectable is None else fmt(check.detectable)
    return [fmt(check.baseline), fmt(check.found), fmt_estimate(check.difference, check.interval), p, caught]


COLUMNS = ("before", "now", "fall", "p", "seen from")
CAPTION = (
    "fall: above 0 is worse; p: one-sided, after Holm; seen from: the fall that would have failed with 90 % probability"
)
