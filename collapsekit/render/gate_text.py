"""The gate's decision for a terminal: the outcome first, then what it rests on."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from collapsekit.render.gate_clean import (
    COLUMNS,
    MARKS,
    against_line,
    caption,
    cells,
    made_by,
    next_steps,
    subject_line,
    worst_first,
)
from collapsekit.render.numbers import ABSENT
from collapsekit.render.sanitize import cleaned_gate
from collapsekit.render.screen import broken_name, heading, plain_table, printed
from collapsekit.report.gate import GateCheck, GateReport

_STYLES = {"passed": "bold green", "failed": "bold red", "inconclusive": "bold magenta"}
_FULL, _WIDE = 72, 104  # columns that all of the table takes, and takes with each row on one line


def render(report: GateReport, *, width: int | None = None, color: bool = False) -> str:
    """The decision as text no wider than ``width`` columns (default: the terminal's, from 40 to 120).

    Without ``color`` there is no escape sequence in it, whatever names the report holds.
    """
    report = cleaned_gate(report)
    return printed(lambda console: _blocks(report, console.width), width, color)


def _blocks(report: GateReport, width: int) -> Iterable[RenderableType]:
    mark = f"{MARKS[report.outcome]} {report.outcome.upper()}"
    yield Text.assemble((mark, _STYLES[report.outcome]), "  ", report.summary)
    yield Text(subject_line(report), style="dim")
    rules = [c for c in worst_first(report) if c.kind == "rule"]
    compared = [c for c in worst_first(report) if c.kind != "rule"]
    if rules:
        yield from heading("Rules")
        for check in rules:
            yield from _told(check)
    if compared:
        yield from heading("Against the baseline")
        yield Text(against_line(report) or "", style="dim")
        yield from _table(compared, width)
        alike: dict[str, list[GateCheck]] = {}
        for check in compared:
            if check.state != "passed":
                alike.setdefault(check.sentence, []).append(check)
        if alike:
            yield Text()
        for checks in alike.values():
            yield from _told(*checks)
    for note in report.notes:
        yield Text()
        yield Text(f"Note: {note}")
    steps = list(next_steps(report))
    if steps:
        yield from heading("Next")
    for step in steps:
        yield Text(step)
    yield Text()
    yield Text(f"sha256 {report.subject.sha256}", style="dim")
    yield Text(made_by(report), style="dim")


def _told(*checks: GateCheck) -> Iterable[RenderableType]:
    """What one sentence says, of all checks that it is said of."""
    state, names = checks[0].state, ", ".join(c.name for c in checks)
    yield Text.assemble((f"{MARKS[state]} {state}", _STYLES[state]), "  ", (names, "bold"))
    yield Padding(Text(checks[0].sentence), (0, 0, 0, 2))


def _table(checks: list[GateCheck], width: int) -> Iterable[RenderableType]:
    """One row a number: in wide terminals on one line, in narrow ones without the last columns. Nothing where no check has
    a number."""
    rows = [(check, cells(check)) for check in checks]
    if all(cell == ABSENT for _, row in rows for cell in row):
        return
    shown = COLUMNS if width >= _FULL else COLUMNS[:3]
    table = plain_table("", *(f">{c}" for c in shown))
    for check, row in rows:
        name = broken_name(check.name, 20 if width < _WIDE else 36)
        first = Text.assemble((MARKS[check.state], _STYLES[check.state]), " ", name)
        table.add_row(first, *(Text(c if width >= _WIDE else c.replace(" [", "\n[")) for c in row[: len(shown)]))
    yield table
    yield Text(caption(shown), style="dim")
