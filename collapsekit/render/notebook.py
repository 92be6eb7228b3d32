"""What a notebook shows of a report: its first screen, as a piece of HTML.

The page that the HTML writer makes would restyle the notebook around it. Here every style stands in the element that has it,
colours are those of the notebook, and what does not fit on a screen is left to ``report.save("report.html")``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from itertools import islice

from collapsekit.io.safe_text import clean
from collapsekit.render import document as doc
from collapsekit.render import document_of
from collapsekit.render.document import Detail, Document, Line, Span
from collapsekit.render.plotting import drawable
from collapsekit.render.views._calls import recorded_calls
from collapsekit.report.base import Contract
from collapsekit.report.diagnosis import Report

_ROOM = 16_000  # bytes, beside what stands at the end
_LINES, _WIDTH = 32, 110  # of a screen
_ROWS = 20  # of a table, or lines of a list
_SENTENCE = 400  # characters of a sentence, at most
# Tints of no theme, under letters of the notebook's own colour, so that both are read in light and in dark.
_TINTS = {"bad": "214,57,36", "warn": "222,152,0", "open": "120,120,120", "calm": "70,130,200", "good": "20,150,90"}
_CELL = 'style="text-align:left;vertical-align:top;padding:2px 12px 2px 0"'
_MUTED = 'style="opacity:.7"'
_INTERVAL = 'style="opacity:.7;white-space:nowrap"'
_CODE = 'style="font-size:.95em;background:none;color:inherit"'


def first_screen(report: Contract) -> str:
    """Write the first screen of a report: its outcome, what was found, and what can be done next; under 20 kB."""
    document = document_of(report, Detail.GLANCE)
    parts = [*_head(document)]
    room = _ROOM - sum(map(_size, parts))
    for section in _first_sections(report, document):
        texts = list(_section(section, room))
        room -= sum(map(_size, texts))
        parts += texts
        if room <= 0:
            break
    parts += [f'<p style="margin:8px 0 0">{_runs(line)}</p>' for line in _ends(report)]
    return f'<div class="collapsekit" style="max-width:60em;line-height:1.4">\n{chr(10).join(parts)}\n</div>'


def _first_sections(report: Contract, document: Document) -> Iterator[doc.Section]:
    """Of a diagnosis the verdicts, behind which every probe has its numbers; of another report what a screen holds."""
    if isinstance(report, Report):
        yield from (s for s in document.sections if s.name == "verdicts")
        return
    lines = 0
    for section in document.sections:
        lines += sum(map(_lines, _short(section.blocks)))
        if section is not document.sections[0] and lines > _LINES:
            return
        yield section


def _lines(block: doc.Paragraph | doc.Items | doc.Table) -> int:
    """About how many lines it takes on a screen."""
    if isinstance(block, doc.Table):
        return 1 + len(block.rows)
    each = block.lines if isinstance(block, doc.Items) else (block.runs,)
    return sum(1 + len(doc.plain(runs)) // _WIDTH for runs in each)


def _head(document: Document) -> Iterator[str]:
    yield f"<div {_MUTED}>{escape(document.subject)}</div>"
    outcome = f"{_run(document.outcome)} " if document.outcome is not None else ""
    yield f'<div style="font-size:1.15em;margin:2px 0 6px">{outcome}<b>{_text(document.title)}</b></div>'
    facts = " · ".join(f"{_plain(t.runs)} {_runs(t.text)}" for t in document.facts.items)
    if facts:
        yield f"<div {_MUTED}>{facts}</div>"
    warnings = document.warnings[:3]
    yield from (f"<div><b>Warning.</b> {_text(text)}</div>" for text in warnings)
    if len(document.warnings) > len(warnings):
        yield f"<div {_MUTED}>{len(document.warnings) - len(warnings)} more warnings</div>"


def _section(section: doc.Section, room: int) -> Iterator[str]:
    """The section's blocks, as far as there is room: rows and lines that find none are counted."""
    if section.title and not section.name:
        yield f'<div style="margin-top:8px"><b>{_runs(section.title)}</b></div>'
    for block in _short(section.blocks):
        if room <= 0:
            return
        text = _block(block, room)
        room -= _size(text)
        yield text


def _short(blocks: Iterable[doc.Block]) -> Iterator[doc.Paragraph | doc.Items | doc.Table]:
    """Blocks as a screen has room for them: of each card its name and its first sentence, a line each."""
    for block in blocks:
        cards = [c for c in block.items if isinstance(c, doc.Card)] if isinstance(block, doc.Gallery) else []
        if not cards:
            yield from doc.simple((block,))
            continue
        first = (next((b.runs for b in c.blocks if isinstance(b, doc.Paragraph)), ()) for c in cards)
        titles = (Span(c.title.text, "strong") for c in cards)
        yield doc.Items(tuple((title, Span(": "), *runs) for title, runs in zip(titles, first, strict=True)))


def _block(block: doc.Paragraph | doc.Items | doc.Table, room: int) -> str:
    if isinstance(block, doc.Table):
        return _table(block, room)
    if isinstance(block, doc.Items):
        marks = [f"{_run(mark)} " for mark in block.marks] or [""] * len(block.lines)
        lines = [f"<li>{mark}{_runs(line)}</li>" for mark, line in zip(marks, block.lines, strict=True)]
        kept = list(_fitting(lines, room))
        more = f"<li {_MUTED}>and {len(lines) - len(kept)} more</li>" * (len(kept) < len(lines))
        return f'<ul style="margin:4px 0 4px 1.2em;padding:0">{"".join(kept)}{more}</ul>'
    text = _runs(block.runs)
    if block.kind == "heading":
        return f'<div style="margin-top:6px"><b>{text}</b></div>'
    how = _MUTED if block.kind in ("lead", "note") else 'style="margin:0"'
    return f"<div {how}>{text}</div>"


def _table(block: doc.Table, room: int) -> str:
    heads = "".join(f"<th {_CELL}>{_run(c.head)}</th>" for c in block.columns)
    rows = ["<tr>" + "".join(f"<td {_CELL}>{_cell(c)}</td>" for c in row) + "</tr>" for row in block.rows]
    kept = list(_fitting(rows, room - _size(heads)))
    more = f"<div {_MUTED}>and {len(rows) - len(kept)} more</div>" * (len(kept) < len(rows))
    legend = "".join(f"<div {_MUTED}>{_text(text)}.</div>" for text in block.legend)
    if not kept:
        return more
    body = f"<thead><tr>{heads}</tr></thead><tbody>{''.join(kept)}</tbody>"
    return f'<table style="border-collapse:collapse;margin:6px 0">{body}</table>{more}{legend}'


def _fitting(texts: Iterable[str], room: int) -> Iterator[str]:
    """The first of them that find room together, on a screen."""
    for text in islice(texts, _ROWS):
        room -= _size(text)
        if room < 0:
            return
        yield text


def _cell(cell: doc.TableCell) -> str:
    return f"{_runs(cell.runs)}{escape(cell.marks)} {_runs(cell.aside)}".strip()


def _runs(runs: Line) -> str:
    return "".join(map(_run, runs))


def _run(run: Span) -> str:
    text = f"{escape(run.mark)} {_text(run.text)}" if run.mark else _text(run.text)
    tone = doc.TONES.get(run.kind)
    if tone is not None and run.text.strip():
        tint = f"background:rgba({_TINTS[tone]},.18);padding:0 6px;border-radius:4px;white-space:nowrap"
        return f'<span style="{tint}">{text}</span>'
    if run.kind in ("name", "command") and run.text:
        return f"<code {_CODE}>{text}</code>"
    if run.kind in ("quiet", "interval"):
        how = _INTERVAL if run.kind == "interval" else _MUTED
        return f"<span {how}>{text}</span>"
    return f"<b>{text}</b>" if run.kind == "strong" else text


def _text(text: str) -> str:
    """Escaped, cut where it is longer than a sentence should be; a line break stays one."""
    return "<br>".join(escape(clean(part, _SENTENCE)) for part in text.split("\n"))


def _plain(runs: Line) -> str:
    return _text(doc.plain(runs))


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _ends(report: Contract) -> Iterator[Line]:
    """How far it was judged, what to do next, and where the rest is."""
    if isinstance(report, Report):
        yield from _judged(report)
        yield from _next(report)
    rest = "Everything else: " if isinstance(report, Report) else "All of it: "
    looks = [Span(f"report.{call}", "command") for call in _calls(report)]
    yield doc.line(rest, *[part for look in looks for part in (look, ", ")][:-1])


def _judged(report: Report) -> Iterator[Line]:
    judged = report.judged
    if judged is None:
        return
    if judged.extent == "fully":
        yield doc.line("Judged fully.")
    else:
        yield doc.line(
            Span("Judged partly", "strong"), f": what is missing is {clean('; '.join(judged.missing), _SENTENCE)}."
        )


def _next(report: Report) -> Iterator[Line]:
    """What the terminal names as well, as calls."""
    for i, (why, call) in enumerate(recorded_calls(report)):
        about = clean(why, _SENTENCE)
        lead = [Span("Next: ", "strong")] * (i == 0)
        shown = [Span(" "), Span(clean(call, _SENTENCE), "command")] if call else []
        yield doc.line(*lead, about if lead else about[:1].upper() + about[1:], *shown)


def _calls(report: Contract) -> Iterator[str]:
    """Methods that show more of it, with arguments that work."""
    if isinstance(report, Report):
        yield from (f'plot("{name}")' for name in islice(drawable(report), 1))
        yield "to_frame()"
    yield 'save("report.html")'
