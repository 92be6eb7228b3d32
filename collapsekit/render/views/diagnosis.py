"""What a diagnosis says: the verdicts first, then what each modality costs, then why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from collapsekit.render import document as doc
from collapsekit.render.numbers import ABSENT, fmt, fmt_estimate, fmt_interval
from collapsekit.render.views import _results
from collapsekit.render.views._results import SUBSETS, WHOLE, ProbeResults, ResultRow, Subset
from collapsekit.render.views._words import flatten, letters, names_table, number, strong_number, thinned
from collapsekit.report.cleaning import cleaned, renamed
from collapsekit.report.diagnosis import Curve, ModalityVerdict, Report, Result
from collapsekit.report.names import label, modality_names, short_name

_SEVERITY = ("collapsed", "underused", "inconclusive", "uninformative", "used")
_NAME_WIDTH = 16  # at a glance, modalities with longer names are called A, B, … after the verdicts
_CURVE_ROWS = 6  # at a glance, lines for one curve's name; more is a data dump
_SUBSET_ROWS = 16
_POINTS = 128  # rows of a curve's table; a vector has no reader beyond that, and the JSON has it whole
_BARS = "▁▂▃▄▅▆▇█"
_COST = ("reliance", "utilisation")  # the figures on what it costs; the others say why


def view(report: Report, detail: doc.Detail) -> doc.Document:
    """The report as a document. At a glance: verdicts and numbers; in full: figures and all points of curves, too."""
    report = cleaned(report)
    keys = letters(modality_names(report), _NAME_WIDTH) if detail is doc.Detail.GLANCE else None
    full = {n: n for n in modality_names(report)}
    if keys is not None:
        report, full = renamed(report, keys), {k: f"{k} = {n}" for n, k in keys.items()}
    s = report.subject
    data = f"{s.split} split, {s.examples} examples"
    facts = (("Checkpoint", s.checkpoint), ("Task", f"{s.task}, {s.metric}"), ("Data", data), ("Seed", str(s.seed)))
    verdicts = sorted(report.modalities.items(), key=lambda item: _SEVERITY.index(item[1].verdict))
    return doc.Document(
        subject="Modality collapse diagnosis",
        title=report.summary,
        outcome=doc.state(report.verdict),
        page=f"{report.verdict}: {s.checkpoint}",
        about=(doc.line(doc.Run(s.checkpoint, "name"), f" · {s.task}, {s.metric} · {data}, seed {s.seed}"),),
        facts=doc.Facts(tuple((doc.line(what), doc.line(how)) for what, how in facts)),
        warnings=tuple(w.sentence for w in report.warnings),
        blocks=() if detail is doc.Detail.FULL else tuple(_verdicts(report, verdicts, full, detail)),
        sections=tuple(_sections(report, verdicts, detail)),
        ends=(_made(report, detail),),
    )


def _made(report: Report, detail: doc.Detail) -> doc.Line:
    more = {
        doc.Detail.GLANCE: ". Definitions, sources, all settings and what each verdict was read from: HTML or JSON report.",
        doc.Detail.SUMMARY: ".",
        doc.Detail.FULL: f", report schema {report.schema_version}.",
    }
    return doc.line(f"Made by collapsekit {report.collapsekit}{more[detail]}")


Verdicts = Sequence[tuple[str, ModalityVerdict]]


def _verdicts(report: Report, verdicts: Verdicts, full: dict[str, str], detail: doc.Detail) -> Iterator[doc.Block]:
    """A table, and at a glance what is said of each."""
    if detail is doc.Detail.SUMMARY:
        rows = [
            (*_verdict(name, v), doc.Cell(_costs(v) or doc.line(ABSENT)), doc.cell(v.reason))  # all of it in one row
            for name, v in verdicts
        ]
        about = f"Ignored: 0 is fully used, 1 fully ignored. Costs are in {report.subject.metric}."
        heads = doc.columns("modality", "verdict", ">ignored (0–1)", ">costs now", ">costs if missing", "why")
        yield doc.table("Verdicts", heads, rows, about)
        return
    rows = [(*_verdict(full[name], v), _worst_missing(v)) for name, v in verdicts]
    heads = doc.columns("modality", "verdict", ">ignored (0–1)", ">costs now", ">if missing")
    about = (
        f"ignored: 0 = fully used, 1 = fully ignored; costs: {report.subject.metric} lost by not using the modality, "
        "today and when the other one named is missing"
    )
    heads = (heads[0], doc.Column(doc.Run("verdict"), "state"), *heads[2:])
    yield doc.Table("Verdicts", heads, tuple(map(doc.Row, rows)), about, layout="stack")
    yield doc.Cards(tuple(_short_card(report, full[name], v) for name, v in verdicts))


def _verdict(name: str, v: ModalityVerdict) -> tuple[doc.Cell, ...]:
    score = number(v.score, v.interval)
    return doc.cell(name, "name"), doc.Cell((doc.state(v.verdict),)), score, doc.cell(fmt(v.costs_now))


def _costs(v: ModalityVerdict) -> doc.Line:
    parts = [(fmt(cost) + " without ", doc.Run(other, "name"), "\n") for other, cost in v.costs_if_missing.items()]
    return doc.line(*[p for part in parts for p in part][:-1])


def _worst_missing(v: ModalityVerdict) -> doc.Cell:
    if not v.costs_if_missing:
        return doc.cell(ABSENT)
    other, cost = max(v.costs_if_missing.items(), key=lambda item: item[1])
    return doc.cell(fmt(cost), aside=other)


def _short_card(report: Report, name: str, v: ModalityVerdict) -> doc.Card:
    blocks = [doc.sentence(v.reason, "inset")]
    if len(v.costs_if_missing) > 1:
        costs = ", ".join(f"{fmt(cost)} without {other}" for other, cost in v.costs_if_missing.items())
        blocks.append(doc.sentence(f"Costs in {report.subject.metric}: {costs}.", "inset"))
    return doc.Card(doc.Run(name, "label"), v.verdict, tuple(blocks), doc.state(v.verdict))


def _card(name: str, v: ModalityVerdict) -> doc.Card:
    blocks: list[doc.Block] = [doc.sentence("No score could be had.", "note")]
    if v.score is not None:
        scale = f"ignored {fmt_estimate(v.score, v.interval)} on a scale from 0, fully used, to 1, fully ignored"
        blocks = [doc.Meter(scale, v.score, v.interval, v.verdict, ("used", "ignored"))]
    facts = [
        (doc.line("Ignored"), strong_number(v.score, v.interval)),
        (doc.line("Costs now"), strong_number(v.costs_now)),
    ]
    for other, cost in v.costs_if_missing.items():
        facts.append((doc.line("If ", doc.Run(other, "label"), " is missing"), strong_number(cost)))
    blocks += [doc.sentence(v.reason), doc.Facts(tuple(facts))]
    if v.evidence:
        names = [part for e in v.evidence for part in (doc.Run(e, to=e), ", ")][:-1]
        blocks.append(doc.Paragraph(doc.line("Read from ", *names), "note"))
    return doc.Card(doc.Run(name, "label"), v.verdict, tuple(blocks), doc.state(v.verdict))


def _sections(report: Report, verdicts: Verdicts, detail: doc.Detail) -> Iterator[doc.Section]:
    probes = _results.by_probe(report)
    if detail is not doc.Detail.FULL:
        yield from _subsets(report, detail)
        for p in probes:
            blocks = tuple(_evidence(p, detail))
            name = doc.Run(f"  {p.probe}", "quiet")
            if blocks or detail is doc.Detail.SUMMARY:
                yield doc.Section(
                    doc.line(p.title, *[name] * (detail is doc.Detail.GLANCE and p.title != p.probe)), blocks
                )
        if detail is doc.Detail.SUMMARY:
            rows = [
                (doc.cell(r.name, "name"), doc.cell(r.definition), doc.cell(r.source))
                for p in probes
                for r in p.definitions
            ]
            heads = doc.columns("result", "definition", "source")
            found = doc.Table("Definitions", heads, tuple(map(doc.Row, rows)), counted="definitions", folded=True)
            yield from [doc.section("Definitions and sources", found)] if rows else []
    else:
        yield from _page(report, verdicts, probes)
    yield doc.section("Reproduce", *_reproduce(report, detail))


def _page(report: Report, verdicts: Verdicts, probes: Sequence[ProbeResults]) -> Iterator[doc.Section]:
    lead = (
        "The scale runs from fully used to fully ignored, with the interval shaded. Costs are "
        f"{report.subject.metric} lost by not using the modality: today, and when another one is missing."
    )
    cards = doc.Cards(tuple(_card(name, v) for name, v in verdicts))
    yield doc.section("Verdicts", doc.sentence(lead, "lead"), cards, name="verdicts")
    drawn = list(_figures(report))
    costs: list[doc.Figure | doc.Table] = [f for f in drawn if f.name in _COST]
    rows = _results.subsets(report)
    costs += [_subset_table(report, rows, doc.Detail.FULL)] if rows else []
    reasons = tuple(f for f in drawn if f.name not in _COST)
    yield from [doc.section("What it costs", doc.Gallery(tuple(costs)))] if costs else []
    yield from [doc.section("Why: the fused representation", doc.Gallery(reasons))] if reasons else []
    every = "Every number with its interval, definition and source. Open a probe to read it."
    yield doc.section("All results", doc.sentence(every, "lead"), *(_details(p) for p in probes))


def _figures(report: Report) -> Iterator[doc.Figure]:
    from collapsekit.render.figures.diagnosis import CAPTIONS, FIGURES

    for name, draw in FIGURES.items():
        wide = draw(report)
        if wide is not None:
            title, about = CAPTIONS[name]
            narrow = draw(report, wide=False) if wide.get_figwidth() > 4 else None
            result = next(report.named(about), None)
            texts = (result.definition, result.source) if result is not None else ("", "")
            yield doc.Figure(name, title, *texts, wide, narrow)


def _subsets(report: Report, detail: doc.Detail) -> Iterator[doc.Section]:
    every = _results.subsets(report)
    shown = _telling(every, len(report.subject.modalities)) if detail is doc.Detail.GLANCE else every
    if shown:
        left = f"{len(every) - len(shown)} more subsets in the JSON and HTML reports."
        note = [doc.sentence(left, "note")] * (len(shown) < len(every))
        yield doc.section("What each subset of modalities can do", _subset_table(report, shown, detail), *note)


def _telling(rows: list[Subset], count: int) -> list[Subset]:
    """All subsets where they are few; else the empty one, singles, those that lack one, and the full one."""
    if len(rows) <= _SUBSET_ROWS:
        return rows
    sizes = {0, 1, count - 1, count}
    return [s for s in rows if s.members is not None and len(s.members) in sizes][: 2 * _SUBSET_ROWS]


def _subset_table(report: Report, rows: list[Subset], detail: doc.Detail) -> doc.Table:
    names = report.subject.modalities
    marks = (
        tuple(doc.Column(doc.Run(m, "label"), "mark") for m in names)
        if detail is not doc.Detail.SUMMARY
        else doc.columns("subset")
    )
    metric = any(s.metric is not None for s in rows) or detail is not doc.Detail.GLANCE
    heads = (*marks, *doc.columns(">loss", *[f">{report.subject.metric}"] * metric))
    sizes = [s.metric or s.loss or (0.0, None) for s in rows]
    most = max((abs(value) for value, _ in sizes), default=0.0)
    made = []
    for s, (size, _) in zip(rows, sizes, strict=True):
        numbers = [number(*e) if e is not None else doc.cell(ABSENT) for e in (s.loss, s.metric)][: 1 + metric]
        if most > 0:
            numbers[-1] = doc.Cell(numbers[-1].runs, numbers[-1].aside, bar=abs(size) / most)
        made.append(doc.Row((*_members(s, names, detail), *numbers)))
    about = "Filled dots are the modalities the model is given." if detail is doc.Detail.FULL else ""
    return doc.Table("What each subset of modalities can do", heads, tuple(made), about, counted="subsets")


def _members(s: Subset, names: tuple[str, ...], detail: doc.Detail) -> tuple[doc.Cell, ...]:
    if s.members is None or detail is doc.Detail.SUMMARY:
        name = s.label.replace("+", " + ") if detail is not doc.Detail.FULL else s.label
        return (doc.Cell(doc.line(name), span=1 if detail is doc.Detail.SUMMARY else len(names)),)
    return tuple(doc.cell("●", "on") if n in s.members else doc.cell("·", "off") for n in names)


def _evidence(p: ProbeResults, detail: doc.Detail) -> Iterator[doc.Block]:
    glance = detail is doc.Detail.GLANCE
    curves = [r for r in p.curves if r.name not in SUBSETS]  # those are the table above
    # With many modalities the numbers about two of them would bury the rest.
    rows = [r for r in p.rows if not (glance and r.pairwise and len(p.modalities) > 2)]
    yield from _tables(p, rows, "" if glance else "result")
    if len(rows) < len(p.rows):
        yield doc.sentence("Numbers about pairs of modalities: JSON and HTML reports.", "note")
    if curves:
        yield from _short_curves(curves) if glance else [_curve_ends(curves)]
    notes = [doc.line("Note on ", doc.Run(about, "name"), f": {note}") for about, note in p.notes]
    if glance:
        yield from map(doc.Paragraph, notes)
        for r in p.skipped:
            of = f" ({r.modality})" if r.modality is not None else ""
            yield doc.Paragraph(doc.line(f"{short_name(r)}{of}: ", doc.Run("not measured", "strong"), f", {r.skipped}"))
    elif notes or p.skipped:
        yield doc.Items((*notes, *map(_skipped, p.skipped)))


def _skipped(r: Result) -> doc.Line:
    return doc.line(doc.Run(label(r), "name"), f" was not measured: {r.skipped}")


def _tables(p: ProbeResults, rows: Sequence[ResultRow], head: str) -> Iterator[doc.Table]:
    if p.whole:
        whole = [
            (doc.cell(short_name(r), "name"), number(r.value, r.interval), doc.cell(r.unit or "")) for r in p.whole
        ]
        yield doc.table(f"{p.title}, whole model", doc.columns(head, ">value", "unit"), whole)
    if rows:
        heads = (
            *doc.columns(head),
            *(doc.Column(doc.Run(m, "name"), "number") for m in p.modalities),
            *doc.columns("unit"),
        )
        made = [
            (
                doc.cell(row.label, "name"),
                *(doc.Cell() if r is None else number(r.value, r.interval) for r in row.results),
                doc.cell(row.unit),
            )
            for row in rows
        ]
        yield doc.Table(f"{p.title}, by modality", heads, tuple(map(doc.Row, made)), layout="long")


def _number(r: Result | None) -> doc.Cell:
    return doc.Cell() if r is None else number(r.value, r.interval)


def _curve_ends(curves: Sequence[Result]) -> doc.Table:
    rows = [(doc.cell(label(r), "name"), *_ends(r.curve)) for r in curves if r.curve is not None]
    heads = doc.columns("curve", "over", ">points", ">first", ">last")
    return doc.Table("Curves", heads, tuple(map(doc.Row, rows)), counted="curves")


def _ends(curve: Curve) -> tuple[doc.Cell, ...]:
    if not curve.y:
        return doc.Cell(), doc.cell("0"), doc.cell(ABSENT), doc.cell(ABSENT)
    return doc.cell(curve.x_label), doc.cell(str(len(curve.y))), doc.cell(fmt(curve.y[0])), doc.cell(fmt(curve.y[-1]))


def _short_curves(curves: Sequence[Result]) -> Iterator[doc.Block]:
    groups: dict[str, list[Result]] = {}
    for r in curves:
        groups.setdefault(r.name, []).append(r)
    rows, hidden = [], 0
    for group in groups.values():
        # A modality beside itself says the most where there are too many pairs to show.
        own = [r for r in group if r.versus in (None, r.modality)] if len(group) > _CURVE_ROWS else group
        hidden += len(group) - len(own[:_CURVE_ROWS])
        for i, r in enumerate(own[:_CURVE_ROWS]):
            if r.curve is None or not r.curve.y:
                continue
            name = f"{short_name(r)} over {r.curve.x_label}" if i == 0 else ""
            of = (r.modality or WHOLE) + (f" versus {r.versus}" if r.versus is not None else "")
            ends = doc.cell(fmt(r.curve.y[0])), doc.cell(_sparkline(r.curve)), doc.cell(fmt(r.curve.y[-1]))
            rows.append((doc.cell(name, "name"), doc.cell(of), *ends))
    yield doc.table("Curves", doc.columns("curve", "of", ">first", "", ">last"), rows)
    if hidden:
        yield doc.sentence(f"{hidden} more curves in the JSON and HTML reports.", "note")


def _sparkline(curve: Curve) -> str:
    # Halves, as the span of two numbers may be more than a number can be.
    picked = [curve.y[i] / 2 for i in thinned(len(curve.y), 12)]
    low, span = min(picked), max(picked) - min(picked)
    if span <= 0:
        return _BARS[0] * len(picked)
    return "".join(_BARS[min(7, int((y - low) / span * 8))] for y in picked)


def _details(p: ProbeResults) -> doc.Details:
    title = [doc.Run(p.title, "strong")] + [doc.Run(p.probe, "name")] * (p.title != p.probe)
    title += [doc.Run(f"{len(p.skipped)} not measured", "quiet")] * bool(p.skipped)
    notes = [doc.Paragraph(_skipped(r), "note") for r in p.skipped]
    notes += [
        doc.Paragraph(doc.line("Note on ", doc.Run(about, "name"), f": {note}"), "note") for about, note in p.notes
    ]
    found: tuple[doc.Block, ...] = (*_tables(p, p.rows, "result"), *notes, *map(_points, p.curves))
    terms = [doc.Term((doc.Run(r.name, "name"),), doc.line(r.definition), r.source, r.name) for r in p.definitions]
    return doc.Details(
        _spaced(title), (*found, doc.sentence("Definitions and sources", "heading"), doc.Terms(tuple(terms)))
    )


def _spaced(runs: Sequence[doc.Run]) -> doc.Line:
    return doc.line(*[part for run in runs for part in (run, " ")][:-1])


def _points(result: Result) -> doc.Details:
    every = _results.points(result)
    shown = [every[i] for i in thinned(len(every), _POINTS)]
    rows = [
        (doc.cell(x if isinstance(x, str) else fmt(x)), doc.cell(fmt(y)), doc.cell(fmt_interval(e), "quiet"))
        for x, y, e in shown
    ]
    x, y = (result.curve.x_label, result.curve.y_label) if result.curve is not None else ("", "")
    heads = (doc.Column(doc.Run(x)), doc.Column(doc.Run(y), "number"), *doc.columns(">interval"))
    blocks: list[doc.Block] = [doc.table(label(result), heads, rows)]
    if len(shown) < len(every):
        text = f"{len(shown)} of {len(every)} points; the JSON report has them all."
        blocks.append(doc.sentence(text, "note"))
    title = (doc.Run(label(result), "name"), doc.Run(" "), doc.Run(f"{len(every)} points over {x}", "quiet"))
    return doc.Details(title, tuple(blocks))


def _reproduce(report: Report, detail: doc.Detail) -> Iterator[doc.Block]:
    command = report.settings.get("command")
    if isinstance(command, str) and command:
        yield doc.sentence(command, "command")
    digest = ("checkpoint sha256", report.subject.sha256)
    if detail is doc.Detail.GLANCE:
        yield doc.sentence(" ".join(digest), "inset")
        return
    settings = flatten({k: v for k, v in report.settings.items() if k != "command"})
    yield names_table("Settings", ("setting", "value"), [*settings, digest])
    if detail is doc.Detail.FULL and report.environment:
        found = names_table("Environment", ("what", "value"), flatten(report.environment))
        yield doc.Details((doc.Run("Environment", "strong"),), (found,))
