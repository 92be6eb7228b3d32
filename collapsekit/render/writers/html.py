"""A document as one HTML page: no script, nothing fetched, readable in light and dark, on paper and on a phone."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import defaultdict
from collections.abc import Callable
from itertools import count
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from collapsekit.render import document as doc
from collapsekit.render.figures.style import inline_svg
from collapsekit.render.glossary import Entry, split_at_terms

DETAIL = doc.Detail.FULL
_HERE = Path(__file__).parent
# Nothing loads or runs, and of style sheets only our own counts. Attributes hold the figures' colours and the bars'
# lengths; browsers that do not know -elem and -attr (before 2023) go by style-src.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; style-src-elem 'sha256-{}'; style-src-attr 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
_SCRIPT_POLICY = "; script-src 'sha256-{}'; require-trusted-types-for 'script'; trusted-types 'none'"
_TAGS = {
    **dict.fromkeys(("name", "command"), "<code>{}</code>"),
    **dict.fromkeys(("quiet", "interval"), '<span class="aside">{}</span>'),
    **{kind: f'<span class="{kind}">{{}}</span>' for kind in ("on", "off")},
    "strong": "<b>{}</b>",
}
_LONG = 24  # characters from which a cell's text is broken over lines


class Explained:
    """The terms that a page explains: each where a part of it first has the word, and all of them in its glossary."""

    def __init__(self, names: tuple[str, ...] = ()) -> None:
        self._names = tuple(filter(str.strip, names))
        self._entries: set[Entry] = set()
        self._here: set[Entry] = set()

    def start_part(self) -> None:
        """Begin a part of the page that is read by itself, in which each term is explained anew."""
        self._here.clear()

    def mark(self, text: str, *, state: bool = False) -> Markup:
        """Escape a text, and explain the terms in it that this part has not explained."""
        return Markup("").join(
            self._piece(piece, entry)
            for piece, entry in split_at_terms(text, state=state, names=() if state else self._names)
        )

    def _piece(self, text: str, entry: Entry | None) -> Markup:
        if entry is None or entry in self._here:
            return Markup("{}").format(text)
        self._here.add(entry)
        self._entries.add(entry)
        return Markup('<abbr title="{}">{}</abbr>').format(entry.plain, text)

    def glossary(self) -> doc.Terms:
        """List all that was explained so far, by the alphabet."""
        entries = sorted(self._entries, key=lambda e: (e.forms[0].lower(), e.forms))
        return doc.Terms(tuple(doc.Term(doc.line(e.forms[0]), doc.line(e.plain)) for e in entries))


def write(document: doc.Document, **screen: object) -> str:
    """Print the document as one self-contained page, the same bytes for the same document on every screen.

    All text is escaped by the template; the only markup let through is our own style sheet and figures.
    """
    del screen
    return make_page(document)


def make_page(document: doc.Document, *, style: str = "", script: str = "", data: str = "") -> str:
    """Print the document as a page, inert where it has no script.

    Args:
        document: What the page says.
        style: A style sheet behind that of all pages.
        script: One script, which alone may run, and may make no markup of a string.
        data: What the script reads, as JSON that is safe in a page.

    Returns:
        The page.
    """
    anchors: dict[str, str] = defaultdict(map("r{}".format, count()).__next__)
    explained = Explained(document.names)
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "line": lambda runs: Markup("").join(_run(run, anchors, explained.mark) for run in runs),
        "head": lambda runs: Markup("").join(_run(run, anchors, _as_it_is) for run in runs),
        "prose": explained.mark,
        "plain": doc.plain,
        "field": _field_class,
        "percent": lambda share: round(100 * min(1.0, max(0.0, share)), 1),
        "svg": lambda drawing, title: Markup(inline_svg(drawing, title)),
        "tone": lambda kind: doc.TONES.get(kind, ""),
        "type": lambda block: type(block).__name__,
    }
    style = (_HERE / "style.css").read_text(encoding="utf-8") + style
    policy = _POLICY.format(_digest(style)) + (_SCRIPT_POLICY.format(_digest(script)) if script else "")
    return environment.get_template("page.html.jinja").render(
        document=document,
        main=next((s.name for s in document.sections if s.name), ""),
        anchors=anchors,  # a run takes an id from it, and the first term of that name, which stands below, bears it
        explained=explained,
        style=Markup(style),
        script=Markup(script),
        data=Markup(data),
        policy=Markup(policy),
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _as_it_is(text: str, *, state: bool = False) -> Markup:
    del state
    return Markup("{}").format(text)


def _run(run: doc.Span, anchors: dict[str, str], mark: Callable[..., Markup]) -> Markup:
    named = run.kind in ("name", "label", "command", "on", "off") or run.to
    shown = _as_it_is if named else mark
    if run.kind in ("name", "label"):
        text = _breakable(run.text)
    else:
        text = Markup("<br>").join(shown(part, state=run.kind in doc.TONES) for part in run.text.split("\n"))
    if run.mark:
        text = Markup('<span aria-hidden="true">{}</span> {}').format(run.mark, text)
    if run.to:
        return Markup('<a href="#{}">{}</a>').format(anchors[run.to], text)
    if run.kind in doc.TONES and text:
        return Markup('<span class="state {}">{}</span>').format(doc.TONES[run.kind], text)
    return Markup(_TAGS.get(run.kind, "{}")).format(text)


def _breakable(name: str) -> Markup:
    """The name, escaped, with leave to break the line after its own separators."""
    return Markup("<wbr>").join(re.findall(r"[^_\-./:+]*[_\-./:+]+|[^_\-./:+]+", name))


def _field_class(cell: doc.TableCell, column: doc.TableColumn) -> str:
    """What the style sheet calls a field: n for numbers, mark for signs, long for text of several lines."""
    length = sum(len(run.text) for run in cell.runs)
    names = {"n": column.kind == "number", "mark": column.kind == "mark", "bar": cell.bar is not None}
    names["long"] = column.kind == "text" and length > _LONG
    return " ".join(name for name, is_so in names.items() if is_so)
