"""A repair: accepted follows from its checks, those from their numbers, and its reports are of one model and one task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapsekit.io.safe_text import quoted
from collapsekit.report.invariants.common import differ, digest, known, names, results, within
from collapsekit.report.invariants.of_report import report_contradiction

if TYPE_CHECKING:
    from collapsekit.report.base import Interval
    from collapsekit.report.repair import Check, LossCurve, RepairReport

MARGIN = 0.02  # of the metric: a larger loss is too much, however uncertain
LEAST = 0.05  # by which a score has to fall
SAME = ("task", "metric", "split", "examples", "modalities", "seed")


def metric_passes(difference: float, interval: Interval) -> bool:
    """Whether the task metric is not worse."""
    return interval[1] >= 0 and difference >= -MARGIN


def score_passes(difference: float | None) -> bool:
    """Whether a modality is ignored less than before."""
    return difference is not None and difference <= -LEAST


def repair_contradiction(repair: RepairReport) -> str | None:
    """The first contradiction within a repair's report; None where its parts agree."""
    return next(_contradictions(repair), None)


def _contradictions(repair: RepairReport) -> Iterator[str]:
    yield from _reports(repair)
    modalities = repair.before.subject.modalities
    for asked, given in (("the method", repair.method), ("what was repaired", repair.repaired)):
        if not given:
            yield f"{asked} is empty"
    yield from names("what was repaired", repair.repaired)
    for modality in repair.repaired:
        yield from known("what was repaired", modality, modalities)
    if repair.accepted and not repair.exported:
        yield "it was accepted, but not exported"
    for judged, other in (("accepted", "rejected"), ("rejected", "accepted")):
        if f" was {judged} on the validation split" in repair.summary and repair.accepted != (judged == "accepted"):
            yield f"the summary says that it was {judged}, and `accepted` that it was {other}"
    made = {check.name for check in repair.checks}
    gone = next((name for name in ("metric", *(f"score.{m}" for m in repair.repaired)) if name not in made), None)
    if gone is not None:
        yield f"it was judged without the check {quoted(gone)}"
    yield from names("the list of checks", [check.name for check in repair.checks])
    for check in repair.checks:
        yield from _check(check, repair)
    yield from results(repair.findings, modalities)
    for record in repair.structure:
        for inserted in (record.modality, getattr(record, "giver", None)):
            yield from known("what was put into the model", inserted, modalities)
    for curve in repair.losses:
        yield from _losses(curve)


def _reports(repair: RepairReport) -> Iterator[str]:
    """Each report by itself, and all of the same examples of the same task."""
    before = repair.before.subject
    for what, report in (("before", repair.before), ("after", repair.after), ("control", repair.control)):
        if report is None:
            continue
        said = report_contradiction(report)
        if said is not None:
            yield f"in the report {what}, {said}"
        for field in SAME:
            first, here = getattr(before, field), getattr(report.subject, field)
            if first != here:
                yield f"{field} before is {quoted(str(first))}, and in the report {what} {quoted(str(here))}"
        examples = [r.settings.get("examples") for r in (repair.before, report)]
        if None not in examples and examples[0] != examples[1]:
            yield f"the report {what} is of other examples than the one before"
    yield from digest("base_sha256", repair.base_sha256)
    if (repair.base, repair.base_sha256) != (before.checkpoint, before.sha256):
        yield "the report before is of another checkpoint than `base`"


def _check(check: Check, repair: RepairReport) -> Iterator[str]:
    """A check's numbers, and whether it passed by them."""
    what, dot, modality = check.name.partition(".")
    if dot:
        yield from known(f"the check {quoted(check.name)}", modality, repair.before.subject.modalities)
    if what == "score" and modality not in repair.repaired:
        yield f"the check {quoted(check.name)} is of a modality that was not repaired"
    for number in (check.before, check.after) if what in ("score", "still_used") else ():
        if number is not None and not 0 <= number <= 1:
            yield f"a score in the check {quoted(check.name)} is {number:.6g}, outside of 0 to 1"
    if check.before is not None and check.after is not None:
        if check.difference is None or differ(check.difference, check.after - check.before, check.after):
            yield f"the difference in the check {quoted(check.name)} is not that of its numbers"
    elif check.difference is not None:
        yield f"the check {quoted(check.name)} has a difference of numbers that are not there"
    yield from within(f"the difference in the check {quoted(check.name)}", check.difference, check.interval)
    follows = check.passed
    if what == "metric" and check.difference is not None and check.interval is not None:
        follows = metric_passes(check.difference, check.interval)
    elif what == "score":
        follows = score_passes(check.difference)
    if check.passed != follows:
        yield f"the check {quoted(check.name)} {'passed' if check.passed else 'failed'}, which its numbers do not give"


def _losses(curve: LossCurve) -> Iterator[str]:
    if list(curve.epochs) != sorted(set(curve.epochs)):
        yield f"the epochs of {quoted(curve.stage)} are not in order"
    if curve.kept not in curve.epochs:
        yield f"of {quoted(curve.stage)} epoch {curve.kept} was kept, which is not among its epochs"
