"""What a diagnosis says: the verdicts first, then what each modality costs, then why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from collapsekit.render import document as doc
from collapsekit.render.document import Detail, Span
from collapsekit.render.numbers import ABSENT, fmt, fmt_interval
from collapsekit.render.views import _words as words
from collapsekit.render.views._results import WHOLE, ProbeResults, Subset, by_probe, points, subsets
from collapsekit.render.views._words import number
from collapsekit.report.diagnosis import Curve, ModalityVerdict, Report, Result
from collapsekit.report.names import cleaned, label, modality_names, renamed, short_name

_NAME_WIDTH = 16  # at a glance, modalities with longer names are called A, B, … after the verdicts
_CURVE_ROWS = 6  # at a glance, lines for one curve's name; more is a data dump
_SUBSET_ROWS = 16
_POINTS = 128  # rows of a curve's table; a vector has no reader beyond that, and the JSON has it whole
_BARS = "▁▂▃▄▅▆▇█"
_COST = ("reliance", "utilisation")  # the figures on what it costs; the others say why
_REST = "Definitions, sources, all settings and what each verdict was read from: HTML or JSON report."

Verdicts = Sequence[tuple[str, ModalityVerdict]]


def view(report: Report, detail: Detail) -> doc.Document:
    """Make a document of a diagnosis.

    At a glance it holds verdicts and numbers; in full, figures and all points of curves, too.
    """
    report = cleaned(report)
    keys = words.letters(modality_names(report), _NAME_WIDTH) if detail is Detail.GLANCE else None
    full = {n: n for n in modality_names(report)}
    if keys is not None:
        report, full = renamed(report, keys), {k: f"{k} = {n}" for n, k in keys.items()}
    s = report.subject
    data = f"{s.split} split, {s.examples} examples"
    verdicts = sorted(report.modalities.items(), key=lambda item: words.severity(item[1].verdict))
    parts = {Detail.GLANCE: _glance, Detail.SUMMARY: _summary, Detail.FULL: _full}
    return doc.Document(
        subject="Modality collapse diagnosis",
        title=report.summary,
        outcome=doc.state(report.verdict),
        page=f"{report.verdict}: {s.checkpoint}",
        about=(doc.line(Span(s.checkpoint, "name"), f" · {s.task}, {s.metric} · {data}, seed {s.seed}"),),
        facts=doc.facts(Checkpoint=s.checkpoint, Task=f"{s.task}, {s.metric}", Data=data, Seed=str(s.seed)),
        warnings=tuple(w.sentence for w in report.warnings),
        blocks=() if detail is Detail.FULL else tuple(_verdicts(report, verdicts, full, detail)),
        sections=(*parts[detail](report, verdicts), doc.section("Reproduce", *_reproduce(report, detail))),
        ends=(doc.line(words.made_by(report, detail), f" {_REST}" * (detail is Detail.GLANCE)),),
    )


def _verdicts(report: Report, verdicts: Verdicts, full: dict[str, str], detail: Detail) -> Iterator[doc.Block]:
    """A table, and at a glance what is said of each."""
    metric, state = report.subject.metric, doc.TableColumn(Span("verdict"), "state")
    heads = ("modality", state, ">ignored (0–1)", ">costs now")
    if detail is Detail.SUMMARY:
        about = f"Ignored: 0 is fully used, 1 fully ignored. Costs are in {metric}."
        whole = [(*_verdict(name, v), doc.TableCell(_costs(v) or doc.line(ABSENT)), v.reason) for name, v in verdicts]
        yield doc.table("Verdicts", (*heads, ">costs if missing", "why"), whole, about=about)
        return
    about = (
        f"ignored: 0 = fully used, 1 = fully ignored; costs: {metric} lost by not using the modality, today and when the "
        "other one named is missing"
    )
    worst = [(*_verdict(full[name], v), _worst_missing(v)) for name, v in verdicts]
    yield doc.table("Verdicts", (*heads, ">if missing"), worst, about=about, layout="stack")
    yield doc.Gallery(tuple(_card(full[name], v, _reason(v, metric)) for name, v in verdicts))


def _reason(v: ModalityVerdict, metric: str) -> Iterator[doc.Block]:
    yield doc.sentence(v.reason, "inset")
    costs = ", ".join(f"{fmt(cost)} without {other}" for other, cost in v.costs_if_missing.items())
    if len(v.costs_if_missing) > 1:
        yield doc.sentence(f"Costs in {metric}: {costs}.", "inset")


def _card(name: str, v: ModalityVerdict, blocks: Iterable[doc.Block]) -> doc.Card:
    return doc.Card(Span(name, "label"), v.verdict, tuple(blocks), doc.state(v.verdict))


def _verdict(name: str, v: ModalityVerdict) -> tuple[doc.TableCell | str, ...]:
    return doc.name(name), doc.TableCell((doc.state(v.verdict),)), number(v.score, v.interval), fmt(v.costs_now)


def _costs(v: ModalityVerdict) -> doc.Line:
    parts = [(f"{fmt(cost)} without ", Span(other, "name"), "\n") for other, cost in v.costs_if_missing.items()]
    return doc.line(*[p for part in parts for p in part][:-1])


def _worst_missing(v: ModalityVerdict) -> doc.TableCell | str:
    other, cost = max(v.costs_if_missing.items(), key=lambda item: item[1], default=("", None))
    return doc.TableCell(doc.line(fmt(cost)), doc.cell(other, "quiet").runs)


def _glance(report: Report, verdicts: Verdicts) -> Iterator[doc.Section]:
    del verdicts
    every = subsets(report)
    shown = _telling(every, len(report.subject.modalities))
    if shown:
        left = doc.sentence(f"{len(every) - len(shown)} more subsets in the JSON and HTML reports.", "note")
        table = _subset_table(report, shown, Detail.GLANCE)
        yield doc.section(table.title, table, *[left] * (len(shown) < len(every)))
    for p in by_probe(report):
        blocks = (*_short_tables(p), *_short_curves(p), *map(doc.Paragraph, p.notes), *_short_skips(p))
        if blocks:
            yield doc.Section(doc.line(p.title, Span(f"  {p.probe}" if p.title != p.probe else "", "quiet")), blocks)


def _telling(rows: list[Subset], count: int) -> list[Subset]:
    """All subsets where they are few; else the empty one, singles, those that lack one, and the full one."""
    if len(rows) <= _SUBSET_ROWS:
        return rows
    sizes = {0, 1, count - 1, count}
    return [s for s in rows if s.members is not None and len(s.members) in sizes][: 2 * _SUBSET_ROWS]


def _short_tables(p: ProbeResults) -> Iterator[doc.Block]:
    # With many modalities the numbers about two of them would bury the rest.
    pairs = len(p.modalities) <= 2
    yield from p.tables("", pairs)
    if not pairs and any(r.value is not None and r.versus is not None and r.modality is not None for r in p.results):
        yield doc.sentence("Numbers about pairs of modalities: JSON and HTML reports.", "note")


def _short_curves(p: ProbeResults) -> Iterator[doc.Block]:
    groups: dict[str, list[tuple[Result, Curve]]] = {}
    for r, curve in p.curves:
        groups.setdefault(r.name, []).append((r, curve))
    rows, hidden = [], 0
    for group in groups.values():
        # A modality beside itself says the most where there are too many pairs to show.
        most = [x for x in group if x[0].versus in (None, x[0].modality)] if len(group) > _CURVE_ROWS else group
        shown = most[:_CURVE_ROWS]
        hidden += len(group) - len(shown)
        for r, curve in (x for x in shown if x[1].y):
            name = f"{short_name(r)} over {curve.x_label}" if r is shown[0][0] else ""
            of = (r.modality or WHOLE) + (f" versus {r.versus}" if r.versus is not None else "")
            rows.append((doc.name(name), of, fmt(curve.y[0]), _sparkline(curve), fmt(curve.y[-1])))
    if groups:
        yield doc.table("Curves", ("curve", "of", ">first", "", ">last"), rows)
    if hidden:
        yield doc.sentence(f"{hidden} more curves in the JSON and HTML reports.", "note")


def _sparkline(curve: Curve) -> str:
    # Halves, as the span of two numbers may be more than a number can be.
    picked = [curve.y[i] / 2 for i in words.thinned(len(curve.y), 12)]
    low, span = min(picked), max(picked) - min(picked)
    if span <= 0:
        return _BARS[0] * len(picked)
    return "".join(_BARS[min(7, int((y - low) / span * 8))] for y in picked)


def _short_skips(p: ProbeResults) -> Iterator[doc.Block]:
    for r in p.results:
        if r.skipped is not None:
            of = f" ({r.modality})" if r.modality is not None else ""
            yield doc.Paragraph(doc.line(f"{short_name(r)}{of}: ", Span("not measured", "strong"), f", {r.skipped}"))


def _skips(p: ProbeResults) -> list[doc.Line]:
    skipped = [r for r in p.results if r.skipped is not None]
    return [doc.line(Span(label(r), "name"), f" was not measured: {r.skipped}") for r in skipped]


def _summary(report: Report, verdicts: Verdicts) -> Iterator[doc.Section]:
    del verdicts
    yield from doc.tabled(_subset_table(report, subsets(report), Detail.SUMMARY))
    probes = by_probe(report)
    for p in probes:
        ends = [(doc.name(label(r)), *_ends(curve)) for r, curve in p.curves]
        curves = doc.table("Curves", ("curve", "over", ">points", ">first", ">last"), ends, counted="curves")
        remarks = [*p.notes, *_skips(p)]
        lists = [doc.items(remarks)] if remarks else []
        yield doc.section(p.title, *p.tables("result", True), *[curves] * bool(ends), *lists)
    every = ((r.name, r.definition, r.source) for p in probes for r in p.definitions)
    yield from doc.tabled(words.definitions("result", every))


def _ends(curve: Curve) -> tuple[str, str, str, str]:
    if not curve.y:
        return "", "0", ABSENT, ABSENT
    return curve.x_label, str(len(curve.y)), fmt(curve.y[0]), fmt(curve.y[-1])


def _full(report: Report, verdicts: Verdicts) -> Iterator[doc.Section]:
    lead = (
        "The scale runs from fully used to fully ignored, with the interval shaded. Costs are "
        f"{report.subject.metric} lost by not using the modality: today, and when another one is missing."
    )
    cards = doc.Gallery(tuple(_card(name, v, _measured(v)) for name, v in verdicts))
    yield doc.section("Verdicts", doc.sentence(lead, "lead"), cards, name="verdicts")
    drawn, rows = list(_figures(report)), subsets(report)
    table = (_subset_table(report, rows, Detail.FULL),) if rows else ()
    costs, reasons = (tuple(f for f in drawn if (f.name in _COST) is cost) for cost in (True, False))
    for title, shown in (("What it costs", (*costs, *table)), ("Why: the fused representation", reasons)):
        yield from [doc.section(title, doc.Gallery(shown))] if shown else []
    every = "Every number with its interval, definition and source. Open a probe to read it."
    yield doc.section("All results", doc.sentence(every, "lead"), *map(_details, by_probe(report)))


def _measured(v: ModalityVerdict) -> Iterator[doc.Block]:
    yield words.meter(v, "", "used", "ignored")
    yield doc.sentence(v.reason)
    costs = {doc.line("If ", Span(m, "label"), " is missing"): (cost, None) for m, cost in v.costs_if_missing.items()}
    facts = {doc.line("Ignored"): (v.score, v.interval), doc.line("Costs now"): (v.costs_now, None), **costs}
    numbers = tuple(doc.Term(what, words.strong_number(*how)) for what, how in facts.items())
    yield doc.Terms(numbers, "numbers")
    if v.evidence:
        names = [part for e in v.evidence for part in (Span(e, to=e), ", ")][:-1]
        yield doc.Paragraph(doc.line("Read from ", *names), "note")


def _figures(report: Report) -> Iterator[doc.Figure]:
    from collapsekit.render.figures.diagnosis import CAPTIONS, FIGURES

    of = {name: (title, next(report.named(about), None)) for name, (title, about) in CAPTIONS.items()}
    return words.drawn((name, *of[name], partial(draw, report)) for name, draw in FIGURES.items())


def _subset_table(report: Report, rows: list[Subset], detail: Detail) -> doc.Table:
    names, summary = report.subject.modalities, detail is Detail.SUMMARY
    marks = ["subset"] if summary else [doc.TableColumn(Span(m, "label"), "mark") for m in names]
    metric = any(s.metric is not None for s in rows) or detail is not Detail.GLANCE
    sizes = [s.metric or s.loss or (0.0, None) for s in rows]
    most = max((abs(value) for value, _ in sizes), default=0.0)
    made = []
    for s, (size, _) in zip(rows, sizes, strict=True):
        numbers = [words.estimate(e, ABSENT) for e in (s.loss, s.metric)][: 1 + metric]
        if most > 0:
            numbers[-1] = doc.TableCell(numbers[-1].runs, numbers[-1].aside, bar=abs(size) / most)
        made.append((*_members(s, names, detail), *numbers))
    about = "Filled dots are the modalities the model is given." if detail is Detail.FULL else ""
    heads = (*marks, ">loss", *[f">{report.subject.metric}"] * metric)
    return doc.table("What each subset of modalities can do", heads, made, about=about, counted="subsets")


def _members(s: Subset, names: tuple[str, ...], detail: Detail) -> tuple[doc.TableCell, ...]:
    if s.members is None or detail is Detail.SUMMARY:
        name = s.label if detail is Detail.FULL else s.label.replace("+", " + ")
        return (doc.TableCell(doc.line(name), span=1 if detail is Detail.SUMMARY else len(names)),)
    return tuple(doc.cell("●", "on") if n in s.members else doc.cell("·", "off") for n in names)


def _details(p: ProbeResults) -> doc.Details:
    count = sum(r.skipped is not None for r in p.results)
    title = doc.line(Span(p.title, "strong"), " ", Span(p.probe if p.title != p.probe else "", "name"))
    title = (*title, *[Span(" "), Span(f"{count} not measured", "quiet")] * bool(count))
    remarks = [doc.Paragraph(runs, "note") for runs in (*_skips(p), *p.notes)]
    curves = [_points(r, r.curve) for r in p.results if r.curve is not None]
    terms = [doc.Term((Span(r.name, "name"),), doc.line(r.definition), r.source, r.name) for r in p.definitions]
    ends = (doc.sentence("Definitions and sources", "heading"), doc.Terms(tuple(terms)))
    return doc.Details(title, (*p.tables("result", True), *remarks, *curves, *ends))


def _points(result: Result, curve: Curve) -> doc.Details:
    every = points(result)
    shown = [every[i] for i in words.thinned(len(every), _POINTS)]
    rows = [(words.point(x), fmt(y), doc.cell(fmt_interval(e), "quiet")) for x, y, e in shown]
    heads = (doc.TableColumn(Span(curve.x_label)), doc.TableColumn(Span(curve.y_label), "number"), "interval")
    left = doc.sentence(f"{len(shown)} of {len(every)} points; the JSON report has them all.", "note")
    title = (Span(label(result), "name"), Span(" "), Span(f"{len(every)} points over {curve.x_label}", "quiet"))
    return doc.Details(title, (doc.table(label(result), heads, rows), *[left] * (len(shown) < len(every))))


def _reproduce(report: Report, detail: Detail) -> Iterator[doc.Block]:
    command = report.settings.get("command")
    if isinstance(command, str) and command:
        yield doc.sentence(command, "command")
    digest = ("checkpoint sha256", report.subject.sha256)
    if detail is Detail.GLANCE:
        yield doc.sentence(" ".join(digest), "inset")
        return
    settings = words.flatten({k: v for k, v in report.settings.items() if k != "command"})
    yield doc.table("Settings", ("setting", "value"), words.names([*settings, digest]))
    if detail is Detail.FULL and report.environment:
        rows = words.names(words.flatten(report.environment))
        yield doc.details("Environment", doc.table("Environment", ("what", "value"), rows))
