"""The gate's decision as GitHub-flavoured Markdown, for a pull request or a job summary."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.render.gate_clean import (
    COLUMNS,
    MARKS,
    SEVERITY,
    against_line,
    caption,
    cells,
    made_by,
    next_steps,
    worst_first,
)
from collapsekit.render.markdown import code, escape
from collapsekit.render.sanitize import cleaned_gate
from collapsekit.report.gate import GateCheck, GateReport


def render(report: GateReport) -> str:
    """Outcome, then a table of all checks, the worst first, each with its sentence. Names are escaped."""
    return "\n".join(lines(cleaned_gate(report))) + "\n"


def lines(report: GateReport) -> Iterator[str]:
    """The lines of a report whose names are clean; each row of the tables is one line."""
    s = report.subject
    yield f"# {MARKS[report.outcome]} Gate {report.outcome}: {escape(report.summary)}"
    yield ""
    yield (
        f"{code(s.checkpoint)}, {escape(s.task)} ({escape(s.metric)}), {escape(s.split)} split, {s.examples} examples; "
        f"verdict: **{report.verdict}** ({', '.join(f'{escape(m)} {v}' for m, v in report.modalities.items())})."
    )
    yield ""
    rules = [c for c in worst_first(report) if c.kind == "rule"]
    compared = [c for c in worst_first(report) if c.kind != "rule"]
    parts = [(rules, _rules(rules)), (compared, _compared(report, compared))]
    # The worse part first, so that it is there where a summary is cut.
    for checks, part in sorted(parts, key=lambda p: SEVERITY.index(p[0][0].state) if p[0] else len(SEVERITY)):
        if checks:
            yield from part
            yield ""
    bullets = [*(f"Note: {escape(note)}" for note in report.notes), *next_steps(report)]  # steps are our own words
    yield from (f"- {b}" for b in bullets)
    if bullets:
        yield ""
    yield f"{escape(made_by(report))} Checkpoint SHA-256 {code(s.sha256)}."


def _rules(checks: list[GateCheck]) -> Iterator[str]:
    yield from ("| | rule | found |", "| --- | --- | --- |")
    yield from (f"| {MARKS[c.state]} {c.state} | {code(c.name)} | {escape(c.sentence)} |" for c in checks)


def _compared(report: GateReport, checks: list[GateCheck]) -> Iterator[str]:
    yield escape(against_line(report) or "")
    yield ""
    yield f"| | | {' | '.join(COLUMNS)} | |"
    yield f"| --- | --- | {'---: | ' * len(COLUMNS)}--- |"
    for c in checks:
        row = [f"{MARKS[c.state]} {c.state}", escape(c.name), *map(escape, cells(c)), escape(c.sentence)]
        yield f"| {' | '.join(row)} |"
    yield ""
    meaning = caption()
    yield f"{meaning[0].upper()}{meaning[1:]}."
