"""What a comparison says: verdicts and numbers of several reports, a column each, and which of them differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from collapsekit.render import document as doc
from collapsekit.render.document import Detail, Span
from collapsekit.render.numbers import ABSENT, fmt
from collapsekit.render.views._words import drawn, letters, made_by, number, p_value, severity
from collapsekit.report import comparison as data
from collapsekit.report.comparison import Comparison
from collapsekit.report.names import cleaned_comparison, some

BEST, DIFFERS, UNCLEAR = "*", "†", "~"
_ARROWS = {"lower": " ↓", "higher": " ↑", None: ""}
_NAME_WIDTH = 12  # at a glance, columns with longer names are called A, B, …
_TESTS = "p-values after Holm's correction"

Fill = Callable[[data.Cell, data.Column], doc.TableCell]


def view(comparison: Comparison, detail: Detail) -> doc.Document:
    """Make a document of a comparison.

    At a glance it holds the table and its tests; else what is missing and each definition, too.
    """
    c, glance = without_ties(cleaned_comparison(comparison)), detail is Detail.GLANCE
    names = [column.name for column in c.columns]
    heads = letters(names, _NAME_WIDTH if glance else None)
    runs = doc.items(_runs(c, column, heads) for column in c.columns)
    legend = tuple(_legend(c))
    table = _table(c, c.columns, "Side by side", heads, _value, legend, change=len(names) == 2)
    return doc.Document(
        subject="Modality collapse compared",
        title=f"Compared: {some(names)}",
        facts=doc.facts(
            Task=f"{c.task}, {c.metric}", Split=f"{c.split}, {c.examples} examples", Modalities=", ".join(c.modalities)
        ),
        sections=(
            *[doc.section("Finding", doc.items(c.finding))] * bool(c.finding),
            *_drawings(c, detail),
            doc.section("Side by side", runs, table, name="numbers"),
            *_changes(c, heads),
            *_tests(c, heads),
            *[doc.section("Notes", doc.items(c.notes))] * bool(c.notes),
            *[doc.section("What was compared", *_details(c))] * (not glance),
        ),
        ends=(doc.line(made_by(c), " Definitions and sources: HTML or JSON." * glance),),
        names=(*c.modalities, *names, c.split),
    )


def without_ties(c: Comparison) -> Comparison:
    """Mark no best in rows in which all columns are as good: a mark in each cell tells nothing."""
    rows = []
    for row in c.rows:
        tied = all(x.best for x in row.cells if x.value is not None)
        cells = tuple(x.model_copy(update={"best": False}) for x in row.cells) if tied else row.cells
        rows.append(row.model_copy(update={"cells": cells}))
    return c.model_copy(update={"rows": tuple(rows)})


def _runs(c: Comparison, column: data.Column, heads: dict[str, str]) -> doc.Line:
    """What a column is of: ``5 runs``, or the checkpoint of the only one."""
    name, count = heads[column.name], len(column.runs)
    key = name if name == column.name else f"{name} = {column.name}"
    reference = c.testing is not None and c.testing.reference == column.name
    of = Span(f"{count} runs") if count != 1 else Span(column.runs[0].checkpoint, "name")
    return doc.line(Span(key, "strong"), ": ", of, ", the reference" * reference)


def _drawings(c: Comparison, detail: Detail) -> Iterator[doc.Section]:
    """The figure, on a page of its own."""
    if detail is not Detail.FULL:
        return
    from collapsekit.render.figures.comparison import figures

    found = tuple(drawn(figures(c)))
    if found:
        lead = (
            f"An open circle is {c.base}; a line leads to each other column. It is dashed where the difference is within "
            "noise, or noise is not known. The grey band is each report's interval over examples."
        )
        yield doc.section("What changed", doc.sentence(lead, "lead"), doc.Gallery(found))


def _changes(c: Comparison, heads: dict[str, str]) -> Iterator[doc.Section]:
    """Changes of more than two columns, in a table of their own."""
    if c.base is None or len(c.columns) == 2:
        return
    shown = [i for i, column in enumerate(c.columns) if column.name != c.base]
    rows = tuple(row for row in c.rows if any(row.cells[i].change for i in shown))
    if not rows:
        return
    cut = tuple(row.model_copy(update={"cells": tuple(row.cells[i] for i in shown)}) for row in rows)
    others = tuple(c.columns[i] for i in shown)
    legend = tuple(_legend_of_changes(c))
    table = _table(c.model_copy(update={"rows": cut}), others, f"Change from {c.base}", heads, _change, legend)
    yield doc.Section(doc.line("Change from ", Span(c.base, "name")), (table,))


def _tests(c: Comparison, heads: dict[str, str]) -> Iterator[doc.Section]:
    """p-values of the rows that were tested, in the columns that were."""
    rows = tuple(row for row in c.rows if any(x.test for x in row.cells))
    if not rows or c.testing is None:
        return
    shown = [i for i, _ in enumerate(c.columns) if any(row.cells[i].test for row in rows)]
    cut = tuple(row.model_copy(update={"cells": tuple(row.cells[i] for i in shown)}) for row in rows)
    tested = tuple(c.columns[i] for i in shown)
    table = _table(c.model_copy(update={"rows": cut}), tested, "p-values", heads, _p_value)
    yield doc.Section(doc.line(f"{_TESTS}, against ", Span(c.testing.reference, "name")), (table,))


def _table(
    c: Comparison,
    shown: Sequence[data.Column],
    title: str,
    heads: dict[str, str],
    fill: Fill,
    legend: tuple[str, ...] = (),
    *,
    change: bool = False,
) -> doc.Table:
    """Rows of the same number stand beside one another, in the comparison's order; ``change``: with what changed."""
    order = {key: i for i, key in enumerate(dict.fromkeys((r.part, r.name) for r in c.rows))}
    split = {r.name for r in c.rows if r.modality is not None}
    rows = []
    for row in sorted(c.rows, key=lambda r: order[r.part, r.name]):
        of = " of the whole model" * (row.name in split and row.modality is None)
        cells = (fill(x, column) for x, column in zip(row.cells, shown, strict=True))
        last = [_change(next((x for x in row.cells if x.change), row.cells[0]), shown[0])] * change
        rows.append((doc.name(f"{_row_name(row)}{of}{_ARROWS[row.better]}", row.unit or ""), *cells, *last))
    columns = [doc.TableColumn(Span(heads[x.name], "label"), "number") for x in shown]
    columns += [doc.TableColumn(Span("change"), "number", f"minus {c.base}")] * change
    return doc.table(title, ("number", *columns), rows, legend=legend, split=True)


def _value(entry: data.Cell, column: data.Column) -> doc.TableCell:
    if entry.states:
        return _states(entry, column)
    if entry.value is None:
        return doc.cell(ABSENT)
    marks = BEST * entry.best + DIFFERS * (entry.test is not None and entry.test.significant)
    shown = number(entry.value, entry.interval if entry.sd is None else None)
    aside = doc.line(Span(f"({fmt(entry.sd)})", "quiet")) if entry.sd is not None else shown.aside
    if entry.runs < len(column.runs):
        aside = (*aside, Span(f"{' ' if aside else ''}{entry.runs} of {len(column.runs)}", "quiet"))
    return doc.TableCell((Span(doc.plain(shown.runs), "strong" if entry.best else "text"),), aside, marks)


def _change(entry: data.Cell, column: data.Column) -> doc.TableCell:
    """A difference with its sign, and its interval where it has one."""
    del column
    change = entry.change
    if change is None:
        return doc.cell(ABSENT)
    text = fmt(change.difference)
    text = text if text.startswith("-") or change.difference == 0 else f"+{text}"
    aside = number(None, change.interval).aside
    marks = UNCLEAR * (change.clear is False and change.difference != 0)
    return doc.TableCell((Span(text, "strong" if change.clear else "text"),), aside, marks)


def _states(entry: data.Cell, column: data.Column) -> doc.TableCell:
    order = sorted(entry.states.items(), key=lambda item: severity(item[0]))
    many = len(column.runs) > 1
    runs = [part for word, n in order for part in (doc.state(word, f"{word} {n}" if many else word), "\n")]
    return doc.TableCell(doc.line(*runs[:-1]))


def _p_value(entry: data.Cell, column: data.Column) -> doc.TableCell:
    if entry.test is None:
        return doc.cell(ABSENT)
    test = entry.test
    said = [f"{test.pairs} pairs"] * (test.pairs != column.pairs) + ["equal"] * (test.differing == 0)
    aside = doc.line(Span(f"({', '.join(said)})", "quiet")) if said else ()
    text = Span(p_value(test.p_holm), "strong" if test.significant else "text")
    return doc.TableCell((text,), aside, DIFFERS * test.significant)


def _legend(c: Comparison) -> Iterator[str]:
    """What the signs mean, a sentence each."""
    cells = [x for row in c.rows for x in row.cells]
    if any(x.sd is not None for x in cells):
        yield "Of several runs, the mean and (standard deviation over runs)"
    if any(x.interval is not None for x in cells):
        yield "In [brackets], the interval over examples that a single report gives"
    if any(x.best for x in cells):
        yield f"{BEST} best of the row, where a direction is agreed: ↓ lower, ↑ higher is better"
    t = c.testing
    if t is not None and t.tests:
        yield f"{DIFFERS} differs from {t.reference}, p ≤ {t.alpha:g} after Holm's correction. {t.family}"
    if c.unranked and any(row.better is not None for row in c.rows):
        yield f"No best is marked, as the reports were not measured alike: {'; '.join(c.unranked)}"
    if len(c.columns) == 2:
        yield from _legend_of_changes(c)
    if any(x.value is None and not x.states for x in cells):
        yield f"{ABSENT} not measured"


def _legend_of_changes(c: Comparison) -> Iterator[str]:
    """What the signs of changes mean, a sentence each."""
    changes = [x.change for row in c.rows for x in row.cells if x.change is not None]
    if not changes:
        return
    if any(x.interval is not None for x in changes):
        yield "Of a change, [brackets] hold its interval over the same examples, of which both reports have records"
    if any(x.clear is False and x.difference != 0 for x in changes):
        yield f"{UNCLEAR} within noise: the interval holds 0, or else the two intervals overlap, or the test finds nothing"
    yield "Noise over examples; a model that is trained again differs by more"


def _row_name(row: data.Row) -> str:
    of = f" of {row.modality}" if row.modality is not None else ""
    return f"{row.name}{of}" + (f" versus {row.versus}" if row.versus is not None else "")


def _reports(c: Comparison) -> doc.Table:
    rows: list[tuple[doc.TableCell | str, ...]] = [
        (
            *map(doc.name, (x.name, r.path, r.checkpoint, r.sha256)),
            "" if r.training_seed is None else str(r.training_seed),
        )
        for x in c.columns
        for r in x.runs
    ]
    heads = ("column", "report", "checkpoint", "SHA-256", ">training seed")
    return doc.table("Reports", heads, rows)


def _details(c: Comparison) -> Iterator[doc.Details]:
    every = ((row, column, x) for row in c.rows for column, x in zip(c.columns, row.cells, strict=True))
    missing = [
        (doc.name(_row_name(row)), doc.name(column.name), x.missing)
        for row, column, x in every
        if x.missing is not None
    ]
    better = dict.fromkeys((r.name, _ARROWS[r.better], r.why or "") for r in c.rows if r.better is not None)
    ways = [(doc.name(name), arrow, why) for name, arrow, why in better]
    yield doc.details("Reports", _reports(c))
    for title, heads, rows in (
        ("Not measured", ("number", "column", "why"), missing),
        ("Directions", ("number", "better", "why"), ways),
    ):
        yield from [doc.details(title, doc.table(title, heads, rows))] if rows else []
    yield doc.details("Definitions and sources", doc.definitions((r.name, r.definition, r.source) for r in c.rows))
