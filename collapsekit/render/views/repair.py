"""What a repair says: the decision first, then what it rests on, beside plain fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from collapsekit.comparison.delta import Pair, RepairDelta, repair_delta
from collapsekit.comparison.standing import cautions, key_rows, result_rows, standing
from collapsekit.render import document as doc
from collapsekit.render.headings import heading, headings
from collapsekit.render.numbers import fmt, fmt_estimate, fmt_interval
from collapsekit.render.views import _repair_tables as tables
from collapsekit.render.views._words import letters
from collapsekit.report.cleaning import cleaned_repair, renamed_repair
from collapsekit.report.diagnosis import ModalityVerdict
from collapsekit.report.names import repair_names
from collapsekit.report.repair import Check, LossCurve, RepairReport

_NAME_WIDTH = 16  # at a glance, modalities with longer names are called A, B, … after the headline
_PROBES = ("missing", "noise")  # whose numbers are shown at a glance
_CHANGE = "hange: after minus before; better or worse only where it is known which way is better"


def view(report: RepairReport, detail: doc.Detail) -> doc.Document:
    """The report as a document. At a glance: scores, what is missing, noise; else all numbers; in full: figures."""
    report = cleaned_repair(report)
    keys = letters(repair_names(report), _NAME_WIDTH) if detail is doc.Detail.GLANCE else None
    if keys is not None:
        report = renamed_repair(report, keys)
    found = repair_delta(report)
    delta = replace(found, values=_ordered(found.values), curves=_ordered(found.curves))
    decision = "accepted" if report.accepted else "rejected"
    judged = doc.Items(tuple(map(doc.line, [*standing(report, delta), *cautions(report)])))
    names = (
        doc.Items(tuple(doc.line(f"= {name}") for name in keys), tuple(doc.Run(k) for k in keys.values()))
        if keys
        else None
    )
    parts = {doc.Detail.GLANCE: _glance, doc.Detail.SUMMARY: _summary, doc.Detail.FULL: _full}
    return doc.Document(
        subject="Modality collapse repair",
        title=report.summary,
        outcome=doc.state(decision),
        page=f"{decision}: repair of {report.base}",
        about=(doc.line(_about(report)), doc.line(_measured(report))),
        facts=_facts(report),
        blocks=() if detail is doc.Detail.FULL else (*([names] if names is not None else []), judged),
        sections=tuple(parts[detail](report, delta, judged)),
        ends=tuple(map(doc.line, _ends(report, delta, detail))),
    )


def _weights(report: RepairReport) -> str:
    if not report.exported:
        return "not written"
    return "written" if report.accepted else "written all the same"


def _about(report: RepairReport) -> str:
    weights = f"weights {_weights(report)}" if report.exported else "no weights written"
    return f"{report.base} · {' → '.join(report.method)} · repaired for {', '.join(report.repaired)} · {weights}"


def _measured(report: RepairReport) -> str:
    s = report.after.subject
    return f"{s.task}, {s.metric} · {s.split} split, {s.examples} examples, seed {s.seed}"


def _facts(report: RepairReport) -> doc.Facts:
    facts = {
        "Checkpoint": report.base,
        "Method": " → ".join(report.method),
        "Repaired for": ", ".join(report.repaired),
        "Weights": _weights(report),
        "Measured on": _measured(report),
    }
    return doc.Facts(tuple((doc.line(what), doc.line(how)) for what, how in facts.items()))


def _ends(report: RepairReport, delta: RepairDelta, detail: doc.Detail) -> list[str]:
    made = f"Made by collapsekit {report.collapsekit}"
    if detail is not doc.Detail.GLANCE:
        return [f"{made}." if detail is doc.Detail.SUMMARY else f"{made}, report schema {report.schema_version}."]
    count = sum(map(len, delta.left.values()))
    left = f"{count} results were not compared; the HTML and Markdown reports say which and why."
    more = f"{made}. All numbers, curves, definitions, sources and settings: HTML or JSON report."
    return [*[left] * bool(count), f"base sha256 {report.base_sha256}", more]


def _ordered(found: dict[str, tuple[Pair, ...]]) -> dict[str, tuple[Pair, ...]]:
    """By probe, in the order in which probes are shown."""
    return {h.probe: found[h.probe] for h in headings(found)}


def _verdict_note(report: RepairReport) -> str:
    control = f" {tables.CONTROL}" if report.control is not None else ""
    return f"Each score with its interval: 0 = fully used, 1 = fully ignored.{control}"


def _split_note(report: RepairReport) -> str:
    return f"Measured on the validation split; all other numbers are from the {report.after.subject.split} split."


_LOSSES = "Held-out loss before training, at its lowest, at the end, and of the epoch whose weights were kept."


def _glance(report: RepairReport, delta: RepairDelta, judged: doc.Items) -> Iterator[doc.Section]:
    del judged
    yield doc.section("Verdicts", tables.verdict_table(report), doc.sentence(_verdict_note(report), "note"))
    if report.checks:
        marks = tuple(tables.passed(c) for c in report.checks)
        yield doc.section(
            "Acceptance, on the validation split", doc.Items(tuple(doc.line(c.sentence) for c in report.checks), marks)
        )
    yield from _short_numbers(report, delta)
    if report.losses:
        yield doc.section("Losses", doc.Items(tuple(doc.line(_loss(c)) for c in report.losses)))
    for _, found in tables.noted_tables(report):
        rows = [
            [f"{doc.plain(c.runs)} {doc.plain(c.aside)}".strip() for c in row.cells[1:] if c.runs] for row in found.rows
        ]
        names = [doc.plain(row.cells[0].runs) for row in found.rows]
        yield doc.section(
            found.title, doc.Items(tuple(doc.line(f"{n}: {', '.join(r)}") for n, r in zip(names, rows, strict=True)))
        )


def _short_numbers(report: RepairReport, delta: RepairDelta) -> Iterator[doc.Section]:
    groups = {"The numbers that matter": key_rows(report, delta)}
    for probe in _PROBES:
        pairs = [p for p in delta.values.get(probe, ()) if "_loss" not in p.before.name]
        groups[heading(probe).title] = result_rows(pairs)
    every = [row.numbers for rows in groups.values() for row in rows]
    judged = any(n.than_control is not None for n in every)
    overlap = any(j is not None and j.overlap for n in every for j in (n.than_before, n.than_control))
    note = doc.sentence(f"c{_CHANGE}{'; ~: the intervals overlap' if overlap else ''}.", "note")
    last = [title for title, rows in groups.items() if rows][-1:]
    for title, rows in groups.items():
        if rows:
            found = tables.number_table(report, title, rows, judged, doc.Detail.GLANCE)
            yield doc.section(title, found, *[note] * (title in last))


def _loss(curve: LossCurve) -> str:
    if not curve.held:
        return f"{curve.method}, {curve.stage}: no epoch"
    first, best, last = fmt(curve.held[0]), fmt(min(curve.held)), fmt(curve.held[-1])
    ends = f"kept {tables.kept_epoch(curve)}" + (f"; {curve.note}" if curve.note else "")
    return f"{curve.method}, {curve.stage}: held-out loss {first}, best {best}, last {last}; {ends}"


def _summary(report: RepairReport, delta: RepairDelta, judged: doc.Items) -> Iterator[doc.Section]:
    del judged
    found = [
        (_verdict_note(report), tables.verdict_table(report)),
        (_split_note(report), tables.checks_table(report)),
        (f"C{_CHANGE}.", _key_table(report, delta)),
        (_LOSSES, tables.loss_table(report)),
        *tables.noted_tables(report),
        *(("", t) for t in _probe_tables(report, delta)),
    ]
    yield from (_tabled(about, t) for about, t in found if t.rows)
    blocks: list[doc.Block] = []
    for about, t in _curve_tables(report, delta):
        blocks += [doc.Paragraph((doc.Run(t.title, "strong"), doc.Run(f": {about}"))), t]
    yield from [doc.Section(doc.line("Curves"), tuple(blocks))] if blocks else []
    note, left, *rest = _rest(report, delta)
    yield from (_tabled("", t) for t in (note, left, *rest) if t.rows)


def _tabled(about: str, found: doc.Table) -> doc.Section:
    return doc.section(found.title, *[doc.sentence(about, "lead")] * bool(about), found)


def _key_table(report: RepairReport, delta: RepairDelta) -> doc.Table:
    rows = key_rows(report, delta)
    return tables.number_table(report, "The numbers that matter", rows, True, doc.Detail.FULL)


def _probe_tables(report: RepairReport, delta: RepairDelta) -> Iterator[doc.Table]:
    """Every number in both reports, a table a probe."""
    for probe, pairs in delta.values.items():
        rows = result_rows(pairs)
        yield tables.number_table(report, heading(probe).title, rows, True, doc.Detail.FULL)


def _curve_tables(report: RepairReport, delta: RepairDelta) -> list[tuple[str, doc.Table]]:
    """Every curve in both reports, with what is drawn over what."""
    control, found = report.control is not None, delta.curves
    return [tables.curve_table(pair, probe, control) for probe, pairs in found.items() for pair in pairs]


def _rest(report: RepairReport, delta: RepairDelta) -> list[doc.Table]:
    end = [tables.definition_table(report, delta), tables.settings_table(report)]
    return [tables.note_table(delta), tables.left_table(delta), *end]


def _full(report: RepairReport, delta: RepairDelta, judged: doc.Items) -> Iterator[doc.Section]:
    key, change = _key_table(report, delta), f"C{_CHANGE}."
    numbers = (doc.sentence(change, "note"), key) if key.rows else ()
    yield doc.section("Beside what it is judged by", judged, *numbers)
    conditions = doc.Terms(tuple(map(_condition, report.checks)))
    yield doc.section("Acceptance", doc.sentence(_split_note(report), "lead"), conditions)
    control = tables.CONTROL if report.control is not None else ""
    scale = f"The scale runs from fully used to fully ignored, with the interval shaded. {control}".strip()
    yield doc.section("Verdicts", doc.sentence(scale, "lead"), doc.Cards(tuple(_cards(report))), name="verdicts")
    drawn = list(_figures(report, delta))
    losses = tuple(f for f in drawn if f.name == "losses")
    if report.losses:
        gallery = [doc.Gallery(losses)] if losses else []
        yield doc.section("Training", doc.sentence(_LOSSES, "lead"), *gallery, tables.loss_table(report))
    yield from (_tabled(about, found) for about, found in tables.noted_tables(report))
    others = tuple(f for f in drawn if f.name != "losses")
    yield from [doc.section("Curves", doc.Gallery(others))] if others else []
    every = doc.sentence(f"Every number measured both before and after. {change}", "lead")
    yield doc.section("All numbers", every, *_all_numbers(report, delta))


def _all_numbers(report: RepairReport, delta: RepairDelta) -> Iterator[doc.Details]:
    yield from (_details(found) for found in _probe_tables(report, delta))
    curves = _curve_tables(report, delta)
    if curves:
        parts = [
            doc.Details((doc.Run(t.title, "name"), doc.Run(" "), doc.Run(about, "quiet")), (t,)) for about, t in curves
        ]
        yield doc.Details((doc.Run("Curves", "strong"), doc.Run(" "), doc.Run(str(len(curves)), "quiet")), tuple(parts))
    note, left, *rest = _rest(report, delta)
    yield from (_details(found) for found in (left, note, *rest) if found.rows)


def _details(found: doc.Table) -> doc.Details:
    return doc.Details((doc.Run(found.title, "strong"),), (found,))


def _condition(c: Check) -> doc.Term:
    numbers = f"Before {fmt(c.before)}, after {fmt(c.after)}, difference {tables.signed(c.difference)}"
    text = (doc.Run(c.name, "name"), doc.Run(f": {c.definition}. {numbers} {fmt_interval(c.interval)}".rstrip()))
    return doc.Term((tables.passed(c), doc.Run(f" {c.sentence}")), text)


def _cards(report: RepairReport) -> Iterator[doc.Card]:
    reports = tables.reports_of(report)
    for m in dict.fromkeys(m for r in reports.values() for m in r.modalities):
        blocks = [b for when, r in reports.items() if m in r.modalities for b in _verdict(when, r.modalities[m])]
        after = report.after.modalities[m].verdict if m in report.after.modalities else ""
        yield doc.Card(doc.Run(m, "label"), after, tuple(blocks), doc.Run("repaired") if m in report.repaired else None)


def _verdict(when: str, v: ModalityVerdict) -> Iterator[doc.Block]:
    yield doc.Paragraph((doc.Run(when.capitalize()), doc.Run(" "), doc.state(v.verdict)))
    if v.score is None:
        yield doc.sentence("No score could be had.", "note")
        return
    text = f"ignored {fmt_estimate(v.score, v.interval)}"
    scale = f"{when}: {text} on a scale from 0, fully used, to 1, fully ignored"
    yield from (doc.Meter(scale, v.score, v.interval, v.verdict), doc.sentence(text, "note"))


def _figures(report: RepairReport, delta: RepairDelta) -> Iterator[doc.Figure]:
    from collapsekit.render.figures.repair import figures

    for name, title, about, draw in figures(report, delta):
        wide = draw(True)
        narrow = draw(False) if wide.get_figwidth() > 4 else None
        yield doc.Figure(
            name, title, *((about.definition, about.source) if about is not None else ("", "")), wide, narrow
        )
