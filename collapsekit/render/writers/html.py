"""A document as one HTML page: no script, nothing fetched, readable in light and dark, on paper and on a phone."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from collapsekit.render.document import (
    TONES,
    Block,
    Cards,
    Detail,
    Details,
    Document,
    Line,
    Span,
    TableCell,
    TableColumn,
    Terms,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

DETAIL = Detail.FULL
_HERE = Path(__file__).parent
# Nothing loads or runs, and of style sheets only our own counts. Attributes hold the figures' colours and the bars'
# lengths; browsers that do not know -elem and -attr (before 2023) go by style-src.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; style-src-elem 'sha256-{}'; style-src-attr 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
_LONG = 24  # characters from which a cell's text is broken over lines


def write(document: Document, *, width: int | None = None, color: bool = False) -> str:
    """Print the document as one self-contained page, the same bytes for the same document.

    All text is escaped by the template; the only markup let through is our own style sheet and figures.

    Args:
        document: What a view made.
        width: Not used: a page has none.
        color: Not used: a page has its own.

    Returns:
        The page.
    """
    del width, color
    anchors = {name: f"r{i}" for i, name in enumerate(_terms(b for s in document.sections for b in s.blocks))}
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "line": lambda runs: _line(runs, anchors),
        "field": _field_class,
        "percent": lambda share: round(100 * min(1.0, max(0.0, share)), 1),
        "svg": _svg,
        "tone": lambda kind: TONES.get(kind, ""),
        "type": lambda block: type(block).__name__,
    }
    style = (_HERE / "style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = environment.get_template("page.html.jinja")
    return page.render(
        document=document,
        main=next((s.name for s in document.sections if s.name), ""),
        anchors=dict(anchors),  # an id is taken from it once
        style=Markup(style),
        policy=Markup(_POLICY.format(digest)),
    )


def _terms(blocks: Iterable[Block]) -> Iterator[str]:
    """The names that are explained, each once, in order."""
    found: list[str] = []
    for block in blocks:
        if isinstance(block, Terms):
            found += [term.name for term in block.items if term.name]
        elif isinstance(block, Details):
            found += _terms(block.blocks)
        elif isinstance(block, Cards):
            found += [name for card in block.items for name in _terms(card.blocks)]
    yield from dict.fromkeys(found)


def _line(runs: Line, anchors: dict[str, str]) -> Markup:
    return Markup("").join(_run(run, anchors) for run in runs)


def _run(run: Span, anchors: dict[str, str]) -> Markup:
    named = run.kind in ("name", "label")
    text = _breakable(run.text) if named else Markup("<br>").join(run.text.split("\n"))
    if run.mark:
        text = Markup('<span aria-hidden="true">{}</span> {}').format(run.mark, text)
    if run.to in anchors:
        return Markup('<a href="#{}">{}</a>').format(anchors[run.to], text)
    match run.kind:
        case "name" | "command":
            return Markup("<code>{}</code>").format(text)
        case "strong":
            return Markup("<b>{}</b>").format(text)
        case "quiet" | "interval":
            return Markup('<span class="aside">{}</span>').format(text)
        case "on" | "off":
            return Markup('<span class="{}">{}</span>').format(run.kind, text)
        case kind if kind in TONES and text:
            return Markup('<span class="state {}">{}</span>').format(TONES[kind], text)
    return text


def _breakable(name: str) -> Markup:
    """The name, escaped, with leave to break the line after its own separators."""
    return Markup("<wbr>").join(re.findall(r"[^_\-./:+]*[_\-./:+]+|[^_\-./:+]+", name))


def _field_class(cell: TableCell, column: TableColumn) -> str:
    """What the style sheet calls a field: n for numbers, mark for signs, long for text of several lines."""
    length = sum(len(run.text) for run in cell.runs)
    names = {"n": column.kind == "number", "mark": column.kind == "mark", "bar": cell.bar is not None}
    names |= {"long": column.kind == "text" and length > _LONG, "noted": column.kind == "text" and bool(cell.aside)}
    return " ".join(name for name, is_so in names.items() if is_so)


def _svg(drawing: Drawing, title: str) -> Markup:
    from collapsekit.render.figures.style import inline_svg

    return Markup(inline_svg(drawing, title))
