"""The report of a repair for a terminal: the decision first, then what it rests on; details are left to the HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from collapsekit.measures import heading_of
from collapsekit.render.numbers import ABSENT, fmt, fmt_interval
from collapsekit.render.repair_compare import Comparison, Judgement, compare
from collapsekit.render.repair_findings import finding_grid, new_grid, structure_grid
from collapsekit.render.repair_tables import (
    Row,
    about,
    cautions,
    headline,
    key_rows,
    loss_line,
    measured,
    passed,
    result_rows,
    signed,
    standing,
    verdict_grid,
)
from collapsekit.render.sanitize import cleaned_repair, renamed_repair, repair_names
from collapsekit.render.screen import STYLES, broken_name, heading, letter, plain_table, printed
from collapsekit.render.tables import Estimate
from collapsekit.report.repair import RepairReport

_STYLES = {
    **STYLES,
    **dict.fromkeys(("accepted", "passed", "better"), "bold green"),
    **dict.fromkeys(("rejected", "failed", "worse"), "bold red"),
}
_NAME_WIDTH = 16  # modalities with longer names are called A, B, … after the headline
_NUMBER_WIDTH = 15  # an interval
_CHANGE_WIDTH = 9
_JUDGED_WIDTH = 7
_PROBES = ("missing", "noise")  # whose numbers are shown here; the others are in the HTML


def render(report: RepairReport, *, width: int | None = None, color: bool = False) -> str:
    """The report as text no wider than ``width`` columns (default: the terminal's, from 40 to 120).

    Without ``color`` there is no escape sequence in it, whatever names the report holds.
    """
    report = cleaned_repair(report)
    full = {n: n for n in repair_names(report)}
    if any(cell_len(n) > _NAME_WIDTH for n in full):
        keys = {n: letter(i) for i, n in enumerate(full)}
        report, full = renamed_repair(report, keys), {k: n for n, k in keys.items()}
    return printed(lambda console: _blocks(report, full, console.width), width, color)


def _blocks(report: RepairReport, full: dict[str, str], width: int) -> Iterable[RenderableType]:
    comparison = compare(report)
    decision, summary = headline(report)
    mark = "✓" if report.accepted else "✗"
    yield Text.assemble((f"{mark} {decision.upper()}", _STYLES[decision]), "  ", summary)
    yield Text(about(report), style="dim")
    yield Text(measured(report), style="dim")
    yield from (_item(name, Text(f"= {whole}")) for name, whole in full.items() if name != whole)
    yield Text()
    for line in [*standing(report, comparison), *cautions(report)]:
        yield _item("·", Text(line))
    yield from _verdicts(report)
    yield from _checks(report)
    yield from _numbers(report, comparison, width)
    if report.losses:
        yield from heading("Losses")
        yield from (_item("·", Text(loss_line(c))) for c in report.losses)
    yield from _noted(report)
    yield from _rest(report, comparison)


def _noted(report: RepairReport) -> Iterable[RenderableType]:
    for grid in (new_grid(report), finding_grid(report), structure_grid(report)):
        if grid.rows:
            yield from heading(grid.title)
        for row in grid.rows:
            yield _item(
                "·", Text(f"{row[0].text}: {', '.join(f'{c.text} {c.aside}'.strip() for c in row[1:] if c.text)}")
            )


def _verdicts(report: RepairReport) -> Iterable[RenderableType]:
    grid = verdict_grid(report)
    yield from heading(grid.title)
    table = plain_table(*(h.text for h in grid.headers))
    for name, *cells in grid.rows:
        repaired = f"\n({name.aside})" if name.aside else ""
        table.add_row(Text(name.text + repaired), *(_verdict(c.text, c.aside, c.kind) for c in cells))
    yield table
    yield Text(grid.about, style="dim")


def _verdict(text: str, score: str, kind: str) -> Text:
    if kind not in STYLES:
        return Text(text)
    return Text.assemble((text, STYLES[kind]), f"\n{score}")


def _checks(report: RepairReport) -> Iterable[RenderableType]:
    if report.checks:
        yield from heading("Acceptance, on the validation split")
    for check in report.checks:
        cell = passed(check)
        yield _item(cell.text, Text(check.sentence), _STYLES[cell.kind])


def _numbers(report: RepairReport, comparison: Comparison, width: int) -> Iterable[RenderableType]:
    groups = {"The numbers that matter": key_rows(report, comparison)}
    for probe in _PROBES:
        pairs = [p for p in comparison.values.get(probe, ()) if "_loss" not in p.before.name]
        groups[heading_of(probe).title] = result_rows(pairs)
    every = [row.numbers for rows in groups.values() for row in rows]
    judged = any(n.than_control is not None for n in every)
    for title, rows in groups.items():
        if rows:
            yield from heading(title)
            yield _number_table(report, rows, width, judged)
    said = "change: after minus before; better or worse only where it is known which way is better"
    if any(j is not None and j.overlap for n in every for j in (n.than_before, n.than_control)):
        said += "; ~: the intervals overlap"
    if every:
        yield Text(f"{said}.", style="dim")


def _number_table(report: RepairReport, rows: Sequence[Row], width: int, judged: bool) -> Table:
    control = report.control is not None
    numbers = 2 + control
    widths = [*[_NUMBER_WIDTH] * numbers, _CHANGE_WIDTH, *[_JUDGED_WIDTH] * judged]
    left = max(10, min(28, width - sum(widths) - len(widths)))
    table = plain_table("", ">before", ">after", *[">control"] * control, ">change", *["than\ncontrol"] * judged)
    table.padding = 0  # the rule's own gaps are enough, and 80 columns are few
    for column, each in zip(table.columns, [left, *widths], strict=True):
        if width >= 80:  # so that tables below each other line up, and what is too long is broken in its own column
            column.min_width = column.max_width = each
    for row in rows:
        n = row.numbers
        change = Text.assemble(signed(n.difference), "\n", _judged(n.than_before))
        cells = [_estimate(n.before), _estimate(n.after), *[_estimate(n.control)] * control, change]
        table.add_row(broken_name(row.label, left), *cells, *[_judged(n.than_control)] * judged)
    return table


def _estimate(estimate: Estimate | None) -> Text:
    return Text(f"{fmt(estimate[0])}\n{fmt_interval(estimate[1])}".rstrip()) if estimate is not None else Text(ABSENT)


def _judged(found: Judgement | None) -> Text:
    if found is None:
        return Text("")
    return Text(f"~{found.word}") if found.overlap else Text(found.word, style=_STYLES.get(found.word, ""))


def _rest(report: RepairReport, comparison: Comparison) -> Iterable[RenderableType]:
    yield Text()
    left = sum(map(len, comparison.left.values()))
    if left:
        yield Text(f"{left} results were not compared; the HTML and Markdown reports say which and why.")
    yield Text(f"base sha256 {report.base_sha256}")
    made = f"Made by collapsekit {report.collapsekit}. All numbers, curves, definitions, sources and settings: "
    yield Text(f"{made}HTML or JSON report.", style="dim")


def _item(mark: str, text: Text, style: str = "") -> Table:
    """A line with a hanging mark before it."""
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text(mark, style=style), text)
    return table
