"""What a diagnosis says: the verdicts first, then what each modality costs, then why."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from functools import partial

from collapsekit.io.safe_text import TEXT_LIMIT, clean
from collapsekit.measures import headings
from collapsekit.render import document as doc
from collapsekit.render.document import Detail, Span
from collapsekit.render.numbers import ABSENT, fmt, fmt_parts
from collapsekit.render.views import _words as words
from collapsekit.render.views._categories import category_names, section_by_category
from collapsekit.render.views._next import recorded_steps
from collapsekit.render.views._recorded import recorded
from collapsekit.render.views._results import WHOLE, ProbeResults, Subset, by_probe, cost, points, subsets
from collapsekit.render.views._words import number
from collapsekit.report.diagnosis import Curve, ModalityVerdict, Report, Result
from collapsekit.report.names import cleaned, label, modality_names, renamed, short_name
from collapsekit.report.verdicts import describe_state

_NAME_WIDTH = 16  # at a glance, modalities with longer names are called A, B, … after the verdicts
_CURVE_ROWS = 6  # at a glance, lines for one curve's name; more is a data dump
_SUBSET_ROWS = 16
_POINTS = 128  # rows of a curve's table; a vector has no reader beyond that, and the JSON has it whole
_BARS = "▁▂▃▄▅▆▇█"
_COST = ("reliance", "utilisation", "missing", "noise")  # the figures on what it costs; the others say why
_REST = "Definitions, sources, all settings and what each verdict was read from: HTML or JSON report."


def view(report: Report, detail: Detail) -> doc.Document:
    """Make a document of a diagnosis.

    At a glance it holds verdicts and numbers; else definitions and settings, too; in full, figures and all points of curves.
    """
    report = cleaned(report)
    keys = words.letters(modality_names(report), _NAME_WIDTH if detail is Detail.GLANCE else None)
    report, full = renamed(report, keys), {k: n if k == n else f"{k} = {n}" for n, k in keys.items()}
    s, probes = report.subject, by_probe(report)
    data = f"{s.split} split, {s.examples} examples"
    extent = {"Judged": report.judged.extent} if report.judged is not None else {}
    if detail is Detail.GLANCE:
        measured = [doc.Section(_title(p), tuple(_measured(p, detail))) for p in probes]
    else:
        every = doc.sentence("Every number with its interval, definition and source. Open a probe to read it.", "lead")
        parts = (doc.Details(_title(p), tuple(_measured(p, detail))) for p in probes)
        measured = [doc.section("All results", every, *parts)]
    return doc.Document(
        subject="Modality collapse diagnosis",
        title=report.summary,
        outcome=doc.state(report.verdict),
        page=f"{report.verdict}: {s.checkpoint}",
        facts=doc.facts(
            Checkpoint=Span(s.checkpoint, "name"),
            Task=f"{s.task}, {s.metric}",
            Data=data,
            Seed=str(s.seed),
            **extent,
        ),
        warnings=tuple(w.sentence for w in report.warnings),
        sections=(
            _verdicts(report, full, detail),
            *section_by_category(report, full, detail),
            *_costs_and_reasons(report, detail),
            *_next_and_limits(report, detail),
            *measured,
            doc.section("Reproduce", *_reproduce(report, detail)),
        ),
        ends=(doc.line(words.made_by(report), f" {_REST}" * (detail is Detail.GLANCE)),),
        recorded=recorded({"": report}) if detail is Detail.FULL else (),
        names=(*modality_names(report), s.split, s.checkpoint, *_named_points(report), *category_names(report)),
    )


def _named_points(report: Report) -> Iterator[str]:
    """What curves run over where that has names, such as classes, layers, or sets of modalities."""
    for r in report.results:
        yield from (x for x in (r.curve.x if r.curve is not None else ()) if isinstance(x, str))


def _verdicts(report: Report, full: dict[str, str], detail: Detail) -> doc.Section:
    """What is said of each modality, the worst first: its numbers in a table, then why."""
    verdicts = sorted(report.modalities.items(), key=lambda item: words.severity(item[1].verdict))
    shaded = ", with the interval shaded" * (detail is Detail.FULL)
    lead = (
        f"The scale runs from 0, fully used, to 1, fully ignored{shaded}. Costs are {report.subject.metric} lost "
        "by not using the modality: today, and when another one is missing."
    )
    heads = ("modality", doc.TableColumn(Span("verdict"), "state"), ">ignored (0–1)", ">costs now", ">if missing")
    table = doc.table("Verdicts", heads, [(doc.name(full[name]), *_verdict(name, v, report)) for name, v in verdicts])
    titles = ((Span(full[name], "label"), name, v) for name, v in verdicts)
    cards = (
        doc.Card(title, v.verdict, tuple(_reason(name, v, report, detail)), _state(v)) for title, name, v in titles
    )
    return doc.section("Verdicts", doc.sentence(lead, "lead"), table, doc.Gallery(tuple(cards)), name="verdicts")


def _state(v: ModalityVerdict) -> Span:
    return doc.state(v.verdict, describe_state(v))


def _verdict(name: str, v: ModalityVerdict, report: Report) -> tuple[doc.TableCell | str, ...]:
    other = max(v.costs_if_missing, key=lambda other: v.costs_if_missing[other], default=None)
    missing = doc.TableCell(doc.line(cost(report, name, other)), doc.cell(other or "", "quiet").runs)
    return doc.TableCell((_state(v),)), number(v.score, v.interval), cost(report, name), missing


def _reason(name: str, v: ModalityVerdict, report: Report, detail: Detail) -> Iterator[doc.Block]:
    if detail is Detail.FULL:
        yield words.meter(v, "", "used", "ignored")
    yield doc.sentence(v.reason, "inset")
    costs = ", ".join(f"{cost(report, name, other)} without {other}" for other in v.costs_if_missing)
    if len(v.costs_if_missing) > 1:
        yield doc.sentence(f"Costs in {report.subject.metric}: {costs}.", "inset")
    if detail is Detail.FULL and v.evidence:
        explained = {r.name for r in report.results}
        names = [part for e in v.evidence for part in (Span(e, to=e if e in explained else ""), ", ")][:-1]
        yield doc.Paragraph(doc.line("Read from ", *names), "note")


def _costs_and_reasons(report: Report, detail: Detail) -> Iterator[doc.Section]:
    """Figures, and the table of subsets."""
    drawn = list(_figures(report)) if detail is Detail.FULL else []
    costs, reasons = (tuple(f for f in drawn if (f.name in _COST) is cost) for cost in (True, False))
    yield from [doc.section("What it costs", doc.Gallery(costs))] if costs else []
    every = subsets(report)
    shown = _telling(every, len(report.subject.modalities)) if detail is Detail.GLANCE else every
    if shown:
        table = _subset_table(report, shown)
        left = doc.sentence(f"{len(every) - len(shown)} more subsets in the JSON and HTML reports.", "note")
        yield doc.section(table.title, table, *[left] * (len(shown) < len(every)))
    yield from [doc.section("Why: the fused representation", doc.Gallery(reasons))] if reasons else []


def _next_and_limits(report: Report, detail: Detail) -> Iterator[doc.Section]:
    """What to do next, and what the numbers do not tell; the terminal's first screen says the former by what was typed."""
    if detail is Detail.GLANCE:
        return
    blocks: list[doc.Block] = []
    for step in recorded_steps(report):
        blocks.append(doc.sentence(step.about[:1].upper() + step.about[1:]))
        if step.command:
            blocks.append(doc.sentence(clean(shlex.join(step.command), TEXT_LIMIT), "command"))
    limits = [(h.title, h.cannot) for h in headings(r.probe for r in report.results) if h.cannot]
    if limits:
        lines = doc.items(doc.line(Span(title, "strong"), f": {text}.") for title, text in limits)
        blocks.append(doc.details("What this cannot tell", lines, about="by probe"))
    yield doc.section("What comes next", *blocks, name="next")


def _figures(report: Report) -> Iterator[doc.Figure]:
    from collapsekit.render.figures.diagnosis import draw_picture, explain, pictures_of, state

    pictures = pictures_of(report)
    rows = ((p.name, p.title, explain(report, p), partial(draw_picture, report, p)) for p in pictures)
    return words.drawn(rows, {p.name: state(report, p) for p in pictures})


def _telling(rows: list[Subset], count: int) -> list[Subset]:
    """All subsets where they are few; else the empty one, singles, those that lack one, and the full one."""
    if len(rows) <= _SUBSET_ROWS:
        return rows
    sizes = {0, 1, count - 1, count}
    return [s for s in rows if s.members is not None and len(s.members) in sizes][: 2 * _SUBSET_ROWS]


def _subset_table(report: Report, rows: list[Subset]) -> doc.Table:
    names, metric = report.subject.modalities, any(s.metric is not None for s in rows)
    sizes = [s.metric or s.loss or (0.0, None) for s in rows]
    most = max((abs(value) for value, _ in sizes), default=0.0)
    made = []
    for s, (size, _) in zip(rows, sizes, strict=True):
        numbers = [words.estimate(e, ABSENT) for e in (s.loss, s.metric)][: 1 + metric]
        if most > 0:
            numbers[-1] = doc.TableCell(numbers[-1].runs, numbers[-1].aside, bar=abs(size) / most)
        if s.members is None:
            members = [doc.cell(s.label), *[doc.TableCell()] * (len(names) - 1)]
        else:
            members = [doc.cell("●", "on") if n in s.members else doc.cell("·", "off") for n in names]
        made.append((*members, *numbers))
    about = "Filled dots are the modalities the model is given."
    heads: list[str | doc.TableColumn] = [doc.TableColumn(Span(m, "label"), "mark") for m in names]
    heads += [">loss", *[f">{report.subject.metric}"] * metric]
    return doc.table("What each subset of modalities can do", heads, made, about=about, counted="subsets")


def _title(p: ProbeResults) -> doc.Line:
    probe = (" · ", Span(p.probe, "name")) if p.probe != p.title else ()
    skipped = (" · ", Span(f"{p.skip_count} not measured", "quiet")) if p.skip_count else ()
    return doc.line(Span(p.title, "strong"), *probe, *skipped)


def _measured(p: ProbeResults, detail: Detail) -> Iterator[doc.Block]:
    # At a glance, with many modalities, the numbers about two of them would bury the rest.
    pairs = detail is not Detail.GLANCE or len(p.modalities) <= 2
    yield from p.tables(pairs)
    if not pairs and any(r.value is not None and r.versus is not None and r.modality is not None for r in p.results):
        yield doc.sentence("Numbers about pairs of modalities: JSON and HTML reports.", "note")
    if detail is Detail.FULL:
        yield from (_points(r, r.curve) for r in p.results if r.curve is not None)
    else:
        yield from _short_curves(p, detail)
    remarks = (*p.notes, *p.skips)
    yield from [doc.Items(remarks, kind="note")] if remarks else []
    if detail is not Detail.GLANCE:
        yield doc.sentence("Definitions and sources", "heading")
        yield doc.definitions((r.name, r.definition, r.source) for r in p.results)


def _short_curves(p: ProbeResults, detail: Detail) -> Iterator[doc.Block]:
    groups: dict[str, list[tuple[Result, Curve]]] = {}
    for r, curve in p.curves:
        groups.setdefault(r.name, []).append((r, curve))
    rows: list[tuple[doc.TableCell | str, ...]] = []
    hidden, glance = 0, detail is Detail.GLANCE
    for group in groups.values():
        shown = group
        if glance and len(group) > _CURVE_ROWS:
            # A modality beside itself says the most where there are too many pairs to show.
            shown = [x for x in group if x[0].versus in (None, x[0].modality)][:_CURVE_ROWS]
        hidden += len(group) - len(shown)
        for r, curve in shown:
            name = f"{short_name(r)} over {curve.x_label}" if r is shown[0][0] else ""
            of = (r.modality or WHOLE) + (f" versus {r.versus}" if r.versus is not None else "")
            first, last = (fmt(curve.y[0]), fmt(curve.y[-1])) if curve.y else (ABSENT, ABSENT)
            rows.append((doc.name(name), of, str(len(curve.y)), first, *[_sparkline(curve)] * glance, last))
    if groups:
        yield doc.table("Curves", ("curve", "of", ">points", ">first", *[""] * glance, ">last"), rows)
    if hidden:
        yield doc.sentence(f"{hidden} more curves in the JSON and HTML reports.", "note")


def _sparkline(curve: Curve) -> str:
    # Halves, as the span of two numbers may be more than a number can be.
    picked = [curve.y[i] / 2 for i in words.thinned(len(curve.y), 12)]
    low, span = min(picked, default=0.0), max(picked, default=0.0) - min(picked, default=0.0)
    if span <= 0:
        return _BARS[0] * len(picked)
    return "".join(_BARS[min(7, int((y - low) / span * 8))] for y in picked)


def _points(result: Result, curve: Curve) -> doc.Details:
    every = points(result)
    shown = [every[i] for i in words.thinned(len(every), _POINTS)]
    parts = ((x, *fmt_parts(y, ends)) for x, y, ends in shown)
    rows = [(words.point(x), y, doc.cell(ends, "quiet")) for x, y, ends in parts]
    heads = (doc.TableColumn(Span(curve.x_label)), doc.TableColumn(Span(curve.y_label), "number"), "interval")
    left = doc.sentence(f"{len(shown)} of {len(every)} points; the JSON report has them all.", "note")
    table, some = doc.table(label(result), heads, rows), len(shown) < len(every)
    about = f"{len(every)} points over {curve.x_label}"
    return doc.details(Span(label(result), "name"), table, *[left] * some, about=about)


def _reproduce(report: Report, detail: Detail) -> Iterator[doc.Block]:
    command = report.settings.get("command")
    if isinstance(command, str) and command:
        yield doc.sentence(command, "command")
    yield doc.sentence(f"checkpoint sha256 {report.subject.sha256}", "inset")
    settings = words.flatten({k: v for k, v in report.settings.items() if k != "command"})
    if detail is Detail.GLANCE or not settings:
        return
    yield doc.details("Settings", doc.table("Settings", ("setting", "value"), words.names(settings)))
    if detail is Detail.FULL and report.environment:
        rows = words.names(words.flatten(report.environment))
        yield doc.details("Environment", doc.table("Environment", ("what", "value"), rows))
