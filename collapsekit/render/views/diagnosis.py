"""What a diagnosis says: the verdicts first, then what each modality costs, then why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from collapsekit.render.cleaning import cleaned, renamed
from collapsekit.render.document import (
    Block,
    Card,
    Cards,
    Cell,
    Code,
    Column,
    Detail,
    Details,
    Document,
    Facts,
    Figure,
    Gallery,
    Items,
    Line,
    Meter,
    Paragraph,
    Row,
    Run,
    Section,
    Table,
    Term,
    Terms,
    cell,
    columns,
    line,
    section,
    sentence,
    state,
    table,
)
from collapsekit.render.numbers import ABSENT, fmt, fmt_estimate, fmt_interval
from collapsekit.render.views import _results
from collapsekit.render.views._results import SUBSETS, WHOLE, ProbeResults, ResultRow, Subset
from collapsekit.render.views._words import flatten, letters, names_table, number, strong_number, thinned
from collapsekit.report.diagnosis import Curve, ModalityVerdict, Report, Result
from collapsekit.report.names import label, modality_names, short_name

_SEVERITY = ("collapsed", "underused", "inconclusive", "uninformative", "used")
_NAME_WIDTH = 16  # at a glance, modalities with longer names are called A, B, … after the verdicts
_CURVE_ROWS = 6  # at a glance, lines for one curve's name; more is a data dump
_SUBSET_ROWS = 16
_POINTS = 128  # rows of a curve's table; a vector has no reader beyond that, and the JSON has it whole
_BARS = "▁▂▃▄▅▆▇█"
_COST = ("reliance", "utilisation")  # the figures on what it costs; the others say why


def view(report: Report, detail: Detail) -> Document:
    """The report as a document. At a glance: verdicts and numbers; in full: figures and all points of curves, too."""
    report = cleaned(report)
    keys = letters(modality_names(report), _NAME_WIDTH) if detail is Detail.GLANCE else None
    full = {n: n for n in modality_names(report)}
    if keys is not None:
        report, full = renamed(report, keys), {k: f"{k} = {n}" for n, k in keys.items()}
    s = report.subject
    data = f"{s.split} split, {s.examples} examples"
    facts = (("Checkpoint", s.checkpoint), ("Task", f"{s.task}, {s.metric}"), ("Data", data), ("Seed", str(s.seed)))
    verdicts = sorted(report.modalities.items(), key=lambda item: _SEVERITY.index(item[1].verdict))
    return Document(
        subject="Modality collapse diagnosis",
        title=report.summary,
        outcome=state(report.verdict),
        page=f"{report.verdict}: {s.checkpoint}",
        about=(line(Run(s.checkpoint, "name"), f" · {s.task}, {s.metric} · {data}, seed {s.seed}"),),
        facts=Facts(tuple((line(what), line(how)) for what, how in facts)),
        warnings=tuple(w.sentence for w in report.warnings),
        blocks=() if detail is Detail.FULL else tuple(_verdicts(report, verdicts, full, detail)),
        sections=tuple(_sections(report, verdicts, detail)),
        ends=(_made(report, detail),),
    )


def _made(report: Report, detail: Detail) -> Line:
    more = {
        Detail.GLANCE: ". Definitions, sources, all settings and what each verdict was read from: HTML or JSON report.",
        Detail.SUMMARY: ".",
        Detail.FULL: f", report schema {report.schema_version}.",
    }
    return line(f"Made by collapsekit {report.collapsekit}{more[detail]}")


Verdicts = Sequence[tuple[str, ModalityVerdict]]


def _verdicts(report: Report, verdicts: Verdicts, full: dict[str, str], detail: Detail) -> Iterator[Block]:
    """A table, and at a glance what is said of each."""
    if detail is Detail.SUMMARY:
        rows = [
            (*_verdict(name, v), Cell(_costs(v) or line(ABSENT)), cell(v.reason))  # all of it in one row
            for name, v in verdicts
        ]
        about = f"Ignored: 0 is fully used, 1 fully ignored. Costs are in {report.subject.metric}."
        heads = columns("modality", "verdict", ">ignored (0–1)", ">costs now", ">costs if missing", "why")
        yield table("Verdicts", heads, rows, about)
        return
    rows = [(*_verdict(full[name], v), _worst_missing(v)) for name, v in verdicts]
    heads = columns("modality", "verdict", ">ignored (0–1)", ">costs now", ">if missing")
    about = (
        f"ignored: 0 = fully used, 1 = fully ignored; costs: {report.subject.metric} lost by not using the modality, "
        "today and when the other one named is missing"
    )
    heads = (heads[0], Column(Run("verdict"), "state"), *heads[2:])
    yield Table("Verdicts", heads, tuple(map(Row, rows)), about, layout="stack")
    yield Cards(tuple(_short_card(report, full[name], v) for name, v in verdicts))


def _verdict(name: str, v: ModalityVerdict) -> tuple[Cell, ...]:
    score = number(v.score, v.interval)
    return cell(name, "name"), Cell((state(v.verdict),)), score, cell(fmt(v.costs_now))


def _costs(v: ModalityVerdict) -> Line:
    parts = [(fmt(cost) + " without ", Run(other, "name"), "\n") for other, cost in v.costs_if_missing.items()]
    return line(*[p for part in parts for p in part][:-1])


def _worst_missing(v: ModalityVerdict) -> Cell:
    if not v.costs_if_missing:
        return cell(ABSENT)
    other, cost = max(v.costs_if_missing.items(), key=lambda item: item[1])
    return cell(fmt(cost), aside=other)


def _short_card(report: Report, name: str, v: ModalityVerdict) -> Card:
    blocks = [sentence(v.reason, "inset")]
    if len(v.costs_if_missing) > 1:
        costs = ", ".join(f"{fmt(cost)} without {other}" for other, cost in v.costs_if_missing.items())
        blocks.append(sentence(f"Costs in {report.subject.metric}: {costs}.", "inset"))
    return Card(Run(name, "label"), v.verdict, tuple(blocks), state(v.verdict))


def _card(name: str, v: ModalityVerdict) -> Card:
    blocks: list[Block] = [sentence("No score could be had.", "note")]
    if v.score is not None:
        scale = f"ignored {fmt_estimate(v.score, v.interval)} on a scale from 0, fully used, to 1, fully ignored"
        blocks = [Meter(scale, v.score, v.interval, v.verdict, ("used", "ignored"))]
    facts = [(line("Ignored"), strong_number(v.score, v.interval)), (line("Costs now"), strong_number(v.costs_now))]
    for other, cost in v.costs_if_missing.items():
        facts.append((line("If ", Run(other, "label"), " is missing"), strong_number(cost)))
    blocks += [sentence(v.reason), Facts(tuple(facts))]
    if v.evidence:
        names = [part for e in v.evidence for part in (Run(e, to=e), ", ")][:-1]
        blocks.append(Paragraph(line("Read from ", *names), "note"))
    return Card(Run(name, "label"), v.verdict, tuple(blocks), state(v.verdict))


def _sections(report: Report, verdicts: Verdicts, detail: Detail) -> Iterator[Section]:
    probes = _results.by_probe(report)
    if detail is not Detail.FULL:
        yield from _subsets(report, detail)
        for p in probes:
            blocks = tuple(_evidence(p, detail))
            name = Run(f"  {p.probe}", "quiet")
            if blocks or detail is Detail.SUMMARY:
                yield Section(line(p.title, *[name] * (detail is Detail.GLANCE and p.title != p.probe)), blocks)
        if detail is Detail.SUMMARY:
            rows = [(cell(r.name, "name"), cell(r.definition), cell(r.source)) for p in probes for r in p.definitions]
            heads = columns("result", "definition", "source")
            found = Table("Definitions", heads, tuple(map(Row, rows)), counted="definitions", folded=True)
            yield from [section("Definitions and sources", found)] if rows else []
    else:
        yield from _page(report, verdicts, probes)
    yield section("Reproduce", *_reproduce(report, detail))


def _page(report: Report, verdicts: Verdicts, probes: Sequence[ProbeResults]) -> Iterator[Section]:
    lead = (
        "The scale runs from fully used to fully ignored, with the interval shaded. Costs are "
        f"{report.subject.metric} lost by not using the modality: today, and when another one is missing."
    )
    cards = Cards(tuple(_card(name, v) for name, v in verdicts))
    yield section("Verdicts", sentence(lead, "lead"), cards, name="verdicts")
    drawn = list(_figures(report))
    costs: list[Figure | Table] = [f for f in drawn if f.name in _COST]
    rows = _results.subsets(report)
    costs += [_subset_table(report, rows, Detail.FULL)] if rows else []
    reasons = tuple(f for f in drawn if f.name not in _COST)
    yield from [section("What it costs", Gallery(tuple(costs)))] if costs else []
    yield from [section("Why: the fused representation", Gallery(reasons))] if reasons else []
    every = "Every number with its interval, definition and source. Open a probe to read it."
    yield section("All results", sentence(every, "lead"), *(_details(p) for p in probes))


def _figures(report: Report) -> Iterator[Figure]:
    from collapsekit.render.figures.diagnosis import CAPTIONS, FIGURES

    for name, draw in FIGURES.items():
        wide = draw(report)
        if wide is not None:
            title, about = CAPTIONS[name]
            narrow = draw(report, wide=False) if wide.get_figwidth() > 4 else None
            result = next(report.named(about), None)
            texts = (result.definition, result.source) if result is not None else ("", "")
            yield Figure(name, title, *texts, wide, narrow)


def _subsets(report: Report, detail: Detail) -> Iterator[Section]:
    every = _results.subsets(report)
    shown = _telling(every, len(report.subject.modalities)) if detail is Detail.GLANCE else every
    if shown:
        left = f"{len(every) - len(shown)} more subsets in the JSON and HTML reports."
        note = [sentence(left, "note")] * (len(shown) < len(every))
        yield section("What each subset of modalities can do", _subset_table(report, shown, detail), *note)


def _telling(rows: list[Subset], count: int) -> list[Subset]:
    """All subsets where they are few; else the empty one, singles, those that lack one, and the full one."""
    if len(rows) <= _SUBSET_ROWS:
        return rows
    sizes = {0, 1, count - 1, count}
    return [s for s in rows if s.members is not None and len(s.members) in sizes][: 2 * _SUBSET_ROWS]


def _subset_table(report: Report, rows: list[Subset], detail: Detail) -> Table:
    names = report.subject.modalities
    marks = tuple(Column(Run(m, "label"), "mark") for m in names) if detail is not Detail.SUMMARY else columns("subset")
    metric = any(s.metric is not None for s in rows) or detail is not Detail.GLANCE
    heads = (*marks, *columns(">loss", *[f">{report.subject.metric}"] * metric))
    sizes = [s.metric or s.loss or (0.0, None) for s in rows]
    most = max((abs(value) for value, _ in sizes), default=0.0)
    made = []
    for s, (size, _) in zip(rows, sizes, strict=True):
        numbers = [number(*e) if e is not None else cell(ABSENT) for e in (s.loss, s.metric)][: 1 + metric]
        if most > 0:
            numbers[-1] = Cell(numbers[-1].runs, numbers[-1].aside, bar=abs(size) / most)
        made.append(Row((*_members(s, names, detail), *numbers)))
    about = "Filled dots are the modalities the model is given." if detail is Detail.FULL else ""
    return Table("What each subset of modalities can do", heads, tuple(made), about, counted="subsets")


def _members(s: Subset, names: tuple[str, ...], detail: Detail) -> tuple[Cell, ...]:
    if s.members is None or detail is Detail.SUMMARY:
        name = s.label.replace("+", " + ") if detail is not Detail.FULL else s.label
        return (Cell(line(name), span=1 if detail is Detail.SUMMARY else len(names)),)
    return tuple(cell("●", "on") if n in s.members else cell("·", "off") for n in names)


def _evidence(p: ProbeResults, detail: Detail) -> Iterator[Block]:
    glance = detail is Detail.GLANCE
    curves = [r for r in p.curves if r.name not in SUBSETS]  # those are the table above
    # With many modalities the numbers about two of them would bury the rest.
    rows = [r for r in p.rows if not (glance and r.pairwise and len(p.modalities) > 2)]
    yield from _tables(p, rows, "" if glance else "result")
    if len(rows) < len(p.rows):
        yield sentence("Numbers about pairs of modalities: JSON and HTML reports.", "note")
    if curves:
        yield from _short_curves(curves) if glance else [_curve_ends(curves)]
    notes = [line("Note on ", Run(about, "name"), f": {note}") for about, note in p.notes]
    if glance:
        yield from map(Paragraph, notes)
        for r in p.skipped:
            of = f" ({r.modality})" if r.modality is not None else ""
            yield Paragraph(line(f"{short_name(r)}{of}: ", Run("not measured", "strong"), f", {r.skipped}"))
    elif notes or p.skipped:
        yield Items((*notes, *map(_skipped, p.skipped)))


def _skipped(r: Result) -> Line:
    return line(Run(label(r), "name"), f" was not measured: {r.skipped}")


def _tables(p: ProbeResults, rows: Sequence[ResultRow], head: str) -> Iterator[Table]:
    if p.whole:
        whole = [(cell(short_name(r), "name"), number(r.value, r.interval), cell(r.unit or "")) for r in p.whole]
        yield table(f"{p.title}, whole model", columns(head, ">value", "unit"), whole)
    if rows:
        heads = (*columns(head), *(Column(Run(m, "name"), "number") for m in p.modalities), *columns("unit"))
        made = [
            (
                cell(row.label, "name"),
                *(Cell() if r is None else number(r.value, r.interval) for r in row.results),
                cell(row.unit),
            )
            for row in rows
        ]
        yield Table(f"{p.title}, by modality", heads, tuple(map(Row, made)), layout="long")


def _number(r: Result | None) -> Cell:
    return Cell() if r is None else number(r.value, r.interval)


def _curve_ends(curves: Sequence[Result]) -> Table:
    rows = [(cell(label(r), "name"), *_ends(r.curve)) for r in curves if r.curve is not None]
    heads = columns("curve", "over", ">points", ">first", ">last")
    return Table("Curves", heads, tuple(map(Row, rows)), counted="curves")


def _ends(curve: Curve) -> tuple[Cell, ...]:
    if not curve.y:
        return Cell(), cell("0"), cell(ABSENT), cell(ABSENT)
    return cell(curve.x_label), cell(str(len(curve.y))), cell(fmt(curve.y[0])), cell(fmt(curve.y[-1]))


def _short_curves(curves: Sequence[Result]) -> Iterator[Block]:
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
            ends = cell(fmt(r.curve.y[0])), cell(_sparkline(r.curve)), cell(fmt(r.curve.y[-1]))
            rows.append((cell(name, "name"), cell(of), *ends))
    yield table("Curves", columns("curve", "of", ">first", "", ">last"), rows)
    if hidden:
        yield sentence(f"{hidden} more curves in the JSON and HTML reports.", "note")


def _sparkline(curve: Curve) -> str:
    # Halves, as the span of two numbers may be more than a number can be.
    picked = [curve.y[i] / 2 for i in thinned(len(curve.y), 12)]
    low, span = min(picked), max(picked) - min(picked)
    if span <= 0:
        return _BARS[0] * len(picked)
    return "".join(_BARS[min(7, int((y - low) / span * 8))] for y in picked)


def _details(p: ProbeResults) -> Details:
    title = [Run(p.title, "strong")] + [Run(p.probe, "name")] * (p.title != p.probe)
    title += [Run(f"{len(p.skipped)} not measured", "quiet")] * bool(p.skipped)
    notes = [Paragraph(_skipped(r), "note") for r in p.skipped]
    notes += [Paragraph(line("Note on ", Run(about, "name"), f": {note}"), "note") for about, note in p.notes]
    found: tuple[Block, ...] = (*_tables(p, p.rows, "result"), *notes, *map(_points, p.curves))
    terms = [Term((Run(r.name, "name"),), line(r.definition), r.source, r.name) for r in p.definitions]
    return Details(_spaced(title), (*found, Terms(tuple(terms), "Definitions and sources")))


def _spaced(runs: Sequence[Run]) -> Line:
    return line(*[part for run in runs for part in (run, " ")][:-1])


def _points(result: Result) -> Details:
    every = _results.points(result)
    shown = [every[i] for i in thinned(len(every), _POINTS)]
    rows = [
        (cell(x if isinstance(x, str) else fmt(x)), cell(fmt(y)), cell(fmt_interval(e), "quiet")) for x, y, e in shown
    ]
    x, y = (result.curve.x_label, result.curve.y_label) if result.curve is not None else ("", "")
    heads = (Column(Run(x)), Column(Run(y), "number"), *columns(">interval"))
    blocks: list[Block] = [table(label(result), heads, rows)]
    if len(shown) < len(every):
        text = f"{len(shown)} of {len(every)} points; the JSON report has them all."
        blocks.append(sentence(text, "note"))
    title = (Run(label(result), "name"), Run(" "), Run(f"{len(every)} points over {x}", "quiet"))
    return Details(title, tuple(blocks))


def _reproduce(report: Report, detail: Detail) -> Iterator[Block]:
    command = report.settings.get("command")
    if isinstance(command, str) and command:
        yield Code(command)
    digest = ("checkpoint sha256", report.subject.sha256)
    if detail is Detail.GLANCE:
        yield sentence(" ".join(digest), "inset")
        return
    settings = flatten({k: v for k, v in report.settings.items() if k != "command"})
    yield names_table("Settings", ("setting", "value"), [*settings, digest])
    if detail is Detail.FULL and report.environment:
        found = names_table("Environment", ("what", "value"), flatten(report.environment))
        yield Details((Run("Environment", "strong"),), (found,))
