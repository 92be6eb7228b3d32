"""What a report says, as headings, sentences, tables and figures without any markup. A view makes a document of a report,
a writer prints it: neither knows the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


class Detail(IntEnum):
    """How much room the reader has; a writer names its own, and views leave out what does not fit."""

    GLANCE = 1  # a screen: what matters, in plain letters
    SUMMARY = 2  # a comment on a pull request: all but figures, and of curves where they begin and end
    FULL = 3  # a page of its own


_STATES = {
    "collapsed": ("✗", "bad"),
    "underused": ("◐", "warn"),
    "inconclusive": ("?", "open"),
    "uninformative": ("○", "calm"),
    **dict.fromkeys(("used", "healthy", "passed", "accepted"), ("✓", "good")),
    **dict.fromkeys(("failed", "rejected"), ("✗", "bad")),
}
MARKS = {word: mark for word, (mark, _) in _STATES.items()}
TONES = {word: tone for word, (_, tone) in _STATES.items()} | {"better": "good", "worse": "bad"}
"""The tone of each kind of run that has one: bad, warn, open, calm or good."""


@dataclass(frozen=True)
class Span:
    """A piece of a line. ``kind`` is text, name (of a result, a file, a setting), label (a name in running text), command,
    strong, quiet, interval, on or off (of what a subset holds), or a word of ``TONES``."""

    text: str
    kind: str = "text"
    mark: str = ""  # a sign before it that says the same
    to: str = ""  # the term that explains it


Line = tuple[Span, ...]


def line(*parts: str | Span) -> Line:
    """Make a line of strings, which become plain runs, and runs; empty strings are left out."""
    return tuple(Span(p) if isinstance(p, str) else p for p in parts if p)


def state(word: str, text: str = "") -> Span:
    """Name a verdict or an outcome, with its mark and tone."""
    return Span(text or word, word, MARKS[word])


def plain(runs: Line) -> str:
    """Read the text of a line."""
    return "".join(f"{r.mark} {r.text}".strip() if r.mark else r.text for r in runs)


@dataclass(frozen=True)
class TableCell:
    """What stands in a field of a table, and the interval or remark that goes with it."""

    runs: Line = ()
    aside: Line = ()
    marks: str = ""  # signs behind it that the table's legend explains
    bar: float | None = None  # its size as a part of the largest one


def cell(text: str, kind: str = "text") -> TableCell:
    """Fill a cell with one run of a kind that :class:`Span` has."""
    return TableCell(line(Span(text, kind)) if text else ())


def name(text: str, aside: str = "") -> TableCell:
    """Fill a cell with the name of a result, a setting or a file, and a quiet remark."""
    return TableCell(cell(text, "name").runs, cell(aside, "quiet").runs)


@dataclass(frozen=True)
class TableColumn:
    """The head of a column. Numbers are aligned at the right; a state is not broken over lines."""

    head: Span
    kind: Literal["text", "number", "mark", "state"] = "text"
    about: str = ""  # what its numbers mean


def columns(*heads: str | TableColumn) -> tuple[TableColumn, ...]:
    """Head columns; of strings, one that starts with ``>`` is over numbers."""
    return tuple(
        TableColumn(Span(h.removeprefix(">")), "number" if h.startswith(">") else "text") if isinstance(h, str) else h
        for h in heads
    )


@dataclass(frozen=True)
class Table:
    """Rows under heads; as many cells a row as columns."""

    title: str
    columns: tuple[TableColumn, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    about: str = ""
    legend: tuple[str, ...] = ()  # a sentence on each sign, without its end
    counted: str = ""  # what a row is one of, where many are folded, or scroll
    split: bool = False  # where there is no room, rather several tables than names in narrow columns

    def meaning(self) -> str:
        """Say what the numbers of the columns mean, in one line."""
        parts = [f"{c.head.text}: {c.about}" for c in self.columns if c.about]
        return "; ".join([self.about] * bool(self.about) + parts)


def table(
    title: str, heads: Sequence[str | TableColumn], rows: Iterable[Sequence[str | TableCell]], **how: Any
) -> Table:
    """Make a table.

    Args:
        title: What it is of, for those who do not see it.
        heads: Columns; strings are as for :func:`columns`.
        rows: The fields of each row; strings are plain text.
        how: The other fields of :class:`Table`.

    Returns:
        The table.
    """
    fields = tuple(tuple(cell(c) if isinstance(c, str) else c for c in row) for row in rows)
    return Table(title, columns(*heads), fields, **how)


ParagraphKind = Literal["text", "lead", "note", "inset", "heading", "command"]


@dataclass(frozen=True)
class Paragraph:
    """Sentences. A lead opens a section, a note is by the way, an inset goes with what is before it, a heading stands over
    what follows, a command is to be typed as it is."""

    runs: Line
    kind: ParagraphKind = "text"


def sentence(text: str, kind: ParagraphKind = "text") -> Paragraph:
    """Make a paragraph of plain text."""
    return Paragraph(line(text), kind)


@dataclass(frozen=True)
class Items:
    """A list. An item may have a mark of its own before it."""

    lines: tuple[Line, ...]
    marks: tuple[Span, ...] = ()
    kind: Literal["text", "note"] = "text"


def items(texts: Iterable[str | Line]) -> Items:
    """List lines, plain where they are strings."""
    return Items(tuple(line(t) if isinstance(t, str) else t for t in texts))


@dataclass(frozen=True)
class Term:
    """A name, and its definition and where that is from, or how it is; ``name`` is what runs above it point to."""

    runs: Line
    text: Line
    source: str = ""
    name: str = ""


@dataclass(frozen=True)
class Terms:
    """Definitions; or facts on the subject of a document."""

    items: tuple[Term, ...]
    kind: Literal["definitions", "subject"] = "definitions"


def facts(**items: str | Span | Line) -> Terms:
    """Say what is so of the subject; an underscore in a key is a space."""
    lines = ((what, how if isinstance(how, tuple) else line(how)) for what, how in items.items())
    return Terms(tuple(Term(line(what.replace("_", " ")), how) for what, how in lines), "subject")


@dataclass(frozen=True)
class Meter:
    """A number and its interval on a scale from 0 to 1, whose ends have names."""

    text: str
    value: float
    interval: tuple[float, float] | None
    kind: str
    ends: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption: what it shows in a sentence, where that can be said, then title and definition;
    ``narrow`` is the same in one column, where that differs."""

    name: str
    title: str
    about: str
    source: str
    wide: Drawing
    narrow: Drawing | None = None
    finding: str = ""


@dataclass(frozen=True)
class Card:
    """What is said of one modality, with the colour of ``kind``."""

    title: Span
    kind: str
    blocks: tuple[Block, ...]
    state: Span | None = None


@dataclass(frozen=True)
class Gallery:
    """Figures, or cards, beside one another."""

    items: tuple[Figure | Card, ...]


@dataclass(frozen=True)
class Details:
    """What is read only by who asks for it."""

    title: Line
    blocks: tuple[Block, ...]


def details(title: str | Span, *blocks: Block, about: str = "") -> Details:
    """Put blocks under a title and a quiet remark, closed."""
    head = title if isinstance(title, Span) else Span(title, "strong")
    return Details(line(head, " " * bool(about), *cell(about, "quiet").runs), blocks)


def definitions(every: Iterable[tuple[str, str, str]]) -> Terms:
    """List names, what each is and where that is from, once each."""
    terms = (Term((Span(what, "name"),), line(text), source, what) for what, text, source in dict.fromkeys(every))
    return Terms(tuple(terms))


Block = Paragraph | Items | Terms | Meter | Table | Figure | Card | Gallery | Details


def simple(blocks: Iterable[Block]) -> Iterator[Paragraph | Items | Table]:
    """Make paragraphs, lists and tables of the blocks, for a writer that has neither drawings nor boxes."""
    for block in blocks:
        match block:
            case Terms():
                yield Items(tuple((*t.runs, Span(": "), *t.text, *_source(t.source)) for t in block.items))
            case Meter():
                yield Paragraph((Span(block.text, block.kind),))
            case Figure():
                said = line(Span(block.finding, "strong"), " ") if block.finding else ()
                yield Paragraph((*said, Span(block.title, "strong"), Span(f". {block.about}"), *_source(block.source)))
            case Gallery():
                yield from simple(block.items)
            case Card():
                ends = (Span(": "), block.state) if block.state is not None else ()
                yield Paragraph((block.title, *ends), "heading")
                yield from simple(block.blocks)
            case Details():
                yield Paragraph(block.title, "heading")
                yield from simple(block.blocks)
            case _:
                yield block


def _source(text: str) -> Line:
    return (Span(f" ({text})", "quiet"),) if text else ()


@dataclass(frozen=True)
class Section:
    """Blocks under a heading; without a title, apart from what is before."""

    title: Line
    blocks: tuple[Block, ...]
    name: str = ""  # one word for it, where the head of the page leads there


def section(title: str, *blocks: Block, name: str = "") -> Section:
    """Put blocks under a heading of our own words."""
    return Section(line(title), blocks, name)


@dataclass(frozen=True)
class Series:
    """Recorded numbers of one thing: y at each x, and the interval of each. The parts of its name are what several have in
    common, such as a modality, and a report before or after a repair."""

    parts: tuple[str, ...]
    x: tuple[float | str, ...]
    y: tuple[float, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    place: int | None = None  # in the palette, where it is of a modality, which has one colour in all that is drawn


@dataclass(frozen=True)
class Recording:
    """What was recorded over one axis: numbers, names, or sets of modalities. It stands in no section: a writer whose
    readers can choose where to look shows it."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    sets: tuple[tuple[str, ...], ...] = ()  # which modalities the model was given, at each x of the first series


@dataclass(frozen=True)
class Document:
    """A whole report: what came out, of what, and what it rests on."""

    subject: str  # what kind of report it is
    title: str
    outcome: Span | None = None
    page: str = ""  # names it among other pages
    facts: Terms = Terms(())
    warnings: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()
    ends: tuple[Line, ...] = ()
    recorded: tuple[Recording, ...] = ()
    names: tuple[str, ...] = ()  # what its user called modalities, splits and columns: none of them is a term of ours
