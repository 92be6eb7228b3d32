"""The gate's decision as GitHub-flavoured Markdown, for a pull request or a job summary."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.gate_report import GateReport
from collapsekit.render.gate_clean import CAPTION, COLUMNS, MARKS, against_line, cells, cleaned_gate, worst_first
from collapsekit.render.markdown import code, escape


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
    if rules:
        yield from ("| | rule | found |", "| --- | --- | --- |")
        yield from (f"| {MARKS[c.state]} {c.state} | {code(c.name)} | {escape(c.sentence)} |" for c in rules)
        yield ""
    if compared:
        yield escape(against_line(report) or "")
        yield ""
        yield f"| | | {' | '.join(COLUMNS)} | |"
        yield f"| --- | --- | {'---: | ' * len(COLUMNS)}--- |"
        for c in compared:
            row = [f"{MARKS[c.state]} {c.state}", escape(c.name), *map(escape, cells(c)), escape(c.sentence)]
            yield f"| {' | '.join(row)} |"
        yield ""
        yield escape(CAPTION[0].upper() + CAPTION[1:]) + "."
        yield ""
    for note in report.notes:
        yield f"- {escape(note)}"
    yield f"Made by collapsekit {escape(report.collapsekit)}; checkpoint SHA-256 {code(s.sha256)}."
