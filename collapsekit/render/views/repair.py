"""What a repair says: the decision first, then what it rests on, beside plain fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from collapsekit.comparison.delta import RepairDelta, repair_delta
from collapsekit.comparison.standing import cautions, key_rows, result_rows, standing
from collapsekit.measures import heading_of
from collapsekit.render import document as doc
from collapsekit.render.document import Detail, Span
from collapsekit.render.numbers import fmt, fmt_estimate, fmt_interval
from collapsekit.render.views import _repair_tables as tables
from collapsekit.render.views._words import drawn, letters, made_by, meter
from collapsekit.report.diagnosis import ModalityVerdict
from collapsekit.report.names import cleaned_repair, renamed_repair, repair_names
from collapsekit.report.repair import Check, LossCurve, RepairReport

_NAME_WIDTH = 16  # at a glance, modalities with longer names are called A, B, … after the headline
_PROBES = ("missing", "noise")  # whose numbers are shown at a glance
_KEY = "The numbers that matter"
_CHANGE = "hange: after minus before; better or worse only where it is known which way is better"
_CONTROL = " Control: plain fine-tuning with the same data, steps, optimiser, schedule and early stopping."
_LOSSES = "Held-out loss before training, at its lowest, at the end, and of the epoch whose weights were kept."
_SCORES = "Each score with its interval: 0 = fully used, 1 = fully ignored."
_REST = "All numbers, curves, definitions, sources and settings: HTML or JSON report."


def view(report: RepairReport, detail: Detail) -> doc.Document:
    """Make a document of a repair.

    At a glance it holds scores, what is missing, and noise; else all numbers; in full, figures.
    """
    report, glance = cleaned_repair(report), detail is Detail.GLANCE
    keys = letters(repair_names(report), _NAME_WIDTH) if glance else None
    if keys is not None:
        report = renamed_repair(report, keys)
    delta = repair_delta(report)
    decision = "accepted" if report.accepted else "rejected"
    blocks = [replace(doc.items(f"= {n}" for n in keys), marks=tuple(map(Span, keys.values())))] if keys else []
    parts = {Detail.GLANCE: _glance, Detail.SUMMARY: _summary, Detail.FULL: _full}
    subject, methods, repaired = report.after.subject, " → ".join(report.method), ", ".join(report.repaired)
    on = f"{subject.split} split, {subject.examples} examples, seed {subject.seed}"
    measured = f"{subject.task}, {subject.metric} · {on}"
    weights = ("written" if report.accepted else "written all the same") if report.exported else "not written"
    carried = f"weights {weights}" if report.exported else "no weights written"
    facts = {"Checkpoint": report.base, "Method": methods, "Repaired_for": repaired, "Weights": weights}
    return doc.Document(
        subject="Modality collapse repair",
        title=report.summary,
        outcome=doc.state(decision),
        page=f"{decision}: repair of {report.base}",
        about=(doc.line(f"{report.base} · {methods} · repaired for {repaired} · {carried}"), doc.line(measured)),
        facts=doc.facts(**facts, Measured_on=measured),
        blocks=() if detail is Detail.FULL else (*blocks, _judged(report, delta)),
        sections=tuple(parts[detail](report, delta)),
        ends=(*_left(delta, report, detail), doc.line(made_by(report, detail), f" {_REST}" * glance)),
    )


def _judged(report: RepairReport, delta: RepairDelta) -> doc.Items:
    return doc.items([*standing(report, delta), *cautions(report)])


def _left(delta: RepairDelta, report: RepairReport, detail: Detail) -> Iterator[doc.Line]:
    if detail is Detail.GLANCE:
        count = sum(map(len, delta.left.values()))
        left = f"{count} results were not compared; the HTML and Markdown reports say which and why."
        yield from [doc.line(left)] * bool(count)
        yield doc.line(f"base sha256 {report.base_sha256}")


def _split(report: RepairReport) -> str:
    return f"Measured on the validation split; all other numbers are from the {report.after.subject.split} split."


def _scale(report: RepairReport, text: str) -> str:
    return text + _CONTROL * (report.control is not None)


def _glance(report: RepairReport, delta: RepairDelta) -> Iterator[doc.Section]:
    yield doc.section("Verdicts", tables.verdict_table(report), doc.sentence(_scale(report, _SCORES), "note"))
    if report.checks:
        marks = tuple(doc.state("passed" if c.passed else "failed") for c in report.checks)
        checks = doc.Items(tuple(doc.line(c.sentence) for c in report.checks), marks)
        yield doc.section("Acceptance, on the validation split", checks)
    yield from _short_numbers(report, delta)
    yield from [doc.section("Losses", doc.items(map(_loss, report.losses)))] if report.losses else []
    for _, found in tables.noted_tables(report):
        yield doc.section(found.title, doc.items(_as_sentence(row) for row in found.rows))


def _as_sentence(row: doc.TableRow) -> str:
    """A row of a table as a sentence."""
    texts = [f"{doc.plain(c.runs)} {doc.plain(c.aside)}".strip() for c in row.cells[1:] if c.runs]
    return f"{doc.plain(row.cells[0].runs)}: {', '.join(texts)}"


def _short_numbers(report: RepairReport, delta: RepairDelta) -> Iterator[doc.Section]:
    every = {_KEY: key_rows(report, delta)}
    for probe in _PROBES:
        pairs = [p for p in delta.values.get(probe, ()) if "_loss" not in p.before.name]
        every[heading_of(probe).title] = result_rows(pairs)
    groups = [(title, rows) for title, rows in every.items() if rows]
    numbers = [row.numbers for _, rows in groups for row in rows]
    overlap = any(j is not None and j.overlap for n in numbers for j in (n.than_before, n.than_control))
    note = doc.sentence(f"c{_CHANGE}{'; ~: the intervals overlap' if overlap else ''}.", "note")
    for i, table in enumerate(tables.short_tables(report, groups), 1):
        yield doc.section(table.title, table, *[note] * (i == len(groups)))


def _loss(curve: LossCurve) -> str:
    if not curve.held:
        return f"{curve.method}, {curve.stage}: no epoch"
    first, best, last = fmt(curve.held[0]), fmt(min(curve.held)), fmt(curve.held[-1])
    ends = f"kept {tables.kept_epoch(curve)}" + (f"; {curve.note}" if curve.note else "")
    return f"{curve.method}, {curve.stage}: held-out loss {first}, best {best}, last {last}; {ends}"


def _summary(report: RepairReport, delta: RepairDelta) -> Iterator[doc.Section]:
    yield from doc.tabled(tables.verdict_table(report), _scale(report, _SCORES))
    yield from doc.tabled(tables.checks_table(report), _split(report))
    yield from doc.tabled(tables.number_table(report, (_KEY, key_rows(report, delta))), f"C{_CHANGE}.")
    yield from doc.tabled(tables.loss_table(report), _LOSSES)
    for about, table in (*tables.noted_tables(report), *(("", t) for t in _probe_tables(report, delta))):
        yield from doc.tabled(table, about)
    curves = [
        block
        for about, table in tables.curve_tables(report, delta)
        for block in (doc.Paragraph((Span(table.title, "strong"), Span(f": {about}"))), table)
    ]
    yield from [doc.section("Curves", *curves)] if curves else []
    for table in tables.last_tables(report, delta):
        yield from doc.tabled(table)


def _probe_tables(report: RepairReport, delta: RepairDelta) -> Iterator[doc.Table]:
    """Every number in both reports, a table a probe."""
    for probe, pairs in delta.values.items():
        yield tables.number_table(report, (heading_of(probe).title, result_rows(pairs)))


def _full(report: RepairReport, delta: RepairDelta) -> Iterator[doc.Section]:
    from collapsekit.render.figures.repair import figures

    rows = key_rows(report, delta)
    key = (doc.sentence(f"C{_CHANGE}.", "note"), tables.number_table(report, (_KEY, rows))) if rows else ()
    yield doc.section("Beside what it is judged by", _judged(report, delta), *key)
    conditions = doc.Terms(tuple(map(_condition, report.checks)))
    yield doc.section("Acceptance", doc.sentence(_split(report), "lead"), conditions)
    scale = _scale(report, "The scale runs from fully used to fully ignored, with the interval shaded.")
    yield doc.section("Verdicts", doc.sentence(scale, "lead"), doc.Gallery(tuple(_cards(report))), name="verdicts")
    every = list(drawn(figures(report, delta)))
    losses, others = ([f for f in every if (f.name == "losses") is loss] for loss in (True, False))
    if report.losses:
        gallery = [doc.Gallery(tuple(losses))] if losses else []
        yield doc.section("Training", doc.sentence(_LOSSES, "lead"), *gallery, tables.loss_table(report))
    for about, table in tables.noted_tables(report):
        yield from doc.tabled(table, about)
    yield from [doc.section("Curves", doc.Gallery(tuple(others)))] if others else []
    lead = doc.sentence(f"Every number measured both before and after. C{_CHANGE}.", "lead")
    yield doc.section("All numbers", lead, *_all_numbers(report, delta))


def _all_numbers(report: RepairReport, delta: RepairDelta) -> Iterator[doc.Details]:
    yield from (doc.details(table.title, table) for table in _probe_tables(report, delta))
    curves = [
        doc.Details((Span(table.title, "name"), Span(" "), Span(about, "quiet")), (table,))
        for about, table in tables.curve_tables(report, delta)
    ]
    if curves:
        yield doc.Details((Span("Curves", "strong"), Span(" "), Span(str(len(curves)), "quiet")), tuple(curves))
    note, left, *rest = tables.last_tables(report, delta)
    yield from (doc.details(table.title, table) for table in (left, note, *rest) if table.rows)


def _condition(c: Check) -> doc.Term:
    change = doc.plain(tables.difference(c.difference).runs)
    numbers = f"Before {fmt(c.before)}, after {fmt(c.after)}, difference {change} {fmt_interval(c.interval)}".rstrip()
    title = (doc.state("passed" if c.passed else "failed"), Span(f" {c.sentence}"))
    return doc.Term(title, (Span(c.name, "name"), Span(f": {c.definition}. {numbers}")))


def _cards(report: RepairReport) -> Iterator[doc.Card]:
    reports = tables.reports_of(report)
    for m in dict.fromkeys(m for r in reports.values() for m in r.modalities):
        blocks = [b for when, r in reports.items() if m in r.modalities for b in _verdict(when, r.modalities[m])]
        after = report.after.modalities[m].verdict if m in report.after.modalities else ""
        yield doc.Card(Span(m, "label"), after, tuple(blocks), Span("repaired") if m in report.repaired else None)


def _verdict(when: str, v: ModalityVerdict) -> Iterator[doc.Block]:
    yield doc.Paragraph((Span(when.capitalize()), Span(" "), doc.state(v.verdict)))
    yield meter(v, f"{when}: ")
    if v.score is not None:
        yield doc.sentence(f"ignored {fmt_estimate(v.score, v.interval)}", "note")
