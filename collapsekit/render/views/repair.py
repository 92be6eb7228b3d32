"""What a repair says: the decision first, then what it rests on, beside plain fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.comparison.delta import RepairDelta, repair_delta
from collapsekit.comparison.standing import cautions, key_rows, result_rows, standing
from collapsekit.measures import heading_of
from collapsekit.render import document as doc
from collapsekit.render.document import Detail, Span
from collapsekit.render.numbers import fmt, fmt_estimate
from collapsekit.render.views import _repair_tables as tables
from collapsekit.render.views._recorded import recorded
from collapsekit.render.views._words import drawn, letters, made_by, meter
from collapsekit.report.names import cleaned_repair, renamed_repair, repair_names
from collapsekit.report.repair import RepairReport
from collapsekit.report.verdicts import describe_state

_NAME_WIDTH = 16  # at a glance, modalities with longer names are called A, B, … after the headline
_PROBES = ("missing", "noise")  # whose numbers are shown at a glance
_CHANGE = (
    "Change: after minus before; better or worse (than before) only where it is known which way is better; "
    "~: the intervals overlap."
)
_CONTROL = " Control: plain fine-tuning with the same data, steps, optimiser, schedule and early stopping."
_LOSSES = "Held-out loss before training, at its lowest, at the end, and of the epoch whose weights were kept."
_REST = "All numbers, curves, definitions, sources and settings: HTML or JSON report."


def view(report: RepairReport, detail: Detail) -> doc.Document:
    """Make a document of a repair.

    At a glance it holds scores, what is missing, and noise; else all numbers; in full, figures.
    """
    report, glance = cleaned_repair(report), detail is Detail.GLANCE
    keys = letters(repair_names(report), _NAME_WIDTH if glance else None)
    report = renamed_repair(report, keys)
    delta = repair_delta(report)
    decision = "accepted" if report.accepted else "rejected"
    named = [doc.items(f"{k} = {n}" for n, k in keys.items() if k != n)]
    s = report.after.subject
    count = sum(map(len, delta.left.values()))
    left = f"{count} results were not compared; the HTML and Markdown reports say which and why."
    weights = ("written" if report.accepted else "written all the same") if report.exported else "not written"
    return doc.Document(
        subject="Modality collapse repair",
        title=report.summary,
        outcome=doc.state(decision),
        page=f"{decision}: repair of {report.base}",
        facts=doc.facts(
            Checkpoint=report.base,
            Method=" → ".join(report.method),
            Repaired_for=", ".join(report.repaired),
            Weights=weights,
            Measured_on=f"{s.task}, {s.metric} · {s.split} split, {s.examples} examples, seed {s.seed}",
        ),
        sections=(
            *_judged(report, delta, named),
            _verdicts(report, detail),
            *_training(report, delta, detail),
            *(_short_numbers if glance else _all_numbers)(report, delta),
        ),
        ends=(
            *[doc.line(left)] * bool(glance and delta.left),
            *[doc.line(f"base sha256 {report.base_sha256}")] * glance,
            doc.line(made_by(report), f" {_REST}" * glance),
        ),
        recorded=recorded(tables.reports_of(report)) if detail is Detail.FULL else (),
        names=(*repair_names(report), s.split, report.base),
    )


def _judged(report: RepairReport, delta: RepairDelta, named: list[doc.Items]) -> Iterator[doc.Section]:
    rows = key_rows(report, delta)
    judged = doc.items([*standing(report, delta), *cautions(report)])
    yield doc.section("Beside what it is judged by", *[n for n in named if n.lines], judged)
    if rows:
        title = "The numbers that matter"
        yield doc.section(title, tables.number_table(report, (title, rows)), doc.sentence(_CHANGE, "note"))
    if report.checks:
        on = f"Measured on the validation split; all other numbers are from the {report.after.subject.split} split."
        yield from _forecast(report)
        yield doc.section("Acceptance", doc.sentence(on, "lead"), tables.conditions(report))


def _forecast(report: RepairReport) -> Iterator[doc.Section]:
    """What was expected beside what was gained."""
    if not report.forecast:
        return
    s = report.after.subject
    lines = [doc.line(Span(f.modality, "name"), f": {fmt_estimate(f.gain, f.interval)}") for f in report.forecast]
    lead = f"What adding its best readout to the model would have gained in {s.metric}, on {report.forecast[0].split}."
    if report.gained is not None:
        lead += f" The repair then gained {fmt(report.gained)} on {s.split}."
    yield doc.section("What was expected", doc.sentence(lead, "lead"), doc.items(lines))


def _verdicts(report: RepairReport, detail: Detail) -> doc.Section:
    shaded = ", with the interval shaded" * (detail is Detail.FULL)
    lead = f"The scale runs from 0, fully used, to 1, fully ignored{shaded}." + _CONTROL * (report.control is not None)
    table = doc.Gallery(tuple(_cards(report))) if detail is Detail.FULL else tables.verdict_table(report)
    return doc.section("Verdicts", doc.sentence(lead, "lead"), table, name="verdicts")


def _cards(report: RepairReport) -> Iterator[doc.Card]:
    reports = tables.reports_of(report)
    for m in dict.fromkeys(m for r in reports.values() for m in r.modalities):
        blocks: list[doc.Block] = []
        for when, v in ((when, r.modalities[m]) for when, r in reports.items() if m in r.modalities):
            score = [doc.sentence(f"ignored {fmt_estimate(v.score, v.interval)}", "note")] * (v.score is not None)
            title = doc.Paragraph((Span(when.capitalize()), Span(" "), doc.state(v.verdict, describe_state(v))))
            blocks += [title, meter(v, f"{when}: "), *score]
        after = report.after.modalities[m].verdict if m in report.after.modalities else ""
        yield doc.Card(
            Span(m, "label"), after, tuple(blocks), Span("repaired", "quiet") if m in report.repaired else None
        )


def _training(report: RepairReport, delta: RepairDelta, detail: Detail) -> Iterator[doc.Section]:
    """Losses, what methods noted, and curves."""
    figures: list[doc.Figure] = []
    if detail is Detail.FULL:
        from collapsekit.render.figures import repair

        figures = list(drawn(repair.figures(report, delta)))
    losses, curves = ([f for f in figures if (f.name == "losses") is loss] for loss in (True, False))
    if report.losses:
        lines = doc.items(map(tables.loss, report.losses))
        yield doc.section("Training losses", doc.sentence(_LOSSES, "lead"), *[doc.Gallery((f,)) for f in losses], lines)
    for title, about, lines in tables.findings(report):
        yield doc.section(title, doc.sentence(about, "lead"), lines)
    yield from [doc.section("Curves", doc.Gallery(tuple(curves)))] if curves else []


def _short_numbers(report: RepairReport, delta: RepairDelta) -> Iterator[doc.Section]:
    for probe in _PROBES:
        title = heading_of(probe).title
        rows = result_rows([p for p in delta.values.get(probe, ()) if "_loss" not in p.before.name])
        yield from [doc.section(title, tables.number_table(report, (title, rows)))] if rows else []


def _all_numbers(report: RepairReport, delta: RepairDelta) -> Iterator[doc.Section]:
    parts = []
    for probe, pairs in delta.values.items():
        title = heading_of(probe).title
        parts.append(doc.details(title, tables.number_table(report, (title, result_rows(pairs)))))
    curves = list(tables.curves(report, delta))
    if curves:
        parts.append(doc.details("Curves", *curves, about=str(len(curves))))
    lead = doc.sentence(f"Every number measured both before and after. {_CHANGE}", "lead")
    yield doc.section("All numbers", lead, *parts, *tables.remarks(report, delta))
