"""Tables of a repair's report: verdicts, conditions and numbers before, after and with plain fine-tuning.

All functions take a report that :func:`collapsekit.report.names.cleaned_repair` has been through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from collapsekit.comparison.delta import Judgement, RepairDelta
from collapsekit.comparison.standing import NumberRow
from collapsekit.render import document as doc
from collapsekit.render.document import Span
from collapsekit.render.numbers import ABSENT, fmt, fmt_estimate
from collapsekit.render.views import _words as words
from collapsekit.render.views._results import points
from collapsekit.report.diagnosis import Report, Result
from collapsekit.report.names import some, whole_label
from collapsekit.report.repair import BasisInsert, ExchangeInsert, LossCurve, ReadoutInsert, RepairReport
from collapsekit.report.verdicts import describe_state

Group = tuple[str, Sequence[NumberRow]]  # under a title
_POINTS = 16  # of a curve
_PUT = "Modules that were put into the model; collapsekit.load_repaired puts them into yours."


def reports_of(report: RepairReport) -> dict[str, Report]:
    """Name the reports within by when they were made."""
    found = {"before": report.before, "after": report.after, "control": report.control}
    return {when: r for when, r in found.items() if r is not None}


def verdict_table(report: RepairReport) -> doc.Table:
    """Show one row a modality: verdict and score in each report."""
    reports = reports_of(report)
    names = {m: "repaired" if m in report.repaired else "" for r in reports.values() for m in r.modalities}
    heads = [doc.TableColumn(Span(when), "state") for when in reports]
    rows = [(doc.name(m, aside), *(_verdict(r, m) for r in reports.values())) for m, aside in names.items()]
    return doc.table("Verdicts", ("modality", *heads), rows)


def _verdict(report: Report, modality: str) -> doc.TableCell:
    v = report.modalities.get(modality)
    if v is None:
        return doc.cell(ABSENT)
    return doc.TableCell(
        (doc.state(v.verdict, describe_state(v)),), (Span(fmt_estimate(v.score, v.interval), "interval"),)
    )


def conditions(report: RepairReport) -> doc.Items:
    """List the conditions of acceptance, with what was found."""
    lines = []
    for c in report.checks:
        change = difference(c.difference, c.interval)
        numbers = f". Before {fmt(c.before)}, after {fmt(c.after)}, difference {change}"
        lines.append(doc.line(f"{c.sentence} ", Span(c.name, "name"), f": {c.definition}{numbers}"))
    return doc.Items(tuple(lines), tuple(doc.state("passed" if c.passed else "failed") for c in report.checks))


def difference(value: float | None, interval: words.Interval = None) -> str:
    """Write a difference with its sign, and its interval where it has one."""
    text = fmt_estimate(value, interval)
    return f"+{text}" if value is not None and value > 0 and text.split()[0] not in (ABSENT, "0") else text


def number_table(report: RepairReport, group: Group) -> doc.Table:
    """Show quantities side by side; a column of judgement beside the control only where one is known."""
    title, rows = group
    beside = any(row.numbers.than_control is not None for row in rows)
    heads = ("result", *(f">{when}" for when in reports_of(report)), ">change", *[">than\ncontrol"] * beside)
    fields = []
    for row in rows:
        n = row.numbers
        numbers = (words.estimate(getattr(n, when), ABSENT) for when in reports_of(report))
        change = doc.TableCell(doc.line(difference(n.difference)), _judged(n.than_before))
        control = [doc.TableCell(_judged(n.than_control))] * beside
        fields.append((doc.name(row.label, row.unit), *numbers, change, *control))
    return doc.table(title, heads, fields)


def _judged(judgement: Judgement | None) -> doc.Line:
    """Better, worse or the same, or nothing where that is not known."""
    if judgement is None:
        return ()
    return (Span(f"~{judgement.word}") if judgement.overlap else Span(judgement.word, judgement.word),)


def curves(report: RepairReport, delta: RepairDelta) -> Iterator[doc.Details]:
    """Show some points of each curve that all reports have; and what is drawn over what."""
    for probe, pair in ((probe, pair) for probe, pairs in delta.curves.items() for pair in pairs):
        every = [_points(getattr(pair, when)) for when in reports_of(report)]
        common = [x for x in every[0] if x in every[1]]
        shown = [common[i] for i in words.thinned(len(common), _POINTS)]
        rows = [[words.point(x), *(words.estimate(f.get((x, i))) for f in every)] for x, i in shown]
        curve = pair.before.curve
        x_label, y_label = (curve.x_label, curve.y_label) if curve is not None else ("", "")
        about = f"{y_label} over {x_label}" + f"; {len(shown)} of {len(common)} points" * (len(common) > len(shown))
        heads: list[str | doc.TableColumn] = [
            doc.TableColumn(Span(x_label)),
            *(f">{when}" for when in reports_of(report)),
        ]
        title = f"{probe}: {pair.label}"
        yield doc.details(Span(title, "name"), doc.table(title, heads, rows), about=about)


def _points(result: Result | None) -> dict[tuple[float | str, int], words.Estimate]:
    """Each point by its x, and by how often that x came before."""
    seen: Counter[float | str] = Counter()
    places: dict[tuple[float | str, int], words.Estimate] = {}
    for x, y, ends in points(result):
        places[x, seen[x]] = (y, ends)
        seen[x] += 1
    return places


def loss(curve: LossCurve) -> str:
    """Say how a stage of training went, in one line."""
    if not curve.held:
        return f"{curve.method}, {curve.stage}: no epoch"
    first, best, last = fmt(curve.held[0]), fmt(min(curve.held)), fmt(curve.held[-1])
    kept = fmt(dict(zip(curve.epochs, curve.held, strict=True)).get(curve.kept))
    epoch = f"epoch {curve.kept} of {max(curve.epochs)}" + " (the weights before training)" * (curve.kept == 0)
    numbers = f"held-out loss {first}, best {best}, last {last}, kept {kept} of {epoch}"
    return f"{curve.method}, {curve.stage}: {numbers}" + f"; {curve.note}" * bool(curve.note)


def findings(report: RepairReport) -> Iterator[tuple[str, str, doc.Items]]:
    """List what only the repaired model has, what methods noted, and what was put into the model; and what each is."""
    after = f"Measured on the {report.after.subject.split} split; the model could not do this before."
    inserts = [doc.line(Span(r.path, "name"), f": {_insert(r)}") for r in report.structure]
    new, by_method = (list(map(_finding, results)) for results in (_new(report), report.findings))
    lists = (
        ("New with the repair", after, new),
        ("Noted by the method", "Measured while the model was repaired.", by_method),
        ("Put into the model", _PUT, inserts),
    )
    return ((title, about, doc.items(lines)) for title, about, lines in lists if lines)


def _finding(r: Result) -> doc.Line:
    value = "skipped" if r.skipped else fmt_estimate(r.value, r.interval)
    unit, note = f" ({r.unit})" if r.unit else "", r.skipped or r.note
    return doc.line(Span(whole_label(r), "name"), f"{unit}: {value}", f", {note}" if note else "")


def _new(report: RepairReport) -> list[Result]:
    """Numbers that only the repaired model has, with no counterpart before."""
    known = {r.name for r in report.before.results}
    return [r for r in report.after.results if r.name not in known and r.value is not None]


def _insert(record: BasisInsert | ExchangeInsert | ReadoutInsert) -> str:
    if isinstance(record, ReadoutInsert):
        return (
            f"a readout of {record.modality} ({record.reads}, {record.read} numbers), its evidence added to the output"
        )
    if isinstance(record, BasisInsert):
        widths = (record.features, record.hidden, record.latent, record.hidden, record.features)
        return f"heads h and h⁻¹ of {record.modality}: {' → '.join(map(str, widths))} channels"
    projected = f", by a projection from {record.given}" if record.given != record.features else ""
    own = f"{len(record.to)} of the {record.features} channels of {record.modality}"
    return f"{own} blended with {record.giver}'s{projected}"


def remarks(report: RepairReport, delta: RepairDelta) -> Iterator[doc.Details]:
    """Show what was not compared and why, caveats, what each number is and where that is from, settings."""
    notes: dict[tuple[str, str], list[str]] = {}
    for pair, when in ((pair, when) for pair in delta.pairs() for when in reports_of(report)):
        r = getattr(pair, when)
        if r is not None and r.note is not None:
            notes.setdefault((when, r.note), []).append(whole_label(r))
    left = [(", ".join(names), reason) for reason, names in delta.left.items()]
    caveats = [(some(names), when, note) for (when, note), names in notes.items()]
    alone = sorted({(r.name, r.definition, r.source) for r in [*report.findings, *_new(report)]})
    common = ((p.before.name, p.before.definition, p.before.source) for p in delta.pairs())
    every = [*((method, text, "") for method, text in report.definitions.items()), *alone, *common]
    digest = ("base sha256", report.base_sha256)
    settings = words.names([*words.flatten(report.settings), digest, *words.flatten(report.environment)])
    yield from [doc.details("Not compared", doc.table("Not compared", ("result", "why"), left))] if left else []
    yield from [doc.details("Notes", doc.table("Notes", ("result", "in", "note"), caveats))] if caveats else []
    yield doc.details("Definitions and sources", doc.definitions(every))
    yield doc.details("Settings", doc.table("Settings", ("setting", "value"), settings))
