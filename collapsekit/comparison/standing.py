"""How a repair stands beside what it is judged by, in words: wins and losses, and what speaks against them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from collapsekit.comparison.delta import Judgement, Numbers, Pair, RepairDelta, scores, unlike
from collapsekit.report.diagnosis import Report
from collapsekit.report.names import some, whole_label
from collapsekit.report.repair import RepairReport

FULL_METRIC = "reliance.full_metric"


@dataclass(frozen=True)
class NumberRow:
    """One quantity side by side."""

    label: str
    numbers: Numbers
    unit: str = ""


def key_rows(report: RepairReport, delta: RepairDelta) -> list[NumberRow]:
    """Pick the numbers that matter most: the score of each modality that was repaired, task metric and loss."""
    rows = [NumberRow(f"score of {m}", numbers) for m, numbers in scores(report).items()]
    names = {FULL_METRIC: report.before.subject.metric, "reliance.full_loss": "task loss"}
    for p in delta.values.get("reliance", ()):
        name = names.get(p.before.name)
        if name is not None:
            rows.append(NumberRow(name, p.numbers, (p.before.unit or "") if p.before.unit != name else ""))
    return rows


def metric_numbers(delta: RepairDelta) -> Numbers | None:
    """Pick the task metric of the whole model; None where it was not measured both before and after."""
    return next((p.numbers for p in delta.values.get("reliance", ()) if p.before.name == FULL_METRIC), None)


def result_rows(pairs: Iterable[Pair]) -> list[NumberRow]:
    """Make rows of results, by their short names."""
    return [NumberRow(p.label, p.numbers, p.before.unit or "") for p in pairs]


_NO_CONTROL = "No plain fine-tuning was run beside it: what more training alone would have done is not known."

_CONTROL_STAYED = (
    "The control kept the weights from before training: no epoch of plain fine-tuning had a lower held-out loss, so "
    "beside it stands the model as it was."
)


def cautions(report: RepairReport) -> list[str]:
    """Say what keeps the numbers from being read as they stand."""
    found = [_NO_CONTROL] if report.control is None else []
    if report.control is not None and report.losses and report.losses[-1].kept == 0:  # the control is trained last
        found.append(_CONTROL_STAYED)
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


def standing(report: RepairReport, delta: RepairDelta) -> list[str]:
    """Put wins and losses in words: scores, metric and loss by name, then all that can be judged by count.

    What is worse is also named.
    """
    pairs = [pair for found in delta.values.values() for pair in found]
    lines = []
    for who, attribute in (("before", "than_before"), ("plain fine-tuning", "than_control")):
        if who != "before" and report.control is None:
            continue
        named = [(row.label, getattr(row.numbers, attribute)) for row in key_rows(report, delta)]
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
