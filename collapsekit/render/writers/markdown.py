"""A document as GitHub-flavoured Markdown, for a pull request or a job summary. All text is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from collapsekit.render import document as doc

DETAIL = doc.Detail.SUMMARY
_MOST_ROWS = 16  # of a table that is not folded
_SPECIAL = re.compile(r"[\\`*\[\]<>&|#~$@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE)
_BROKEN = "@#"  # what GitHub would turn into a mention or a reference even when written as an entity


def escape(text: str) -> str:
    """Write a sentence in which nothing is markup: no HTML, link, mention, reference, emphasis, formula or cell end."""
    return _SPECIAL.sub(lambda m: _entity(m[0]) + ("<!-- -->" if m[0] in _BROKEN else ""), text)


def code(text: str) -> str:
    """Write a name as inline code, safe in a table too; entities are used where backticks could not hold it."""
    if text and text == text.strip() and "`" not in text and "|" not in text:
        return f"`{text}`"
    return f"<code>{_SPECIAL.sub(lambda m: _entity(m[0]), text)}</code>"


def _entity(char: str) -> str:
    return {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(char, f"&#{ord(char)};")


def write(document: doc.Document, **screen: object) -> str:
    """Print the document as Markdown, a line a row of its tables, the same for every screen."""
    del screen
    return "\n".join(_lines(document)) + "\n"


def _lines(document: doc.Document) -> Iterator[str]:
    outcome = document.outcome
    head = f"{outcome.mark} {outcome.text[:1].upper()}{outcome.text[1:]}: " if outcome is not None else ""
    yield f"# {head}{escape(document.title)}"
    yield ""
    facts = " · ".join(f"{_line(fact.runs)} {_line(fact.text)}" for fact in document.facts.items)
    yield from [facts, ""] * bool(facts)
    if document.warnings:
        yield from (f"- **Warning:** {escape(warning)}" for warning in document.warnings)
        yield ""
    for section in document.sections:
        if section.title:
            yield f"## {_line(section.title)}"
            yield ""
        yield from _written(section.blocks)
    yield " ".join(map(_line, document.ends))


def _line(runs: doc.Line) -> str:
    return "".join(map(_run, runs)).replace("\n", "<br>")


def _run(run: doc.Span) -> str:
    if run.kind == "interval":
        return run.text
    text = code(run.text) if run.kind in ("name", "command") and run.text else escape(run.text)
    if text.strip() and (run.kind == "strong" or run.kind in doc.TONES):
        text = f"**{text}**"
    return f"{run.mark} {text}" if run.mark else text


def _written(blocks: Iterable[doc.Block]) -> Iterator[str]:
    """The blocks' lines, an empty one after each block."""
    for block in blocks:
        if isinstance(block, doc.Details):
            yield from _folded(doc.plain(block.title), _written(block.blocks))
        else:
            yield from _unfolded(block)


def _folded(title: str, lines: Iterable[str]) -> Iterator[str]:
    """Lines that are closed until their title is clicked."""
    yield from (f"<details><summary>{escape(title)}</summary>", "", *lines, "</details>", "")


def _unfolded(part: doc.Block) -> Iterator[str]:
    for block in doc.simple((part,)):
        if isinstance(block, doc.Table) and block.counted and len(block.rows) > _MOST_ROWS:
            yield from _folded(f"{len(block.rows)} {block.counted}", (*_table(block), ""))
            continue
        if isinstance(block, doc.Table):
            yield from _table(block)
        elif isinstance(block, doc.Items):
            marks = [f"{_run(mark)} " for mark in block.marks] or [""] * len(block.lines)
            yield from (f"- {mark}{_line(runs)}" for mark, runs in zip(marks, block.lines, strict=True))
        elif block.kind == "command":
            text = doc.plain(block.runs)
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            yield from (f"{fence}console", text, fence)
        else:
            yield ("### " if block.kind == "heading" else "") + _line(block.runs)
        yield ""


def _table(block: doc.Table) -> Iterator[str]:
    """A pipe table, and what its numbers and signs mean."""
    yield f"| {' | '.join(_line((c.head,)) for c in block.columns)} |"
    yield f"|{'|'.join(' ---: ' if c.kind == 'number' else ' --- ' for c in block.columns)}|"
    yield from (f"| {' | '.join(map(_cell, row))} |" for row in block.rows)
    legend = [f"- {escape(text)}." for text in block.legend]
    yield from ["", *legend] * bool(legend)
    meaning = block.meaning()
    yield from ["", escape(meaning[:1].upper() + meaning[1:].rstrip(".") + ".")] * bool(meaning)


def _cell(cell: doc.TableCell) -> str:
    text, aside = f"{_line(cell.runs)}{escape(cell.marks)}", _line(cell.aside)
    if aside and any(run.kind == "name" for run in cell.runs):
        return f"{text} ({aside})"
    return f"{text} {aside}".strip(" ")
