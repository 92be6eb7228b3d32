"""The arrangement every text format of a RepairReport shares: grids of cells, none of which holds any markup.

All functions take a report that :func:`collapsekit.render.sanitize.cleaned_repair` has been through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from collapsekit.measures import heading_of
from collapsekit.render.numbers import ABSENT, fmt, fmt_estimate, fmt_interval
from collapsekit.render.repair_compare import Compared, Comparison, Judgement, Numbers, scores, unlike, whole_label
from collapsekit.render.tables import MARKS, Estimate, flatten, some
from collapsekit.report.diagnosis import Curve, Report, Result
from collapsekit.report.repair import Check, LossCurve, RepairReport

CONTROL = "Control: plain fine-tuning with the same data, steps, optimiser, schedule and early stopping."
NO_CONTROL = "No plain fine-tuning was run beside it: what more training alone would have done is not known."
CHANGE = "Change: after minus before; better or worse only where it is known which way is better."
_MOST_POINTS = 16


@dataclass(frozen=True)
class Cell:
    """A text, a smaller one that goes with it, and what it is: text, name, number, a verdict, passed, failed, better
    or worse."""

    text: str
    kind: str = "text"
    aside: str = ""


@dataclass(frozen=True)
class Grid:
    """A table: ``headers`` and each of ``rows`` have the same length. A header's kind says how to align its column."""

    title: str
    headers: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]
    about: str = ""


@dataclass(frozen=True)
class Row:
    """One quantity side by side."""

    label: str
    numbers: Numbers
    unit: str | None = None


def headline(report: RepairReport) -> tuple[str, str]:
    """The decision in one word, and the summary."""
    return ("accepted" if report.accepted else "rejected"), report.summary


def about(report: RepairReport) -> str:
    """What was repaired and how, and what became of the weights."""
    weights = "weights written" if report.exported else "no weights written"
    if report.exported and not report.accepted:
        weights = "weights written all the same"
    return f"{report.base} · {' → '.join(report.method)} · repaired for {', '.join(report.repaired)} · {weights}"


def measured(report: RepairReport) -> str:
    """What the numbers side by side were measured on."""
    s = report.after.subject
    return f"{s.task}, {s.metric} · {s.split} split, {s.examples} examples, seed {s.seed}"


def cautions(report: RepairReport) -> list[str]:
    """What keeps the numbers from being read as they stand."""
    found = [NO_CONTROL] if report.control is None else []
    if not report.checks:
        found.append("No condition of acceptance was checked.")
    others = {"After": (report.before, report.after)}
    if report.control is not None:
        others["Control"] = (report.after, report.control)
    for who, (one, other) in others.items():
        fields = unlike(one, other)
        if fields:
            ends = "; ".join(f"{f}: {_field(other, f)} against {_field(one, f)}" for f in fields)
            found.append(f"{who} was not measured as the other was, so nothing is judged between them ({ends}).")
    return found


def _field(report: Report, name: str) -> str:
    value = getattr(report.subject, name)
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def standing(report: RepairReport, comparison: Comparison) -> list[str]:
    """Wins and losses in words: scores, metric and loss by name, then all that can be judged by count, and what is
    worse by name too."""
    pairs = [pair for found in comparison.values.values() for pair in found]
    lines = []
    for who, attribute in (("before", "than_before"), ("plain fine-tuning", "than_control")):
        if who != "before" and report.control is None:
            continue
        named = [(row.label, getattr(row.numbers, attribute)) for row in key_rows(report, comparison)]
        judged = [(whole_label(p.before), getattr(p.numbers, attribute)) for p in pairs]
        lines.append(f"Against {who}: {_sorted_out(named)}.{_counted([(n, j) for n, j in judged if j is not None])}")
    return lines


def _counted(judged: Sequence[tuple[str, Judgement]]) -> str:
    if not judged:
        return ""
    counts = Counter(j.word for _, j in judged)
    worse = [name for name, j in judged if j.word == "worse"]
    named = f" ({some(worse, 6)})" if worse else ""
    text = f" Of {len(judged)} numbers that can be judged, {counts['better']} better, {counts['worse']} worse{named}, "
    unclear = sum(j.overlap for _, j in judged)
    return f"{text}{counts['the same']} the same" + (f"; intervals overlap in {unclear} of them." if unclear else ".")


def _sorted_out(named: Sequence[tuple[str, Judgement | None]]) -> str:
    groups: dict[str, list[str]] = {"better in": [], "worse in": [], "the same in": [], "no clear difference in": []}
    unknown = []
    for name, judgement in named:
        if judgement is None:
            unknown.append(name)
        else:
            groups["no clear difference in" if judgement.overlap else f"{judgement.word} in"].append(name)
    groups["not known for"] = unknown
    return "; ".join(f"{how} {', '.join(names)}" for how, names in groups.items() if names) or "nothing to judge"


def key_rows(report: RepairReport, comparison: Comparison) -> list[Row]:
    """The numbers that matter most: the score of each modality that was repaired, task metric and loss."""
    rows = [Row(f"score of {m}", numbers) for m, numbers in scores(report).items()]
    names = {"reliance.full_metric": report.before.subject.metric, "reliance.full_loss": "task loss"}
    pairs = [p for p in comparison.values.get("reliance", ()) if p.before.name in names]
    for p in pairs:
        name = names[p.before.name]
        rows.append(Row(name, p.numbers, p.before.unit if p.before.unit != name else None))
    return rows


def key_grid(report: RepairReport, comparison: Comparison) -> Grid:
    """:func:`key_rows` as a table."""
    grid = number_grid(report, "The numbers that matter", key_rows(report, comparison))
    return replace(grid, about=CHANGE)


def result_rows(pairs: Iterable[Compared]) -> list[Row]:
    """Results as rows, by their short names."""
    return [Row(p.label, p.numbers, p.before.unit) for p in pairs]


def verdict_grid(report: RepairReport) -> Grid:
    """One row a modality: verdict and score in each report."""
    columns = {"before": report.before, "after": report.after}
    if report.control is not None:
        columns["control"] = report.control
    rows = []
    for m in dict.fromkeys(m for r in columns.values() for m in r.modalities):
        name = Cell(m, "name", "repaired" if m in report.repaired else "")
        rows.append((name, *(_verdict(r, m) for r in columns.values())))
    said = "Each score with its interval: 0 = fully used, 1 = fully ignored."
    if report.control is not None:
        said += f" {CONTROL}"
    return Grid("Verdicts", tuple(map(Cell, ("modality", *columns))), tuple(rows), said)


def _verdict(report: Report, modality: str) -> Cell:
    v = report.modalities.get(modality)
    if v is None:
        return Cell(ABSENT)
    return Cell(f"{MARKS[v.verdict]} {v.verdict}", v.verdict, fmt_estimate(v.score, v.interval))


def checks_grid(report: RepairReport) -> Grid:
    """The conditions of acceptance, with what was found."""
    rows = tuple((passed(c), Cell(c.sentence), *_check_numbers(c), Cell(c.definition)) for c in report.checks)
    headers = _headers("", "found", ">before", ">after", ">difference", "condition")
    said = f"Measured on the validation split; all other numbers are from the {report.after.subject.split} split."
    return Grid("Acceptance", headers, rows, said)


def passed(check: Check) -> Cell:
    """Whether a check passed."""
    return Cell("✓ passed", "passed") if check.passed else Cell("✗ failed", "failed")


def _check_numbers(check: Check) -> tuple[Cell, ...]:
    difference = Cell(signed(check.difference), "number", fmt_interval(check.interval))
    return Cell(fmt(check.before), "number"), Cell(fmt(check.after), "number"), difference


def signed(value: float | None) -> str:
    """A difference, with its sign."""
    text = fmt(value)
    return f"+{text}" if value is not None and value > 0 and text not in (ABSENT, "0") else text


def number_grid(report: RepairReport, title: str, rows: Sequence[Row]) -> Grid:
    """Quantities side by side; columns of judgement only where one is known."""
    control = report.control is not None
    before = any(row.numbers.than_before is not None for row in rows)
    beside = any(row.numbers.than_control is not None for row in rows)
    headers = ["result", ">before", ">after", *[">control"] * control, ">change"]
    headers += ["than before"] * before + ["than control"] * beside
    made = []
    for row in rows:
        n = row.numbers
        cells = [Cell(row.label, "name", row.unit or ""), _number(n.before), _number(n.after)]
        cells += [*[_number(n.control)] * control, Cell(signed(n.difference), "number")]
        cells += [judgement(n.than_before)] * before + [judgement(n.than_control)] * beside
        made.append(tuple(cells))
    return Grid(title, _headers(*headers), tuple(made))


def _number(estimate: Estimate | None) -> Cell:
    return Cell(fmt(estimate[0]), "number", fmt_interval(estimate[1])) if estimate is not None else Cell("", "number")


def judgement(found: Judgement | None) -> Cell:
    """Better, worse or the same, or nothing where that is not known."""
    if found is None:
        return Cell("")
    return Cell(found.word, "text" if found.overlap else found.word, "(intervals overlap)" if found.overlap else "")


def section_grids(report: RepairReport, comparison: Comparison) -> list[Grid]:
    """Every number in both reports, a grid a probe."""
    return [
        number_grid(report, heading_of(probe).title, result_rows(pairs)) for probe, pairs in comparison.values.items()
    ]


def curve_grids(report: RepairReport, comparison: Comparison) -> list[Grid]:
    """Every curve in both reports: at most 16 points of x against y before, after and with plain fine-tuning."""
    return [
        _curve_grid(pair, probe, report.control is not None)
        for probe, pairs in comparison.curves.items()
        for pair in pairs
    ]


def _curve_grid(pair: Compared, probe: str, control: bool) -> Grid:
    results: list[Result | None] = [pair.before, pair.after, *[pair.control] * control]
    found = [_points(r.curve) if r is not None and r.curve is not None else {} for r in results]
    common = [x for x in found[0] if x in found[1]]
    n = len(common)
    if n > _MOST_POINTS:
        common = [common[round(i * (n - 1) / (_MOST_POINTS - 1))] for i in range(_MOST_POINTS)]
    rows = []
    for x in common:
        key = Cell(x[0], "text") if isinstance(x[0], str) else Cell(fmt(x[0]))
        rows.append((key, *(_number(points.get(x)) for points in found)))
    curve = pair.before.curve
    labels = (curve.x_label, curve.y_label) if curve is not None else ("", "")
    said = f"{labels[1]} over {labels[0]}" + (f"; {len(common)} of {n} points" if n > len(common) else "")
    headers = (Cell(labels[0]), *_headers(">before", ">after", *[">control"] * control))
    return Grid(f"{probe}: {pair.label}", headers, tuple(rows), said)


def _points(curve: Curve) -> dict[tuple[float | str, int], Estimate]:
    """Each point by its x, and by how often that x came before."""
    bounds: Iterable[tuple[float, float] | None] = [None] * len(curve.y)
    if curve.lower is not None and curve.upper is not None:
        bounds = zip(curve.lower, curve.upper, strict=True)
    seen: Counter[float | str] = Counter()
    found: dict[tuple[float | str, int], Estimate] = {}
    for x, y, b in zip(curve.x, curve.y, bounds, strict=True):
        found[x, seen[x]] = (y, b)
        seen[x] += 1
    return found


def loss_grid(report: RepairReport) -> Grid:
    """Each stage of training in a line."""
    rows = []
    for c in report.losses:
        kept = dict(zip(c.epochs, c.held, strict=True)).get(c.kept)
        values = (c.held[0], min(c.held), c.held[-1]) if c.held else (None, None, None)
        numbers = [Cell(fmt(v), "number") for v in (*values, kept)]
        ends = (Cell(_kept(c)), Cell(c.note or ""))
        rows.append((Cell(c.method, "name"), Cell(c.stage, "name"), *numbers, *ends))
    heads = ("method", "stage", ">first", ">best", ">last", ">loss kept", "kept", "note")
    said = "Held-out loss before training, at its lowest, at the end, and of the epoch whose weights were kept."
    return Grid("Losses", _headers(*heads), tuple(rows), said)


def loss_line(curve: LossCurve) -> str:
    """One stage in a sentence."""
    if not curve.held:
        return f"{curve.method}, {curve.stage}: no epoch"
    first, best, last = fmt(curve.held[0]), fmt(min(curve.held)), fmt(curve.held[-1])
    note = f"; {curve.note}" if curve.note else ""
    return f"{curve.method}, {curve.stage}: held-out loss {first}, best {best}, last {last}; kept {_kept(curve)}{note}"


def _kept(curve: LossCurve) -> str:
    last = max(curve.epochs, default=0)
    return f"epoch {curve.kept} of {last}" + (" (the weights before training)" if curve.kept == 0 else "")


def left_grid(comparison: Comparison) -> Grid:
    """What was not compared, and why."""
    rows = tuple((Cell(", ".join(names)), Cell(reason)) for reason, names in comparison.left.items())
    return Grid("Not compared", _headers("result", "why"), rows)


def note_grid(report: RepairReport, comparison: Comparison) -> Grid:
    """Caveats of what was compared."""
    found: dict[tuple[str, str], list[str]] = {}
    for pair in comparison.pairs():
        for when, r in (("before", pair.before), ("after", pair.after), ("control", pair.control)):
            if r is not None and r.note is not None:
                found.setdefault((when, r.note), []).append(whole_label(r))
    rows = tuple((Cell(some(names)), Cell(when), Cell(note)) for (when, note), names in found.items())
    return Grid("Notes", _headers("result", "in", "note"), rows)


def definition_grid(report: RepairReport, comparison: Comparison, more: Sequence[tuple[Cell, Cell, Cell]] = ()) -> Grid:
    """Methods and results, and ``more``: what each is, and where that is from."""
    rows = [(Cell(method, "name"), Cell(text), Cell("")) for method, text in report.definitions.items()]
    results = {(r.name, r.definition, r.source): r for r in (pair.before for pair in comparison.pairs())}
    rows += [*more, *((Cell(r.name, "name"), Cell(r.definition), Cell(r.source)) for r in results.values())]
    return Grid("Definitions and sources", _headers("what", "definition", "source"), tuple(rows))


def settings_grid(report: RepairReport) -> Grid:
    """Settings of the repair, its environment, and what it began from."""
    lines = [*flatten(report.settings), ("base sha256", report.base_sha256), *flatten(report.environment)]
    return Grid("Settings", _headers("setting", "value"), tuple((Cell(k, "name"), Cell(v, "name")) for k, v in lines))


def _headers(*texts: str) -> tuple[Cell, ...]:
    """Our own headers; one that starts with ``>`` is over numbers."""
    return tuple(Cell(t.removeprefix(">"), "number" if t.startswith(">") else "text") for t in texts)
