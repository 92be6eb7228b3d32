"""The report as GitHub-flavoured Markdown, for a pull request or a job summary."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from collapsekit.render.numbers import ABSENT, fmt, fmt_estimate
from collapsekit.render.sanitize import cleaned
from collapsekit.render.tables import (
    MARKS,
    Section,
    command,
    label,
    sections,
    settings_lines,
    short_name,
    subsets,
    verdicts,
)
from collapsekit.report.diagnosis import Report, Result

_SPECIAL = re.compile(r"[\\`*\[\]<>&|#~$@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE)
_BROKEN = "@#"  # what GitHub would turn into a mention or a reference even when written as an entity


def escape(text: str) -> str:
    """A sentence in which nothing is markup: no HTML, link, mention, reference, emphasis, formula or cell end."""
    return _SPECIAL.sub(lambda m: _entity(m[0]) + ("<!-- -->" if m[0] in _BROKEN else ""), text)


def code(text: str) -> str:
    """A name as inline code, safe in a table too; entities are used where backticks could not hold it."""
    if text and text == text.strip() and "`" not in text and "|" not in text:
        return f"`{text}`"
    return f"<code>{_SPECIAL.sub(lambda m: _entity(m[0]), text)}</code>"


def _entity(char: str) -> str:
    return {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(char, f"&#{ord(char)};")


def render(report: Report) -> str:
    """The report as Markdown: verdicts, subsets, evidence, definitions, settings. All names are escaped."""
    report = cleaned(report)
    lines = [*_head(report), *_subsets(report)]
    for section in sections(report):
        lines += _section(section)
    lines += [*_definitions(sections(report)), *_reproduce(report)]
    return "\n".join(lines) + "\n"


def _head(report: Report) -> Iterator[str]:
    s = report.subject
    yield f"# {MARKS[report.verdict]} {report.verdict.capitalize()}: {escape(report.summary)}"
    yield ""
    yield (
        f"{code(s.checkpoint)}, {escape(s.task)} ({escape(s.metric)}), {escape(s.split)} split, "
        f"{s.examples} examples, seed {s.seed}."
    )
    yield ""
    for warning in report.warnings:
        yield f"- **Warning:** {escape(warning.sentence)}"
    if report.warnings:
        yield ""
    rows = []
    for name, v in verdicts(report):
        missing = "<br>".join(f"{fmt(cost)} without {code(o)}" for o, cost in v.costs_if_missing.items())
        rows.append(
            [
                code(name),
                f"{MARKS[v.verdict]} **{v.verdict}**",
                fmt_estimate(v.score, v.interval),
                fmt(v.costs_now),
                missing or ABSENT,
                escape(v.reason),
            ]
        )
    yield from table(("modality", "verdict", ">ignored (0–1)", ">costs now", ">costs if missing", "why"), rows)
    yield f"Ignored: 0 is fully used, 1 fully ignored. Costs are in {escape(s.metric)}."
    yield ""


def _subsets(report: Report) -> Iterator[str]:
    rows = [
        [escape(s.label.replace("+", " + "))]
        + [fmt_estimate(*e) if e is not None else ABSENT for e in (s.loss, s.metric)]
        for s in subsets(report)
    ]
    if rows:
        yield "## What each subset of modalities can do"
        yield ""
        yield from folded(rows, ("subset", ">loss", f">{escape(report.subject.metric)}"), "subsets")


def _section(section: Section) -> Iterator[str]:
    yield f"## {escape(section.title)}"
    yield ""
    if section.whole:
        rows = [[code(short_name(r)), fmt_estimate(r.value, r.interval), escape(r.unit or "")] for r in section.whole]
        yield from table(("result", ">value", "unit"), rows)
    if section.rows:
        rows = [[code(row.label), *(_cell(c) for c in row.cells), escape(row.unit or "")] for row in section.rows]
        yield from table(("result", *(f">{code(c)}" for c in section.columns), "unit"), rows)
    curves = [r for r in section.curves if r.curve is not None and not r.name.startswith("reliance.subsets")]
    if curves:
        rows = [[code(label(r)), *_ends(r)] for r in curves]
        yield from folded(rows, ("curve", "over", ">points", ">first", ">last"), "curves")
    for about, note in section.notes:
        yield f"- Note on {code(about)}: {escape(note)}"
    for r in section.skipped:
        yield f"- {code(label(r))} was not measured: {escape(r.skipped or '')}"
    if section.notes or section.skipped:
        yield ""


def _cell(result: Result | None) -> str:
    return "" if result is None else fmt_estimate(result.value, result.interval)


def _ends(result: Result) -> list[str]:
    curve = result.curve
    if curve is None or not curve.y:
        return ["", "0", ABSENT, ABSENT]
    return [escape(curve.x_label), str(len(curve.y)), fmt(curve.y[0]), fmt(curve.y[-1])]


def _definitions(found: Iterable[Section]) -> Iterator[str]:
    rows = [[code(r.name), escape(r.definition), escape(r.source)] for section in found for r in section.definitions]
    if rows:
        yield "## Definitions and sources"
        yield ""
        yield from folded(rows, ("result", "definition", "source"), "definitions", most=0)


def _reproduce(report: Report) -> Iterator[str]:
    yield "## Reproduce"
    yield ""
    line = command(report)
    if line is not None:
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", line)), default=0))
        yield from (f"{fence}console", line, fence, "")
    rows = [[code(k), code(v) if v else ""] for k, v in settings_lines(report)]
    rows.append([code("checkpoint sha256"), code(report.subject.sha256)])
    yield from table(("setting", "value"), rows)
    yield f"Made by collapsekit {escape(report.collapsekit)}."


def folded(rows: Sequence[Sequence[str]], headers: Sequence[str], what: str, most: int = 16) -> Iterator[str]:
    """A table, closed until clicked where it has more than ``most`` rows."""
    if len(rows) > most:
        yield f"<details><summary>{len(rows)} {what}</summary>"
        yield ""
    yield from table(headers, rows)
    if len(rows) > most:
        yield "</details>"
        yield ""


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A pipe table and a blank line; a header that starts with ``>`` is right-aligned. Cells are escaped already."""
    yield f"| {' | '.join(h.removeprefix('>') for h in headers)} |"
    yield f"|{'|'.join(' ---: ' if h.startswith('>') else ' --- ' for h in headers)}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""
