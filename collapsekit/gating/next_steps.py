"""What a decision of the gate was held against, and what can be done about it, in words."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.report.gate import GateReport


def against(report: GateReport) -> str:
    """Say what it was held against, in one line."""
    found = report.against
    if found is None:
        return ""
    if found.situation == "paired":
        return f"Against the baseline's run of the same training, example by example ({found.because})."
    runs = "1 training run" if found.runs == 1 else f"{found.runs} training runs"
    return f"Against how {runs} of the baseline vary ({found.because})."


def next_steps(report: GateReport) -> Iterator[str]:
    """Say what can be done about an outcome that is no pass."""
    undecided = [c for c in report.checks if c.state == "inconclusive"]
    failed = [c for c in report.checks if c.state == "failed"]
    if failed:
        yield "Why: the report of `collapsekit diagnose`, by modality; `collapsekit repair` may bring one back."
    if any(c.kind != "rule" for c in failed):
        yield "Where the fall is meant: `collapsekit baseline update` takes this report into the baseline."
    for kind in ("retrained", "paired"):
        needed = [c.needed for c in undecided if c.kind == kind and c.needed is not None]
        if needed:
            runs = f"{max(needed):,} more baseline {'run' if max(needed) == 1 else 'runs'}"
            what = runs if kind == "retrained" else f"About {max(needed):,} examples in all"
            yield f"{what} would decide {_these(len(needed), len(undecided))}."
    if any(c.kind == "judged" for c in undecided):
        yield (
            "Partly judged: `collapsekit diagnose` in profile standard trains references, and for a model elsewhere "
            "`predictions` of your own stand for them; `--allow-partial` waives it."
        )
    if report.outcome == "inconclusive" and undecided:
        yield "Until it is decided, this is no pass (exit code 5)."


def _these(count: int, of: int) -> str:
    if count < of:
        return f"{count} of {of} that are open"
    return "what is open" if of == 1 else f"all {of} that are open"
