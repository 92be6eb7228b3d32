"""The report of a repair as GitHub-flavoured Markdown, for a pull request or a job summary."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.render.markdown import code, escape
from collapsekit.render.numbers import ABSENT
from collapsekit.render.repair_compare import compare
from collapsekit.render.repair_findings import finding_definitions, finding_grid, new_grid, structure_grid
from collapsekit.render.repair_tables import (
    Cell,
    Grid,
    about,
    cautions,
    checks_grid,
    curve_grids,
    definition_grid,
    headline,
    key_grid,
    left_grid,
    loss_grid,
    measured,
    note_grid,
    section_grids,
    settings_grid,
    standing,
    verdict_grid,
)
from collapsekit.render.sanitize import cleaned_repair
from collapsekit.render.tables import MARKS
from collapsekit.report.repair import RepairReport

_MOST_ROWS = 16  # of a table that is not folded


def render(report: RepairReport) -> str:
    """The report as Markdown: decision, verdicts, conditions, numbers and curves side by side. Names are escaped."""
    report = cleaned_repair(report)
    comparison = compare(report)
    lines = [*_head(report), *(f"- {escape(line)}" for line in [*standing(report, comparison), *cautions(report)]), ""]
    lines += _section(verdict_grid(report))
    lines += _section(checks_grid(report))
    lines += _section(key_grid(report, comparison))
    lines += _section(loss_grid(report))
    lines += _section(new_grid(report))
    lines += _section(finding_grid(report))
    lines += _section(structure_grid(report))
    for grid in section_grids(report, comparison):
        lines += _section(grid)
    curves = curve_grids(report, comparison)
    if curves:
        lines += ["## Curves", ""]
    for grid in curves:
        lines += [f"**{escape(grid.title)}**: {escape(grid.about)}", "", *_table(grid, most=0)]
    for grid, what in (
        (note_grid(report, comparison), "notes"),
        (left_grid(comparison), "reasons"),
        (definition_grid(report, comparison, finding_definitions(report)), "definitions"),
        (settings_grid(report), "settings"),
    ):
        lines += _section(grid, what, most=0)
    lines.append(f"Made by collapsekit {escape(report.collapsekit)}.")
    return "\n".join(lines) + "\n"


def _head(report: RepairReport) -> Iterator[str]:
    decision, summary = headline(report)
    yield f"# {'✓' if report.accepted else '✗'} {decision.capitalize()}: {escape(summary)}"
    yield ""
    yield f"{escape(about(report))}<br>{escape(measured(report))}"
    yield ""


def _section(grid: Grid, what: str = "rows", most: int = _MOST_ROWS) -> Iterator[str]:
    if grid.rows:
        yield f"## {escape(grid.title)}"
        yield ""
        if grid.about:
            yield escape(grid.about)
            yield ""
        yield from _table(grid, what, most)


def _table(grid: Grid, what: str = "points", most: int = _MOST_ROWS) -> Iterator[str]:
    """A pipe table and a blank line, closed until clicked where it has more than ``most`` rows."""
    folded = len(grid.rows) > most
    if folded:
        yield f"<details><summary>{len(grid.rows)} {what}</summary>"
        yield ""
    yield f"| {' | '.join(escape(h.text) for h in grid.headers)} |"
    yield f"|{'|'.join(' ---: ' if h.kind == 'number' else ' --- ' for h in grid.headers)}|"
    for row in grid.rows:
        yield f"| {' | '.join(map(_cell, row))} |"
    yield ""
    if folded:
        yield "</details>"
        yield ""


def _cell(cell: Cell) -> str:
    aside = escape(cell.aside)
    if cell.kind == "name":
        return f"{code(cell.text) if cell.text else ''}{f' ({aside})' if aside else ''}"
    if cell.kind in MARKS:
        return f"{escape(cell.text)}<br>{aside or ABSENT}"
    text = escape(cell.text)
    if cell.kind in ("passed", "failed", "better", "worse") and text:
        text = f"**{text}**"
    return f"{text} {aside}".strip()
