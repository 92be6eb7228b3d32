"""A document as GitHub-flavoured Markdown, for a pull request or a job summary. All text is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import singledispatch

from collapsekit.render.document import (
    TONES,
    Block,
    Cards,
    Cell,
    Code,
    Column,
    Detail,
    Details,
    Document,
    Facts,
    Figure,
    Gallery,
    Items,
    Line,
    Meter,
    Paragraph,
    Run,
    Table,
    Terms,
)

DETAIL = Detail.SUMMARY
_MOST_ROWS = 16  # of a table that is not folded
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


def write(document: Document, *, width: int | None = None, color: bool = False) -> str:
    """The document as Markdown, a line a row of its tables; it has neither width nor colour."""
    del width, color
    return "\n".join(_lines(document)) + "\n"


def _lines(document: Document) -> Iterator[str]:
    outcome = document.outcome
    head = f"{outcome.mark} {outcome.text[:1].upper()}{outcome.text[1:]}: " if outcome is not None else ""
    yield f"# {head}{escape(document.title)}"
    yield ""
    if document.about:
        yield "<br>".join(map(_line, document.about))
        yield ""
    if document.warnings:
        yield from (f"- **Warning:** {escape(warning)}" for warning in document.warnings)
        yield ""
    for block in document.blocks:
        yield from _written(block)
    for section in document.sections:
        if section.title:
            yield f"## {_line(section.title)}"
            yield ""
        for block in section.blocks:
            yield from _written(block)
    yield " ".join(map(_line, document.ends))


def _line(runs: Line) -> str:
    return "".join(map(_run, runs)).replace("\n", "<br>")


def _run(run: Run) -> str:
    if run.kind == "interval":
        return run.text
    text = code(run.text) if run.kind in ("name", "command") and run.text else escape(run.text)
    if text.strip() and (run.kind == "strong" or run.kind in TONES):
        text = f"**{text}**"
    return f"{run.mark} {text}" if run.mark else text


@singledispatch
def _written(block: Block) -> Iterator[str]:
    """The block's lines, the last of which is empty."""
    raise TypeError(f"{type(block).__name__} is no block of a document")


@_written.register
def _(block: Paragraph) -> Iterator[str]:
    yield _line(block.runs)
    yield ""


@_written.register
def _(block: Items) -> Iterator[str]:
    for i, runs in enumerate(block.lines):
        mark = f"{_run(block.marks[i])} " if block.marks else ""
        yield f"- {mark}{_line(runs)}"
    yield ""


@_written.register
def _(block: Facts) -> Iterator[str]:
    yield from (f"- {_line(what)}: {_line(how)}" for what, how in block.items)
    yield ""


@_written.register
def _(block: Terms) -> Iterator[str]:
    yield from [f"**{escape(block.title)}**", ""] * bool(block.title)
    for term in block.items:
        yield f"- {_line(term.runs)}: {_line(term.text)}" + (f" ({escape(term.source)})" if term.source else "")
    yield ""


@_written.register
def _(block: Code) -> Iterator[str]:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", block.text)), default=0))
    yield from (f"{fence}console", block.text, fence, "")


@_written.register
def _(block: Meter) -> Iterator[str]:
    yield escape(block.text)
    yield ""


@_written.register
def _(block: Figure) -> Iterator[str]:
    yield f"**{escape(block.title)}.** {escape(block.about)}" + (f" ({escape(block.source)})" if block.source else "")
    yield ""


@_written.register
def _(block: Gallery) -> Iterator[str]:
    for item in block.items:
        yield from _written(item)


@_written.register
def _(block: Cards) -> Iterator[str]:
    for card in block.items:
        yield f"### {_run(card.title)}" + (f": {_run(card.state)}" if card.state is not None else "")
        yield ""
        for inner in card.blocks:
            yield from _written(inner)


@_written.register
def _(block: Details) -> Iterator[str]:
    yield _line(block.title)
    yield ""
    for inner in block.blocks:
        yield from _written(inner)


@_written.register
def _(block: Table) -> Iterator[str]:
    """A pipe table, closed until clicked where it has many rows."""
    folded = block.folded or (block.counted and len(block.rows) > _MOST_ROWS)
    if folded:
        yield f"<details><summary>{len(block.rows)} {block.counted}</summary>"
        yield ""
    yield f"| {' | '.join(map(_head, block.columns))} |"
    yield f"|{'|'.join(' ---: ' if c.kind == 'number' else ' --- ' for c in block.columns)}|"
    group = None
    for row in block.rows:
        if row.group is not None and row.group is not group:
            yield _row([row.group, *[Cell()] * (len(block.columns) - 1)])
        group = row.group
        yield _row([part for c in row.cells for part in (c, *[Cell()] * (c.span - 1))], block.layout == "stack")
    yield ""
    if folded:
        yield "</details>"
        yield ""
    yield from (f"- {escape(legend.text)}." for legend in block.legend if legend.of != "short")
    yield from [""] * bool(block.legend)
    meaning = block.meaning()
    if meaning:
        yield escape(meaning[:1].upper() + meaning[1:].rstrip(".") + ".")
        yield ""


def _head(column: Column) -> str:
    return "<br>".join(_line(part) for part in ((column.head,), column.aside) if part)


def _row(cells: Sequence[Cell], stack: bool = False) -> str:
    return f"| {' | '.join(_cell(c, stack) for c in cells)} |"


def _cell(cell: Cell, stack: bool) -> str:
    text, aside = f"{_line(cell.runs)}{escape(cell.marks)}", _line(cell.aside)
    if aside and any(run.kind == "name" for run in cell.runs):
        return f"{text} ({aside})"
    return f"{text}<br>{aside}" if stack and aside else f"{text} {aside}".strip()
