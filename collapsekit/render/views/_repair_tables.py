"""Tables of a repair's report: verdicts, conditions and numbers before, after and with plain fine-tuning.

All functions take a report that :func:`collapsekit.report.names.cleaned_repair` has been through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from collapsekit.comparison.delta import Judgement, RepairDelta
from collapsekit.comparison.standing import NumberRow
from collapsekit.render import document as doc
from collapsekit.render.document import Span, TableColumn
from collapsekit.render.numbers import ABSENT, fmt, fmt_estimate
from collapsekit.render.views import _words as words
from collapsekit.render.views._results import points
from collapsekit.report.diagnosis import Report, Result
from collapsekit.report.names import some, whole_label
from collapsekit.report.repair import BasisInsert, ExchangeInsert, LossCurve, RepairReport

Group = tuple[str, Sequence[NumberRow]]  # under a title
_POINTS = 16  # of a curve
_NUMBER, _CHANGE, _JUDGED = 15, 9, 7  # widths of columns at a glance: a number is as wide as an interval
_PUT = "Modules that were put into the model; collapsekit.load_repaired puts them into yours."


def reports_of(report: RepairReport) -> dict[str, Report]:
    """Name the reports within by when they were made."""
    found = {"before": report.before, "after": report.after, "control": report.control}
    return {when: r for when, r in found.items() if r is not None}


def verdict_table(report: RepairReport) -> doc.Table:
    """Show one row a modality: verdict and score in each report."""
    reports = reports_of(report)
    names = {m: "repaired" if m in report.repaired else "" for r in reports.values() for m in r.modalities}
    heads = [TableColumn(Span(when), "state") for when in reports]
    rows = [(doc.name(m, aside), *(_verdict(r, m) for r in reports.values())) for m, aside in names.items()]
    return doc.table("Verdicts", ("modality", *heads), rows, layout="stack")


def _verdict(report: Report, modality: str) -> doc.TableCell:
    v = report.modalities.get(modality)
    if v is None:
        return doc.cell(ABSENT)
    return doc.TableCell((doc.state(v.verdict),), (Span(fmt_estimate(v.score, v.interval), "interval"),))


def checks_table(report: RepairReport) -> doc.Table:
    """Show the conditions of acceptance, with what was found."""
    rows = []
    for c in report.checks:
        state = doc.TableCell((doc.state("passed" if c.passed else "failed"),))
        change = difference(c.difference, words.number(None, c.interval).aside)
        rows.append((state, c.sentence, fmt(c.before), fmt(c.after), change, c.definition))
    return doc.table("Acceptance", ("", "found", ">before", ">after", ">difference", "condition"), rows)


def difference(value: float | None, aside: doc.Line = ()) -> doc.TableCell:
    """Show a difference with its sign, and what goes with it."""
    text = fmt(value)
    sign = "+" if value is not None and value > 0 and text not in (ABSENT, "0") else ""
    return doc.TableCell(doc.line(sign + text), aside)


def number_table(report: RepairReport, group: Group) -> doc.Table:
    """Show quantities side by side; columns of judgement only where one is known."""
    title, rows = group
    before = any(row.numbers.than_before is not None for row in rows)
    beside = any(row.numbers.than_control is not None for row in rows)
    heads = ["result", *(f">{when}" for when in reports_of(report)), ">change"]
    heads += ["than before"] * before + ["than control"] * beside
    fields = []
    for row in rows:
        n = row.numbers
        judged = [*[_judged(n.than_before)] * before, *[_judged(n.than_control)] * beside]
        name = doc.name(row.label, row.unit)
        fields.append((name, *_side_by_side(report, row, ""), difference(n.difference), *judged))
    return doc.table(title, heads, fields, counted="rows")


def short_tables(report: RepairReport, groups: Sequence[Group]) -> list[doc.Table]:
    """Show quantities side by side in 80 columns, so that tables below one another line up."""
    judged = any(row.numbers.than_control is not None for _, rows in groups for row in rows)
    heads = [TableColumn(Span(when), "number", width=_NUMBER) for when in reports_of(report)]
    heads.append(TableColumn(Span("change"), "number", width=_CHANGE))
    heads += [TableColumn(Span("than\ncontrol"), width=_JUDGED)] * judged
    tables = []
    for title, rows in groups:
        fields = []
        for row in rows:
            change = difference(row.numbers.difference, _short_judgement(row.numbers.than_before))
            last = [doc.TableCell(_short_judgement(row.numbers.than_control))] * judged
            fields.append((doc.name(row.label), *_side_by_side(report, row, ABSENT), change, *last))
        tables.append(doc.table(title, ("", *heads), fields, layout="stack"))
    return tables


def _side_by_side(report: RepairReport, row: NumberRow, absent: str) -> list[doc.TableCell]:
    return [words.estimate(getattr(row.numbers, when), absent) for when in reports_of(report)]


def _judged(judgement: Judgement | None) -> doc.TableCell:
    """Better, worse or the same, or nothing where that is not known."""
    if judgement is None:
        return doc.TableCell()
    if judgement.overlap:
        return doc.TableCell(doc.line(judgement.word), (Span("(intervals overlap)", "quiet"),))
    return doc.cell(judgement.word, judgement.word)


def _short_judgement(judgement: Judgement | None) -> doc.Line:
    if judgement is None:
        return ()
    return (Span(f"~{judgement.word}") if judgement.overlap else Span(judgement.word, judgement.word),)


def curve_tables(report: RepairReport, delta: RepairDelta) -> Iterator[tuple[str, doc.Table]]:
    """Show some points of each curve that all reports have; and what is drawn over what."""
    for probe, pair in ((probe, pair) for probe, pairs in delta.curves.items() for pair in pairs):
        every = [_points(getattr(pair, when)) for when in reports_of(report)]
        common = [x for x in every[0] if x in every[1]]
        shown = [common[i] for i in words.thinned(len(common), _POINTS)]
        rows = [[words.point(x), *(words.estimate(f.get((x, i))) for f in every)] for x, i in shown]
        curve = pair.before.curve
        x_label, y_label = (curve.x_label, curve.y_label) if curve is not None else ("", "")
        about = f"{y_label} over {x_label}" + f"; {len(shown)} of {len(common)} points" * (len(common) > len(shown))
        heads: list[str | TableColumn] = [TableColumn(Span(x_label)), *(f">{when}" for when in reports_of(report))]
        yield about, doc.table(f"{probe}: {pair.label}", heads, rows, counted="points", folded=True)


def _points(result: Result | None) -> dict[tuple[float | str, int], words.Estimate]:
    """Each point by its x, and by how often that x came before."""
    seen: Counter[float | str] = Counter()
    places: dict[tuple[float | str, int], words.Estimate] = {}
    for x, y, ends in points(result):
        places[x, seen[x]] = (y, ends)
        seen[x] += 1
    return places


def loss_table(report: RepairReport) -> doc.Table:
    """Show each stage of training in a line."""
    rows = []
    for c in report.losses:
        kept = dict(zip(c.epochs, c.held, strict=True)).get(c.kept)
        values = (c.held[0], min(c.held), c.held[-1], kept) if c.held else (None, None, None, kept)
        texts = [doc.cell(text) for text in (*map(fmt, values), kept_epoch(c), c.note or "")]
        rows.append((doc.name(c.method), doc.name(c.stage), *texts))
    return doc.table("Losses", ("method", "stage", ">first", ">best", ">last", ">loss kept", "kept", "note"), rows)


def kept_epoch(curve: LossCurve) -> str:
    """Say which epoch's weights were kept, of how many."""
    last = max(curve.epochs, default=0)
    return f"epoch {curve.kept} of {last}" + (" (the weights before training)" if curve.kept == 0 else "")


def noted_tables(report: RepairReport) -> list[tuple[str, doc.Table]]:
    """Show what only the repaired model has, what methods noted, and what was put into the model; and what each is."""
    heads = ("result", ">value", "note")
    after = f"Measured on the {report.after.subject.split} split; the model could not do this before."
    inserts = [(doc.name(r.path), _insert(r)) for r in report.structure]
    new, findings = map(_finding, _new(report)), map(_finding, report.findings)
    tables = [
        (after, doc.table("New with the repair", heads, new)),
        ("Measured while the model was repaired.", doc.table("Noted by the method", heads, findings)),
        (_PUT, doc.table("Put into the model", ("behind", "what"), inserts)),
    ]
    return [(about, table) for about, table in tables if table.rows]


def _finding(r: Result) -> tuple[doc.TableCell | str, ...]:
    value = "skipped" if r.skipped else words.number(r.value, r.interval)
    return doc.name(whole_label(r), r.unit or ""), value, r.skipped or r.note or ""


def _new(report: RepairReport) -> list[Result]:
    """Numbers that only the repaired model has, with no counterpart before."""
    known = {r.name for r in report.before.results}
    return [r for r in report.after.results if r.name not in known and r.value is not None]


def _insert(record: BasisInsert | ExchangeInsert) -> str:
    if isinstance(record, BasisInsert):
        widths = (record.features, record.hidden, record.latent, record.hidden, record.features)
        return f"heads h and h⁻¹ of {record.modality}: {' → '.join(map(str, widths))} channels"
    projected = f", by a projection from {record.given}" if record.given != record.features else ""
    own = f"{len(record.to)} of the {record.features} channels of {record.modality}"
    return f"{own} blended with {record.giver}'s{projected}"


def last_tables(report: RepairReport, delta: RepairDelta) -> Iterator[doc.Table]:
    """Show caveats, what was not compared and why, what each number is and where that is from, settings."""
    notes: dict[tuple[str, str], list[str]] = {}
    for pair, when in ((pair, when) for pair in delta.pairs() for when in reports_of(report)):
        r = getattr(pair, when)
        if r is not None and r.note is not None:
            notes.setdefault((when, r.note), []).append(whole_label(r))
    rows = [(some(names), when, note) for (when, note), names in notes.items()]
    yield doc.table("Notes", ("result", "in", "note"), rows, counted="notes", folded=True)
    left = [(", ".join(names), reason) for reason, names in delta.left.items()]
    yield doc.table("Not compared", ("result", "why"), left, counted="reasons", folded=True)
    alone = sorted({(r.name, r.definition, r.source) for r in [*report.findings, *_new(report)]})
    common = dict.fromkeys((p.before.name, p.before.definition, p.before.source) for p in delta.pairs())
    every = [*((method, text, "") for method, text in report.definitions.items()), *alone, *common]
    yield words.definitions("what", every)
    digest = ("base sha256", report.base_sha256)
    settings = words.names([*words.flatten(report.settings), digest, *words.flatten(report.environment)])
    yield doc.table("Settings", ("setting", "value"), settings, counted="settings", folded=True)
