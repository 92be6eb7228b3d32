"""Reports side by side as GitHub-flavoured Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from collapsekit.render.compare_tables import (
    Block,
    Shown,
    about,
    absences,
    blocks,
    cleaned_comparison,
    definitions,
    legend,
    p_blocks,
    runs_of,
)
from collapsekit.render.markdown import code, escape, folded, table
from collapsekit.report.comparison import Column, Comparison


def render(comparison: Comparison) -> str:
    """The comparison as Markdown: one table of verdicts and numbers, p-values, notes, definitions. Names are escaped."""
    return "\n".join(_lines(cleaned_comparison(comparison))) + "\n"


def _lines(c: Comparison) -> Iterator[str]:
    yield f"# Compared: {', '.join(code(column.name) for column in c.columns)}"
    yield ""
    yield escape(about(c))
    yield ""
    yield from _grid(c.columns, blocks(c))
    for line in legend(c):
        yield f"- {escape(line)}."
    yield ""
    tested, found = p_blocks(c)
    if found and c.testing is not None:
        yield f"## p-values after Holm's correction, against {code(c.testing.reference)}"
        yield ""
        yield from _grid(tested, found)
    if c.notes:
        yield "## Notes"
        yield ""
        yield from (f"- {escape(note)}" for note in c.notes)
        yield ""
    missing = [[code(a), code(b), escape(why)] for a, b, why in absences(c)]
    if missing:
        yield "## Not measured"
        yield ""
        yield from folded(missing, ("number", "column", "why"), "numbers")
    yield "## Definitions and sources"
    yield ""
    rows = [[code(name), escape(text), escape(source)] for name, text, source in definitions(c)]
    yield from folded(rows, ("number", "definition", "source"), "definitions", most=0)
    yield "## Reports"
    yield ""
    yield from folded(
        list(_reports(c.columns)), ("column", "report", "checkpoint", "sha256", ">training seed"), "reports"
    )
    yield f"Made by collapsekit {escape(c.collapsekit)}."


def _grid(columns: Sequence[Column], found: Sequence[Block]) -> Iterator[str]:
    heads = [f">{code(c.name)}<br>{escape(runs_of(c)) if len(c.runs) > 1 else code(runs_of(c))}" for c in columns]
    rows = []
    for block in found:
        name = f"{code(block.name)} {block.arrow}".rstrip()
        for line in block.lines:
            versus = f" without {code(line.versus)}" if line.versus is not None else ""
            of = f"{code(line.modality)}{versus}" if line.modality is not None else ""
            rows.append([name, of, *map(_cell, line.cells), escape(block.unit)])
    yield from table(("number", "of", *heads, "unit"), rows)


def _cell(cell: Shown) -> str:
    if cell.state is not None:
        return escape(cell.text).replace(", ", "<br>")
    text = f"**{escape(cell.text)}**" if cell.best else escape(cell.text)
    return f"{text}{escape(cell.marks)} {escape(cell.aside)}".rstrip()


def _reports(columns: Sequence[Column]) -> Iterator[list[str]]:
    for column in columns:
        for run in column.runs:
            seed = "" if run.training_seed is None else str(run.training_seed)
            yield [code(column.name), code(run.path), code(run.checkpoint), code(run.sha256), seed]
