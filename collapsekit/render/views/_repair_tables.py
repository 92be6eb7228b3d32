"""Tables of a repair's report: verdicts, conditions and numbers before, after and with plain fine-tuning.

All functions take a report that :func:`collapsekit.report.cleaning.cleaned_repair` has been through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from collapsekit.comparison.delta import Judgement, Pair, RepairDelta
from collapsekit.comparison.standing import NumberRow
from collapsekit.render import document as doc
from collapsekit.render.numbers import ABSENT, fmt, fmt_estimate
from collapsekit.render.views._results import points
from collapsekit.render.views._words import Estimate, Interval, flatten, names_table, number, thinned
from collapsekit.report.diagnosis import Report, Result
from collapsekit.report.names import some, whole_label
from collapsekit.report.repair import BasisInsert, Check, ExchangeInsert, LossCurve, RepairReport

CONTROL = "Control: plain fine-tuning with the same data, steps, optimiser, schedule and early stopping."
_POINTS = 16  # of a curve
_WIDTHS = {"number": 15, "change": 9, "judged": 7}  # of columns at a glance: a number is as wide as an interval


def reports_of(report: RepairReport) -> dict[str, Report]:
    """The reports within, by when they were made."""
    found = {"before": report.before, "after": report.after, "control": report.control}
    return {when: r for when, r in found.items() if r is not None}


def verdict_table(report: RepairReport) -> doc.Table:
    """One row a modality: verdict and score in each report."""
    reports = reports_of(report)
    rows = []
    for m in dict.fromkeys(m for r in reports.values() for m in r.modalities):
        name = doc.cell(m, "name", "repaired" if m in report.repaired else "")
        rows.append(doc.Row((name, *(_verdict(r, m) for r in reports.values()))))
    heads = (*doc.columns("modality"), *(doc.Column(doc.Run(when), "state") for when in reports))
    return doc.Table("Verdicts", heads, tuple(rows), layout="stack")


def _verdict(report: Report, modality: str) -> doc.Cell:
    v = report.modalities.get(modality)
    if v is None:
        return doc.cell(ABSENT)
    return doc.Cell((doc.state(v.verdict),), (doc.Run(fmt_estimate(v.score, v.interval), "interval"),))


def checks_table(report: RepairReport) -> doc.Table:
    """The conditions of acceptance, with what was found."""
    heads = doc.columns("", "found", ">before", ">after", ">difference", "condition")
    return doc.table("Acceptance", heads, [_check(c) for c in report.checks])


def _check(c: Check) -> tuple[doc.Cell, ...]:
    numbers = number(c.before), number(c.after), _difference(c.difference, c.interval)
    return doc.Cell((passed(c),)), doc.cell(c.sentence), *numbers, doc.cell(c.definition)


def passed(check: Check) -> doc.Run:
    """Whether a check passed."""
    return doc.state("passed" if check.passed else "failed")


def signed(value: float | None) -> str:
    """A difference, with its sign."""
    text = fmt(value)
    return f"+{text}" if value is not None and value > 0 and text not in (ABSENT, "0") else text


def _difference(value: float | None, interval: Interval = None, aside: doc.Line = ()) -> doc.Cell:
    return doc.Cell(doc.line(signed(value)), aside or number(value, interval).aside)


def number_table(
    report: RepairReport, title: str, rows: Sequence[NumberRow], judged: bool, detail: doc.Detail
) -> doc.Table:
    """Quantities side by side; columns of judgement only where one is known. At a glance, ``judged`` says whether there is
    one in any of the tables, so that they line up."""
    control = report.control is not None
    if detail is doc.Detail.GLANCE:
        wide = [("before", "number"), ("after", "number"), *[("control", "number")] * control, ("change", "change")]
        heads = [doc.Column(doc.Run(name), "number", width=_WIDTHS[kind]) for name, kind in wide]
        heads += [doc.Column(doc.Run("than\ncontrol"), width=_WIDTHS["judged"])] * judged
        short = [doc.Row(tuple(_short_row(row, control, judged))) for row in rows]
        return doc.Table(title, (*doc.columns(""), *heads), tuple(short), layout="stack")
    before = any(row.numbers.than_before is not None for row in rows)
    beside = any(row.numbers.than_control is not None for row in rows)
    names = ["result", ">before", ">after", *[">control"] * control, ">change"]
    names += ["than before"] * before + ["than control"] * beside
    made = []
    for row in rows:
        n = row.numbers
        cells = [
            doc.cell(row.label, "name", row.unit),
            _number(n.before),
            _number(n.after),
            *[_number(n.control)] * control,
        ]
        cells += [_difference(n.difference), *[_judged(n.than_before)] * before, *[_judged(n.than_control)] * beside]
        made.append(tuple(cells))
    return doc.Table(title, doc.columns(*names), tuple(map(doc.Row, made)), counted="rows")


def _short_row(row: NumberRow, control: bool, judged: bool) -> list[doc.Cell]:
    n = row.numbers
    every = [n.before, n.after, *[n.control] * control]
    cells = [number(*e) if e is not None else doc.cell(ABSENT) for e in every]
    change = _difference(n.difference, aside=_short_judgement(n.than_before))
    return [doc.cell(row.label, "name"), *cells, change, *[doc.Cell(_short_judgement(n.than_control))] * judged]


def _number(estimate: Estimate | None) -> doc.Cell:
    return number(*estimate) if estimate is not None else doc.Cell()


def _judged(found: Judgement | None) -> doc.Cell:
    """Better, worse or the same, or nothing where that is not known."""
    if found is None:
        return doc.Cell()
    return doc.cell(found.word, aside="(intervals overlap)") if found.overlap else doc.cell(found.word, found.word)


def _short_judgement(found: Judgement | None) -> doc.Line:
    if found is None:
        return ()
    return (doc.Run(f"~{found.word}") if found.overlap else doc.Run(found.word, found.word),)


def curve_table(pair: Pair, probe: str, control: bool) -> tuple[str, doc.Table]:
    """At most 16 points of x against y before, after and with plain fine-tuning; and what they are."""
    results: list[Result | None] = [pair.before, pair.after, *[pair.control] * control]
    found = [_points(r) for r in results]
    common = [x for x in found[0] if x in found[1]]
    shown = [common[i] for i in thinned(len(common), _POINTS)]
    rows = [(doc.cell(x if isinstance(x, str) else fmt(x)), *(_number(f.get((x, i))) for f in found)) for x, i in shown]
    curve = pair.before.curve
    x_label, y_label = (curve.x_label, curve.y_label) if curve is not None else ("", "")
    about = f"{y_label} over {x_label}" + (f"; {len(shown)} of {len(common)} points" * (len(common) > len(shown)))
    heads = (doc.Column(doc.Run(x_label)), *doc.columns(">before", ">after", *[">control"] * control))
    return about, doc.Table(f"{probe}: {pair.label}", heads, tuple(map(doc.Row, rows)), counted="points", folded=True)


def _points(result: Result | None) -> dict[tuple[float | str, int], Estimate]:
    """Each point by its x, and by how often that x came before."""
    seen: Counter[float | str] = Counter()
    found: dict[tuple[float | str, int], Estimate] = {}
    for x, y, ends in points(result) if result is not None else ():
        found[x, seen[x]] = (y, ends)
        seen[x] += 1
    return found


def loss_table(report: RepairReport) -> doc.Table:
    """Each stage of training in a line."""
    rows = []
    for c in report.losses:
        kept = dict(zip(c.epochs, c.held, strict=True)).get(c.kept)
        values = (c.held[0], min(c.held), c.held[-1]) if c.held else (None, None, None)
        names = doc.cell(c.method, "name"), doc.cell(c.stage, "name")
        rows.append(
            (*names, *(doc.cell(fmt(v)) for v in (*values, kept)), doc.cell(kept_epoch(c)), doc.cell(c.note or ""))
        )
    heads = doc.columns("method", "stage", ">first", ">best", ">last", ">loss kept", "kept", "note")
    return doc.table("Losses", heads, rows)


def kept_epoch(curve: LossCurve) -> str:
    """The epoch whose weights were kept, of how many."""
    last = max(curve.epochs, default=0)
    return f"epoch {curve.kept} of {last}" + (" (the weights before training)" if curve.kept == 0 else "")


def noted_tables(report: RepairReport) -> list[tuple[str, doc.Table]]:
    """What only the repaired model has, what methods noted down, and what was put into the model, each with what it is."""
    heads = doc.columns("result", ">value", "note")
    after = f"Measured on the {report.after.subject.split} split; the model could not do this before."
    put = "Modules that were put into the model; collapsekit.load_repaired puts them into yours."
    inserts = [(doc.cell(r.path, "name"), doc.cell(_insert(r))) for r in report.structure]
    noted = [_finding(r) for r in report.findings]
    tables = [
        (after, doc.table("New with the repair", heads, [_finding(r) for r in _new(report)])),
        ("Measured while the model was repaired.", doc.table("Noted by the method", heads, noted)),
        (put, doc.table("Put into the model", doc.columns("behind", "what"), inserts)),
    ]
    return [(about, found) for about, found in tables if found.rows]


def _finding(r: Result) -> tuple[doc.Cell, ...]:
    value = doc.cell("skipped") if r.skipped else number(r.value, r.interval)
    return doc.cell(whole_label(r), "name", r.unit or ""), value, doc.cell(r.skipped or r.note or "")


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


def left_table(delta: RepairDelta) -> doc.Table:
    """What was not compared, and why."""
    rows = tuple(doc.Row((doc.cell(", ".join(names)), doc.cell(reason))) for reason, names in delta.left.items())
    return doc.Table("Not compared", doc.columns("result", "why"), rows, counted="reasons", folded=True)


def note_table(delta: RepairDelta) -> doc.Table:
    """Caveats of what was compared."""
    found: dict[tuple[str, str], list[str]] = {}
    for pair in delta.pairs():
        for when, r in (("before", pair.before), ("after", pair.after), ("control", pair.control)):
            if r is not None and r.note is not None:
                found.setdefault((when, r.note), []).append(whole_label(r))
    rows = tuple(
        doc.Row((doc.cell(some(names)), doc.cell(when), doc.cell(note))) for (when, note), names in found.items()
    )
    return doc.Table("Notes", doc.columns("result", "in", "note"), rows, counted="notes", folded=True)


def definition_table(report: RepairReport, delta: RepairDelta) -> doc.Table:
    """Methods and results: what each is, and where that is from."""
    alone = sorted({(r.name, r.definition, r.source) for r in [*report.findings, *_new(report)]})
    common = dict.fromkeys((p.before.name, p.before.definition, p.before.source) for p in delta.pairs())
    every = [*((method, text, "") for method, text in report.definitions.items()), *alone, *common]
    rows = tuple(doc.Row((doc.cell(name, "name"), doc.cell(text), doc.cell(source))) for name, text, source in every)
    heads = doc.columns("what", "definition", "source")
    return doc.Table("Definitions and sources", heads, rows, counted="definitions", folded=True)


def settings_table(report: RepairReport) -> doc.Table:
    """Settings of the repair, its environment, and what it began from."""
    lines = [*flatten(report.settings), ("base sha256", report.base_sha256), *flatten(report.environment)]
    return names_table("Settings", ("setting", "value"), lines, counted="settings", folded=True)
