"""What the gate's formats share: words for what was gated, what a check found, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.render.numbers import ABSENT, fmt, fmt_estimate
from collapsekit.render.sanitize import NAME_LIMIT, clean
from collapsekit.report.gate import GateCheck, GateReport

MARKS = {"passed": "✓", "failed": "✗", "inconclusive": "?"}
SEVERITY = ("failed", "inconclusive", "passed")


def short(name: str) -> str:
    """A name fit for a title or a table."""
    return clean(name, NAME_LIMIT)


def worst_first(report: GateReport) -> list[GateCheck]:
    """Failed checks, then those that decided nothing, then the others, each in the report's order."""
    return sorted(report.checks, key=lambda c: SEVERITY.index(c.state))


def subject_line(report: GateReport) -> str:
    """What was gated, in one line."""
    s = report.subject
    return f"{s.checkpoint} · {s.task}, {s.metric} · {s.split} split, {s.examples} examples · verdict {report.verdict}"


def against_line(report: GateReport) -> str | None:
    """What it was held against, in one line; None without a baseline."""
    found = report.against
    if found is None:
        return None
    if found.situation == "paired":
        return f"Against the baseline's run of the same training, example by example ({found.because})."
    runs = "1 training run" if found.runs == 1 else f"{found.runs} training runs"
    return f"Against how {runs} of the baseline vary ({found.because})."


def next_steps(report: GateReport) -> Iterator[str]:
    """What can be done about an outcome that is no pass."""
    open_ = [c for c in report.checks if c.state == "inconclusive"]
    failed = [c for c in report.checks if c.state == "failed"]
    if failed:
        yield "Why: the report of `collapsekit diagnose`, by modality; `collapsekit repair` may bring one back."
    if any(c.kind != "rule" for c in failed):
        yield "Where the fall is meant: `collapsekit baseline update` takes this report into the baseline."
    for kind in ("retrained", "paired"):
        needed = [c.needed for c in open_ if c.kind == kind and c.needed is not None]
        if needed:
            runs = f"{max(needed):,} more baseline {'run' if max(needed) == 1 else 'runs'}"
            what = runs if kind == "retrained" else f"About {max(needed):,} examples in all"
            yield f"{what} would decide {_these(len(needed), len(open_))}."
    if report.outcome == "inconclusive" and open_:
        yield "Until it is decided, this is no pass (exit code 5)."


def _these(count: int, of: int) -> str:
    return (
        ("what is open" if of == 1 else f"all {of} that are open") if count == of else f"{count} of {of} that are open"
    )


def made_by(report: GateReport) -> str:
    """Which tool decided, and by which exit code it says so."""
    return f"Made by collapsekit {report.collapsekit}; exit code {report.exit_code}."


def cells(check: GateCheck) -> list[str]:
    """A row of a table: baseline, found, fall with its interval, p after Holm, what would have been caught."""
    p = ABSENT if check.p_holm is None else ("<0.0001" if check.p_holm < 1e-4 else fmt(check.p_holm))
    caught = ABSENT if check.detectable is None else fmt(check.detectable)
    return [fmt(check.baseline), fmt(check.found), fmt_estimate(check.difference, check.interval), p, caught]


COLUMNS = ("before", "now", "fall", "p", "would catch")
_MEANINGS = (
    ("fall", "above 0 is worse"),
    ("p", "one-sided, after Holm"),
    ("would catch", "the fall that would have failed with 90 % probability"),
)


def caption(columns: tuple[str, ...] = COLUMNS) -> str:
    """What the columns mean."""
    return "; ".join(f"{name}: {meaning}" for name, meaning in _MEANINGS if name in columns)
