"""The report for a terminal: the verdict first, then what it costs, then why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from collapsekit.render.numbers import ABSENT, fmt, fmt_estimate, fmt_interval
from collapsekit.render.sanitize import cleaned, modality_names, renamed
from collapsekit.render.screen import LABEL_WIDTH, STYLES, broken_name, heading, letter, plain_table, printed
from collapsekit.render.tables import (
    MARKS,
    WHOLE,
    Row,
    Section,
    Subset,
    command,
    sections,
    short_name,
    subsets,
    verdicts,
)
from collapsekit.report.diagnosis import Curve, ModalityVerdict, Report, Result

_NAME_WIDTH = 16  # modalities with longer names are called A, B, … after the verdict table
_CURVE_ROWS = 6  # lines for one curve's name; more is a data dump, and is in the HTML and JSON
_SUBSET_ROWS = 16
_BARS = "▁▂▃▄▅▆▇█"


def render(report: Report, *, width: int | None = None, color: bool = False) -> str:
    """The report as text no wider than ``width`` columns (default: the terminal's, from 40 to 120).

    Without ``color`` there is no escape sequence in it, whatever names the report holds.
    """
    report = cleaned(report)
    full = {n: n for n in modality_names(report)}
    if any(cell_len(n) > _NAME_WIDTH for n in full):
        keys = {n: letter(i) for i, n in enumerate(full)}
        report, full = renamed(report, keys), {k: f"{k} = {n}" for n, k in keys.items()}
    return printed(lambda console: _blocks(report, full, console), width, color)


def _blocks(report: Report, full: dict[str, str], console: Console) -> Iterable[RenderableType]:
    yield from _headline(report)
    yield Text()
    yield _verdict_table(report, full)
    for name, verdict in verdicts(report):
        yield Text()
        yield from _modality(report, verdict, full[name])
    yield from _coalitions(report)
    for section in sections(report):
        yield from _evidence(section, console)
    yield from _reproduce(report)


def _headline(report: Report) -> Iterable[RenderableType]:
    s = report.subject
    style = STYLES[report.verdict]
    yield Text.assemble((f"{MARKS[report.verdict]} {report.verdict.upper()}", style), "  ", report.summary)
    about = f"{s.checkpoint} · {s.task}, {s.metric} · {s.split} split, {s.examples} examples, seed {s.seed}"
    yield Text(about, style="dim")
    for warning in report.warnings:
        yield Text.assemble(("Warning: ", "bold yellow"), warning.sentence)


def _verdict_table(report: Report, full: dict[str, str]) -> Table:
    table = plain_table("modality", "verdict", ">ignored (0–1)", ">costs now", ">if missing")
    for name, v in verdicts(report):
        table.add_row(
            broken_name(full[name]),
            Text(f"{MARKS[v.verdict]} {v.verdict}", style=STYLES[v.verdict], no_wrap=True),
            Text(f"{fmt(v.score)}\n{fmt_interval(v.interval)}".rstrip()),
            Text(fmt(v.costs_now)),
            _worst_missing(v),
        )
    table.caption = Text(
        f"ignored: 0 = fully used, 1 = fully ignored; costs: {report.subject.metric} lost by not using the "
        "modality, today and when the other one named is missing"
    )
    table.caption_justify = "left"
    return table


def _worst_missing(verdict: ModalityVerdict) -> Text:
    if not verdict.costs_if_missing:
        return Text(ABSENT)
    other, cost = max(verdict.costs_if_missing.items(), key=lambda item: item[1])
    return Text(f"{fmt(cost)}\n{other}")


def _modality(report: Report, v: ModalityVerdict, full: str) -> Iterable[RenderableType]:
    yield Text.assemble((full, "bold"), f": {v.verdict}", style=STYLES[v.verdict])
    yield _indent(Text(v.reason))
    if len(v.costs_if_missing) > 1:
        costs = ", ".join(f"{fmt(cost)} without {other}" for other, cost in v.costs_if_missing.items())
        yield _indent(Text(f"Costs in {report.subject.metric}: {costs}."))


def _coalitions(report: Report) -> Iterable[RenderableType]:
    rows = subsets(report)
    if not rows:
        return
    yield from heading("What each subset of modalities can do")
    names = report.subject.modalities
    shown = _telling(rows, len(names))
    has_metric = any(s.metric is not None for s in shown)
    table = plain_table(*names, ">loss", *([f">{report.subject.metric}"] if has_metric else []))
    for s in shown:
        marks = [s.label.replace("+", " + ")] + [""] * (len(names) - 1)
        if s.members is not None:
            marks = ["●" if n in s.members else "·" for n in names]
        cells = [fmt_estimate(*e) if e is not None else ABSENT for e in (s.loss, s.metric)]
        table.add_row(*map(Text, marks + cells[: 1 + has_metric]))
    yield table
    if len(shown) < len(rows):
        yield Text(f"{len(rows) - len(shown)} more subsets in the JSON and HTML reports.", style="dim")


def _telling(rows: Sequence[Subset], count: int) -> Sequence[Subset]:
    """All subsets where they are few; else the empty one, singles, those that lack one, and the full one."""
    if len(rows) <= _SUBSET_ROWS:
        return rows
    sizes = {0, 1, count - 1, count}
    return [s for s in rows if s.members is not None and len(s.members) in sizes][: 2 * _SUBSET_ROWS]


def _evidence(section: Section, console: Console) -> Iterable[RenderableType]:
    # Curves over subset names are the coalition table above.
    curves = [r for r in section.curves if r.name not in ("reliance.subsets", "reliance.subsets_metric")]
    if not (section.whole or section.rows or curves or section.skipped):
        return
    yield from heading(section.title, "" if section.title == section.probe else f"  {section.probe}")
    if section.whole:
        table = plain_table("", ">value", "unit")
        for r in section.whole:
            table.add_row(
                broken_name(short_name(r), LABEL_WIDTH), Text(fmt_estimate(r.value, r.interval)), Text(r.unit or "")
            )
        yield table
    # With many modalities the numbers about two of them would bury the rest.
    rows = [r for r in section.rows if not r.pairwise or len(section.columns) <= 2]
    if rows:
        yield _fitting(section, rows, console)
    if len(rows) < len(section.rows):
        yield Text("Numbers about pairs of modalities: JSON and HTML reports.", style="dim")
    if curves:
        yield from _curves(curves)
    for about, note in section.notes:
        yield Text(f"Note on {about}: {note}")
    for r in section.skipped:
        of = f" ({r.modality})" if r.modality is not None else ""
        yield Text.assemble(f"{short_name(r)}{of}: ", ("not measured", "bold"), f", {r.skipped}")


def _fitting(section: Section, rows: Sequence[Row], console: Console) -> Table:
    """The first arrangement that fits: a column a modality, the same with intervals below, else a line a cell."""
    for separator in (" ", "\n"):
        table = plain_table("", *(f">{c}" for c in section.columns), "unit")
        for row in rows:
            cells = [_cell(c, separator) for c in row.cells]
            table.add_row(broken_name(row.label, LABEL_WIDTH), *cells, Text(row.unit or ""))
        if Measurement.get(console, console.options.update(max_width=10_000), table).maximum <= console.width:
            return table
    table = plain_table("", "modality", ">value", "unit")
    for row in rows:
        had = [(m, c) for m, c in zip(section.columns, row.cells, strict=True) if c is not None]
        for i, (modality, cell) in enumerate(had):
            first = broken_name(row.label, LABEL_WIDTH) if i == 0 else Text()
            table.add_row(first, Text(modality), _cell(cell, " "), Text(row.unit or ""))
    return table


def _cell(result: Result | None, separator: str) -> Text:
    if result is None:
        return Text("")
    return Text(f"{fmt(result.value)}{separator}{fmt_interval(result.interval)}".rstrip())


def _curves(curves: Sequence[Result]) -> Iterable[RenderableType]:
    groups: dict[str, list[Result]] = {}
    for r in curves:
        groups.setdefault(r.name, []).append(r)
    table = plain_table("curve", "of", ">first", "", ">last")
    hidden = 0
    for group in groups.values():
        # A modality beside itself says the most where there are too many pairs to show.
        own = [r for r in group if r.versus in (None, r.modality)] if len(group) > _CURVE_ROWS else group
        hidden += len(group) - len(own[:_CURVE_ROWS])
        for i, r in enumerate(own[:_CURVE_ROWS]):
            if r.curve is None or not r.curve.y:
                continue
            name = broken_name(f"{short_name(r)} over {r.curve.x_label}", LABEL_WIDTH) if i == 0 else Text()
            of = (r.modality or WHOLE) + (f" versus {r.versus}" if r.versus is not None else "")
            table.add_row(name, Text(of), Text(fmt(r.curve.y[0])), Text(_sparkline(r.curve)), Text(fmt(r.curve.y[-1])))
    yield table
    if hidden:
        yield Text(f"{hidden} more curves in the JSON and HTML reports.", style="dim")


def _sparkline(curve: Curve, points: int = 12) -> str:
    n = min(points, len(curve.y))
    # Halves, as the span of two numbers may be more than a number can be.
    picked = [curve.y[round(i * (len(curve.y) - 1) / max(1, n - 1))] / 2 for i in range(n)]
    low, span = min(picked), max(picked) - min(picked)
    if span <= 0:
        return _BARS[0] * n
    return "".join(_BARS[min(7, int((y - low) / span * 8))] for y in picked)


def _reproduce(report: Report) -> Iterable[RenderableType]:
    yield from heading("Reproduce")
    line = command(report)
    if line is not None:
        yield _indent(Text(line, style="bold"))
    yield _indent(Text(f"checkpoint sha256 {report.subject.sha256}"))
    made = f"Made by collapsekit {report.collapsekit}. Definitions, sources, all settings and what each verdict was "
    yield Text(f"{made}read from: HTML or JSON report.", style="dim")


def _indent(text: Text) -> Padding:
    return Padding(text, (0, 0, 0, 2))
