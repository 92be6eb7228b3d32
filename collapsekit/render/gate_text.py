"""The gate's decision for a terminal: the outcome first, then what it rests on."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from collapsekit.gate_report import GateCheck, GateReport
from collapsekit.render.gate_clean import (
    CAPTION,
    COLUMNS,
    MARKS,
    against_line,
    cells,
    cleaned_gate,
    subject_line,
    worst_first,
)
from collapsekit.render.screen import broken_name, heading, plain_table, printed

_STYLES = {"passed": "bold green", "failed": "bold red", "inconclusive": "bold magenta"}


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
        for checks in alike.values():
            yield from _told(*checks)
    for note in report.notes:
        yield Text()
        yield Text(f"Note: {note}")


def _told(*checks: GateCheck) -> Iterable[RenderableType]:
    """What one sentence says, of all checks that it is said of."""
    state, names = checks[0].state, ", ".join(c.name for c in checks)
    yield Text.assemble((f"{MARKS[state]} {state}", _STYLES[state]), "  ", (names, "bold"))
    yield Padding(Text(checks[0].sentence), (0, 0, 0, 2))


def _table(checks: list[GateCheck], width: int) -> Iterable[RenderableType]:
    """One row a number; in narrow terminals without the last columns, which the sentences have."""
    shown = len(COLUMNS) if width >= 70 else 3
    table = plain_table("", *(f">{c}" for c in COLUMNS[:shown]))
    for check in checks:
        first = Text.assemble((MARKS[check.state], _STYLES[check.state]), " ", broken_name(check.name, 20))
        table.add_row(first, *(Text(c.replace(" [", "\n[")) for c in cells(check)[:shown]))
    table.caption = Text(CAPTION)
    table.caption_justify = "left"
    yield table
