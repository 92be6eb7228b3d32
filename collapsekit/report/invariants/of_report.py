"""A report of a diagnosis: its verdicts are those that its results give, and names are the same everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapsekit.io.safe_text import quoted
from collapsekit.report.invariants.common import digest, known, names, results, subject, verdicts, within
from collapsekit.report.invariants.of_credit import credit_contradictions, metric_contradictions
from collapsekit.report.verdicts import FAILED, judge, misstatement

if TYPE_CHECKING:
    from collapsekit.report.diagnosis import Report
    from collapsekit.report.parts import ModalityVerdict


def report_contradiction(report: Report) -> str | None:
    """The first contradiction within a report; None where its parts agree."""
    return next(_contradictions(report), None)


def _contradictions(report: Report) -> Iterator[str]:
    who = report.subject
    yield from subject(who)
    yield from verdicts(report.verdict, {m: v.verdict for m, v in report.modalities.items()}, who.modalities)
    yield from results(report.results, who.modalities)
    for m, verdict in report.modalities.items():
        yield from _verdict(m, verdict, report)
    yield from credit_contradictions(report)
    yield from metric_contradictions(report)
    yield from _judged_again(report)
    yield from _told(report)
    yield from _settings(report)


def _verdict(modality: str, verdict: ModalityVerdict, report: Report) -> Iterator[str]:
    """One modality's numbers within their bounds, and what they were read from there to be read."""
    score, interval = verdict.score, verdict.interval
    what = f"the score of {quoted(modality)}"
    for number in (score, *(interval or ())):
        if number is not None and not 0 <= number <= 1:
            yield f"{what} or an end of its interval is {number:.6g}, outside of 0 to 1"
    if score is None and interval is not None:
        yield f"{what} is missing, but its interval is there"
    yield from within(what, score, interval)
    for cost in (verdict.costs_now, *verdict.costs_if_missing.values()):
        if cost is not None and cost < 0:
            yield f"a cost of not using {quoted(modality)} is {cost:.6g}, below 0"
    for other in verdict.costs_if_missing:
        yield from known(f"costs_if_missing of {quoted(modality)}", other, report.subject.modalities)
        if other == modality:
            yield f"costs_if_missing of {quoted(modality)} names itself"
    yield from names(f"the evidence about {quoted(modality)}", verdict.evidence)
    there = {r.name for r in report.results if r.modality in (modality, None) and r.value is not None}
    gone = next((name for name in verdict.evidence if name not in there), None)
    if gone is not None:
        yield f"the verdict about {quoted(modality)} names {quoted(gone)} as evidence, but the report has no value of it"


def _judged_again(report: Report) -> Iterator[str]:
    """Verdicts follow from results alone, by rules that have been the same since schema version 1. Words may differ, as
    another release may have put them otherwise; states and numbers may not."""
    _, summary, each = judge(report.results, report.subject.modalities, report.subject.metric)
    for m, right in each.items():
        stated = report.modalities[m]
        for field in ("verdict", "score", "interval", "costs_now", "costs_if_missing"):
            a, b = getattr(stated, field), getattr(right, field)
            if a != b:
                yield f"{field} of {quoted(m)} is {_shown(a)}, but the results give {_shown(b)}"
    claim = misstatement(report.summary, summary, each)
    if claim is not None:
        yield f"the summary says {quoted(claim)}, which does not follow from the verdicts"


def _shown(value: Any) -> str:
    return quoted(str(value))


def _told(report: Report) -> Iterator[str]:
    """What is said beside the numbers."""
    if any(not (w.name.strip() and w.sentence.strip()) for w in report.warnings):
        yield "a warning has no name or says nothing"
    failed = sum(w.name == FAILED for w in report.warnings)
    if failed > len({r.probe for r in report.results if r.error is not None}):
        yield "a warning says that an error ended a probe, and no result has that error"
    judged = report.judged
    if judged is not None and (judged.extent == "fully") == bool(judged.missing):
        yield f"`judged` says {judged.extent}, but lists {len(judged.missing)} things as missing"
    if judged is not None and any(not what.strip() for what in judged.missing):
        yield "what is missing for a full judgement has no name"
    if report.config is not None and not report.config.strip():
        yield "the path of its config is empty"
    if report.subject.engine is not None and not report.subject.engine.strip():
        yield "its engine has no name"


def _settings(report: Report) -> Iterator[str]:
    """Settings that the gate reads, and those that the subject says too."""
    settings, who = report.settings, report.subject
    for key, right in (("split", who.split), ("seed", who.seed)):
        if settings.get(key, right) != right or isinstance(settings.get(key), bool):
            yield f"its settings have {key} {_shown(settings[key])}, and its subject {_shown(right)}"
    limit = settings.get("limit")
    if limit is not None and (type(limit) is not int or limit < who.examples):
        yield f"its settings have a limit of {_shown(limit)}, and its subject {who.examples} examples"
    level = settings.get("level")
    if level is not None and not (type(level) is float and 0 < level < 1):
        yield f"its settings have a level of {_shown(level)}, no part of 1"
    seed = settings.get("training_seed")
    if seed is not None and type(seed) is not int:
        yield f"its training_seed is {_shown(seed)}, no whole number"
    for key in ("examples", "records"):
        if settings.get(key) is not None:
            yield from digest(f"the digest of the {key} in its settings", settings[key])
