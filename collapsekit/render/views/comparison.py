"""What a comparison says: verdicts and numbers of several reports, a column each, and which of them differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from collapsekit.render import document as doc
from collapsekit.render.numbers import ABSENT, fmt
from collapsekit.render.views._words import letters, number, p_value
from collapsekit.report import comparison as data
from collapsekit.report.cleaning import cleaned_comparison
from collapsekit.report.comparison import Comparison
from collapsekit.report.names import some

BEST, DIFFERS = "*", "†"
_ARROWS = {"lower": " ↓", "higher": " ↑", None: ""}
_NAME_WIDTH = 12  # at a glance, columns with longer names are called A, B, …
_SEVERITY = ("collapsed", "underused", "inconclusive", "uninformative", "used", "healthy")
_TESTS = "p-values after Holm's correction"

Fill = Callable[[data.Cell, data.Column], doc.Cell]


def view(comparison: Comparison, detail: doc.Detail) -> doc.Document:
    """The comparison as a document. At a glance: the table and its tests; else what is missing and each definition, too."""
    c = cleaned_comparison(comparison)
    names = [column.name for column in c.columns]
    keys = letters(names, _NAME_WIDTH) if detail is doc.Detail.GLANCE else None
    heads = keys if keys is not None else {n: n for n in names}
    where, what = f"{c.split} split, {c.examples} examples", ", ".join(c.modalities)
    facts = (("Task", f"{c.task}, {c.metric}"), ("Split", where.replace(" split", "", 1)), ("Modalities", what))
    made = f"Made by collapsekit {c.collapsekit}"
    ends = {
        doc.Detail.GLANCE: f"{made}. Definitions and sources: HTML or JSON.",
        doc.Detail.SUMMARY: f"{made}.",
        doc.Detail.FULL: f"{made}, comparison schema {c.schema_version}.",
    }
    titles = {doc.Detail.GLANCE: "", doc.Detail.SUMMARY: f"Compared: {', '.join(names)}", doc.Detail.FULL: some(names)}
    found = _table(c, c.columns, "Side by side", heads, _value, detail)
    legend = tuple(_legend(c, detail))
    found = doc.Table(found.title, found.columns, found.rows, legend=legend, layout="split", labels=found.labels)
    keyed = [_key(c, column, heads) for column in c.columns] if detail is doc.Detail.GLANCE else []
    return doc.Document(
        subject="Modality collapse compared",
        title=titles[detail],
        page=some(names),
        about=(doc.line(f"{c.task}, {c.metric} · {where} · {what}"),),
        facts=doc.Facts(tuple((doc.line(a), doc.line(b)) for a, b in facts)),
        blocks=(*keyed, found) if detail is not doc.Detail.FULL else (),
        sections=tuple(_sections(c, heads, found, detail)),
        ends=(doc.line(ends[detail]),),
    )


def _key(c: Comparison, column: data.Column, heads: dict[str, str]) -> doc.Paragraph:
    name = heads[column.name]
    key = name if name == column.name else f"{name} = {column.name}"
    reference = ", the reference" if _is_reference(c, column) else ""
    return doc.Paragraph(doc.line(doc.Run(key, "strong"), f": {_runs_of(column)}{reference}"))


def _is_reference(c: Comparison, column: data.Column) -> bool:
    return c.testing is not None and c.testing.reference == column.name


def _runs_of(column: data.Column) -> str:
    """``5 runs``, or the checkpoint of the only one."""
    return f"{len(column.runs)} runs" if len(column.runs) != 1 else column.runs[0].checkpoint


def _sections(c: Comparison, heads: dict[str, str], found: doc.Table, detail: doc.Detail) -> Iterator[doc.Section]:
    if detail is doc.Detail.FULL:
        yield doc.section("Side by side", found, name="numbers")
    yield from _tests(c, heads, detail)
    if c.notes and detail is doc.Detail.GLANCE:
        yield from (doc.Section((), (doc.sentence(f"Note: {note}"),)) for note in c.notes)
    elif c.notes:
        yield doc.section("Notes", doc.Items(tuple(map(doc.line, c.notes))))
    if detail is not doc.Detail.GLANCE:
        yield from _summary(c) if detail is doc.Detail.SUMMARY else [doc.section("What was compared", *_details(c))]


def _tests(c: Comparison, heads: dict[str, str], detail: doc.Detail) -> Iterator[doc.Section]:
    """p-values of the rows that were tested, in the columns that were."""
    rows = tuple(row for row in c.rows if any(x.test for x in row.cells))
    if not rows or c.testing is None:
        return
    shown = [i for i, _ in enumerate(c.columns) if any(row.cells[i].test for row in rows)]
    cut = tuple(row.model_copy(update={"cells": tuple(row.cells[i] for i in shown)}) for row in rows)
    tested = tuple(c.columns[i] for i in shown)
    found = _table(c.model_copy(update={"rows": cut}), tested, "p-values", heads, _p_value, detail)
    against = c.testing.reference
    if detail is doc.Detail.FULL:
        yield doc.section(_TESTS, doc.sentence(f"Against {against}. {c.testing.family}.", "lead"), found)
    elif detail is doc.Detail.SUMMARY:
        yield doc.Section(doc.line(f"{_TESTS}, against ", doc.Run(against, "name")), (found,))
    else:
        yield doc.Section((doc.Run(_TESTS), doc.Run(f"  against {against}", "quiet")), (found,))


def _table(
    c: Comparison, shown: Sequence[data.Column], title: str, heads: dict[str, str], fill: Fill, detail: doc.Detail
) -> doc.Table:
    """Rows under the number they share, or, in a summary, each with its name."""
    flat = detail is doc.Detail.SUMMARY
    rows = []
    for _, group in groupby(_grouped(c.rows), key=lambda r: (r.part, r.name)):
        every = list(group)
        title_cell = _name(every[0], detail)
        alone = len(every) == 1 and not _of(every[0])
        for row in every:
            cells = tuple(fill(x, column) for x, column in zip(row.cells, shown, strict=True))
            if flat:
                rows.append(doc.Row((title_cell, doc.Cell(_of(row)), *cells, doc.cell(row.unit or ""))))
            elif alone:
                rows.append(doc.Row((title_cell, *cells)))
            else:
                rows.append(doc.Row((doc.Cell(_of(row) or doc.line("whole model")), *cells), title_cell))
    first = doc.columns("number", "of") if flat else doc.columns("" if detail is doc.Detail.GLANCE else "number")
    last = doc.columns("unit") if flat else ()
    made = (_column(c, column, heads, detail) for column in shown)
    return doc.Table(title, (*first, *made, *last), tuple(rows), layout="split", labels=(28, 20))


def _grouped(rows: Sequence[data.Row]) -> list[data.Row]:
    """Rows of the same number beside one another, in the comparison's order."""
    order = {key: i for i, key in enumerate(dict.fromkeys((r.part, r.name) for r in rows))}
    return sorted(rows, key=lambda r: order[r.part, r.name])


def _column(c: Comparison, column: data.Column, heads: dict[str, str], detail: doc.Detail) -> doc.Column:
    runs = doc.Run(_runs_of(column), "name" if len(column.runs) == 1 else "text")
    aside: doc.Line = () if detail is doc.Detail.GLANCE else (runs,)
    if detail is doc.Detail.FULL:
        aside = doc.line(doc.Run(runs.text, "label"), ", reference" if _is_reference(c, column) else "")
    return doc.Column(doc.Run(heads[column.name], "name" if detail is doc.Detail.SUMMARY else "label"), "number", aside)


def _name(row: data.Row, detail: doc.Detail) -> doc.Cell:
    if detail is doc.Detail.GLANCE:
        return doc.cell(f"{row.name}{_ARROWS[row.better]}", "strong")
    unit = (doc.Run(row.unit, "quiet"),) if row.unit and detail is doc.Detail.FULL else ()
    return doc.Cell(doc.line(doc.Run(row.name, "name"), _ARROWS[row.better]), unit)


def _of(row: data.Row) -> doc.Line:
    """What the row is of; empty where it is of the whole model."""
    versus = (" without ", doc.Run(row.versus, "label")) if row.versus is not None else ()
    return doc.line(doc.Run(row.modality, "label") if row.modality is not None else "", *versus)


def _value(found: data.Cell, column: data.Column) -> doc.Cell:
    if found.states:
        return _states(found, column)
    if found.value is None:
        return doc.cell(ABSENT)
    marks = BEST * found.best + DIFFERS * (found.test is not None and found.test.significant)
    aside = (
        doc.line(doc.Run(f"({fmt(found.sd)})", "quiet")) if found.sd is not None else number(None, found.interval).aside
    )
    if found.runs < len(column.runs):
        aside = (*aside, doc.Run(f"{' ' if aside else ''}{found.runs} of {len(column.runs)}", "quiet"))
    return doc.Cell((doc.Run(fmt(found.value), "strong" if found.best else "text"),), aside, marks)


def _states(found: data.Cell, column: data.Column) -> doc.Cell:
    order = sorted(found.states.items(), key=lambda item: _SEVERITY.index(item[0]))
    many = len(column.runs) > 1
    runs = [part for word, n in order for part in (doc.state(word, f"{word} {n}" if many else word), "\n")]
    return doc.Cell(
        doc.line(*runs[:-1]), short=" ".join(doc.MARKS[word] + (str(n) if many else "") for word, n in order)
    )


def _p_value(found: data.Cell, column: data.Column) -> doc.Cell:
    if found.test is None:
        return doc.cell(ABSENT)
    test = found.test
    said = [f"{test.pairs} pairs"] * (test.pairs != column.pairs) + ["equal"] * (test.differing == 0)
    aside = doc.line(doc.Run(f"({', '.join(said)})", "quiet")) if said else ()
    text = doc.Run(p_value(test.p_holm), "strong" if test.significant else "text")
    return doc.Cell((text,), aside, DIFFERS * test.significant)


def _legend(c: Comparison, detail: doc.Detail) -> Iterator[doc.Legend]:
    """What the signs mean, a sentence each."""
    cells = [x for row in c.rows for x in row.cells]
    ends = any(x.interval is not None for x in cells)
    if detail is doc.Detail.GLANCE:
        yield doc.Legend(", ".join(f"{doc.MARKS[word]} {word}" for word in _SEVERITY if word != "healthy"), "short")
        yield from [doc.Legend("Intervals: Markdown, HTML or JSON", "short")] * ends
    if any(x.sd is not None for x in cells):
        yield doc.Legend("Of several runs, the mean and (standard deviation over runs)")
    yield from [doc.Legend("In [brackets], the interval over examples that a single report gives", "asides")] * ends
    if any(x.best for x in cells):
        yield doc.Legend(f"{BEST} best of the row, where a direction is agreed: ↓ lower, ↑ higher is better")
    t = c.testing
    if t is not None and t.tests:
        yield doc.Legend(f"{DIFFERS} differs from {t.reference}, p ≤ {t.alpha:g} after Holm's correction. {t.family}")
    if any(x.value is None and not x.states for x in cells):
        yield doc.Legend(f"{ABSENT} not measured")


def _absences(c: Comparison) -> list[tuple[str, str, str]]:
    """(number, column, why) of each cell that has nothing."""
    found = [(row, column, x) for row in c.rows for column, x in zip(c.columns, row.cells, strict=True)]
    return [(_row_name(row), column.name, x.missing) for row, column, x in found if x.missing is not None]


def _row_name(row: data.Row) -> str:
    of = f" of {row.modality}" if row.modality is not None else ""
    return f"{row.name}{of}" + (f" versus {row.versus}" if row.versus is not None else "")


def _definitions(c: Comparison) -> list[tuple[str, str, str]]:
    return list(dict.fromkeys((r.name, r.definition, r.source) for r in c.rows))


def _summary(c: Comparison) -> Iterator[doc.Section]:
    missing = tuple(doc.Row((doc.cell(a, "name"), doc.cell(b, "name"), doc.cell(why))) for a, b, why in _absences(c))
    if missing:
        found = doc.Table("Not measured", doc.columns("number", "column", "why"), missing, counted="numbers")
        yield doc.section(found.title, found)
    rows = tuple(
        doc.Row((doc.cell(a, "name"), doc.cell(text), doc.cell(source))) for a, text, source in _definitions(c)
    )
    heads = doc.columns("number", "definition", "source")
    found = doc.Table("Definitions and sources", heads, rows, counted="definitions", folded=True)
    yield doc.section(found.title, found)
    yield doc.section("Reports", _reports(c, "sha256"))


def _reports(c: Comparison, digest: str) -> doc.Table:
    rows = []
    for column in c.columns:
        for run in column.runs:
            seed = "" if run.training_seed is None else str(run.training_seed)
            files = (doc.cell(text, "name") for text in (run.path, run.checkpoint, run.sha256))
            rows.append(doc.Row((doc.cell(column.name, "name"), *files, doc.cell(seed))))
    heads = doc.columns("column", "report", "checkpoint", digest, ">training seed")
    return doc.Table("Reports", heads, tuple(rows), counted="reports")


def _details(c: Comparison) -> Iterator[doc.Block]:
    yield _folded("Reports", _reports(c, "SHA-256"))
    missing = [
        doc.Term(doc.line(doc.Run(a, "name"), " in ", doc.Run(b, "label")), doc.line(why)) for a, b, why in _absences(c)
    ]
    yield from [_folded("Not measured", doc.Terms(tuple(missing)))] if missing else []
    better = dict.fromkeys((r.name, _ARROWS[r.better], r.why or "") for r in c.rows if r.better is not None)
    ways = [doc.Term(doc.line(doc.Run(name, "name"), arrow), doc.line(why)) for name, arrow, why in better]
    yield _folded("Directions", doc.Terms(tuple(ways)))
    terms = [doc.Term((doc.Run(name, "name"),), doc.line(text), source) for name, text, source in _definitions(c)]
    yield _folded("Definitions and sources", doc.Terms(tuple(terms)))


def _folded(title: str, block: doc.Block) -> doc.Details:
    return doc.Details((doc.Run(title, "strong"),), (block,))
