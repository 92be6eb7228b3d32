"""GateReport: what the gate decided about one report, and by what."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from collapsekit.errors import RefusedError
from collapsekit.io.json import read_json
from collapsekit.io.safe_text import quote
from collapsekit.report.agreement import (
    check_interval,
    check_modality,
    check_subject,
    check_verdicts,
    differ,
    first_repeat,
)
from collapsekit.report.base import Contract, Frozen, Interval, Number, Positive, Share
from collapsekit.report.diagnosis import ModalityState, OverallState, Subject

State = Literal["passed", "failed", "inconclusive"]
EXIT_CODES: dict[str, int] = {"passed": 0, "failed": 1, "inconclusive": 5}
# Rules of one comparison, which can be held against what the file itself says.
_OF_THE_WHOLE = re.compile(r"\s*verdict\s*(==|!=)\s*['\"]?(collapsed|underused|healthy|inconclusive)['\"]?\s*")
_OF_A_NUMBER = re.compile(r"(?!\s*not\b)[^<>=!()]+?(<=|>=|<|>)\s*([+-]?\d+(?:\.\d+)?)\s*", re.ASCII)
SIGNS: dict[str, Callable[[Any, Any], bool]] = {  # of a rule
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
    "==": operator.eq,
    "!=": operator.ne,
}
_ALL_PASSED = re.compile(r"(?:The one check|All (\d+) checks) passed\.")


class GateCheck(Frozen):
    """One rule, or one number held against the baseline. Differences are worsenings: above 0 is worse."""

    name: str  # the rule as written; "use of audio", "accuracy"
    kind: Literal["rule", "judged", "paired", "retrained"]  # judged: whether all was that a verdict needs
    state: State
    sentence: str  # what was found, in words; what would help, where that is known
    modality: str | None = None
    found: Number | None = None  # in the report
    baseline: Number | None = None  # in the baseline; the mean where it holds several runs
    difference: Number | None = None
    interval: Interval | None = None  # of the difference
    margin: Number | None = None  # a difference under this is none to fail for
    p: Share | None = None
    p_holm: Share | None = None  # corrected for all comparisons of the gate
    detectable: Number | None = None  # the worsening that would have failed with 90 % probability
    needed: Positive | None = None  # how many more runs (retrained) or examples (paired) would decide
    unit: str | None = None
    definition: str
    source: str


class Against(Frozen):
    """The baseline that was compared with."""

    situation: Literal["paired", "retrained"]
    runs: Positive  # reports in it that were used
    because: str  # why paired, or retrained, in words


class GateReport(Contract):
    """Checks, and the outcome that follows from them: failed where one failed, else inconclusive where one is or there is
    none, else passed. The exit code follows from the outcome."""

    kind: Literal["gate"] = "gate"
    collapsekit: str
    outcome: State
    summary: str  # one sentence for the whole
    subject: Subject
    verdict: OverallState
    modalities: dict[str, ModalityState]
    checks: tuple[GateCheck, ...]
    against: Against | None = None
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _outcome_follows(self) -> GateReport:
        if self.outcome != outcome_of([c.state for c in self.checks]):
            raise ValueError(f"the outcome {self.outcome!r} does not follow from the checks")
        return self

    def __bool__(self) -> bool:
        """Whether it passed, so that ``assert gate(report)`` asserts something."""
        return self.outcome == "passed"

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed, 5 inconclusive."""
        return EXIT_CODES[self.outcome]

    def _gist(self) -> Iterator[str]:
        states = [c.state for c in self.checks]
        counts = [f"{states.count(state)} of {len(states)} checks {state}" for state in EXIT_CODES if state in states]
        yield self.outcome
        yield ", ".join(counts) or "no checks"
        yield f"the model is {self.verdict}"

    def contradictions(self) -> Iterator[str]:
        """See :meth:`Contract.contradictions`."""
        return _contradictions(self)

    @classmethod
    def load(cls, path: str | Path) -> GateReport:
        """Read what ``gate --format json`` wrote. Raises RefusedError where it cannot be read as that."""
        raw = read_json(path)
        if not isinstance(raw, dict) or raw.get("kind") != "gate":
            raise RefusedError(f"{path} is not of a gate: give a file that `collapsekit gate --format json` wrote.")
        return cls.from_data(raw, str(path))


def outcome_of(states: list[State]) -> State:
    """Return what the checks' states come to; of none, inconclusive: nothing was evaluated."""
    if "failed" in states:
        return "failed"
    return "inconclusive" if "inconclusive" in states or not states else "passed"


def _contradictions(gate: GateReport) -> Iterator[str]:
    yield from check_subject(gate.subject)
    yield from check_verdicts(gate.verdict, gate.modalities, gate.subject.modalities)
    if any(not c.name.strip() for c in gate.checks):
        yield "a check has an empty name"
    again = first_repeat((c.kind == "rule", c.name) for c in gate.checks)
    if again is not None:
        yield f"the check {quote(again[1])} is there twice"
    for check in gate.checks:
        yield from _OF_A_KIND.get(check.kind, _comparison)(check, gate)
    yield from _required_rules(gate)
    against, watched = gate.against, gate.settings.get("watch")
    compared = {c.modality for c in gate.checks if c.kind in ("paired", "retrained")}
    if gate.settings.get("allow_partial") is True and any(c.kind == "judged" for c in gate.checks):
        yield "it allowed a partial judgement, and checked that it was full"
    if against is not None and isinstance(watched, list | tuple) and "metric" in watched and None not in compared:
        yield f"it watched {quote(gate.subject.metric)} beside a baseline, and has no check of it"
    if against is not None and against.runs < 1:
        yield f"it was compared with {against.runs} runs of a baseline"
    if against is not None and against.situation == "paired" and against.runs != 1:
        yield f"it was paired with {against.runs} runs, and a report is paired with one"
    said = _ALL_PASSED.search(gate.summary)
    if said is not None and (gate.outcome != "passed" or len(gate.checks) != int(said[1] or 1)):
        yield "the summary says that all checks passed, which does not follow from them"


def _required_rules(gate: GateReport) -> Iterator[str]:
    """Every rule that was asked for is among the checks, and no other."""
    rules = gate.settings.get("require")
    if not isinstance(rules, list | tuple) or not all(isinstance(rule, str) for rule in rules):
        if rules is not None:
            yield "its settings have rules that are no list of texts"
        return
    decided = {c.name for c in gate.checks if c.kind == "rule"}
    odd = sorted(decided ^ {rule.strip() for rule in rules})
    if odd:
        yield f"the rule {quote(odd[0])} was " + ("not asked for" if odd[0] in decided else "asked for and not decided")


def _rule(check: GateCheck, gate: GateReport) -> Iterator[str]:
    whole, number = _OF_THE_WHOLE.fullmatch(check.name), _OF_A_NUMBER.fullmatch(check.name)
    holds = None
    if whole is not None:
        holds = SIGNS[whole[1]](gate.verdict, whole[2])
    elif number is not None and check.found is not None:
        holds = SIGNS[number[1]](check.found, float(number[2]))
    if holds is not None and check.state == ("failed" if holds else "passed"):
        yield f"the rule {quote(check.name)} {check.state}, which what was found does not give"
    for field in ("baseline", "difference", "interval", "margin", "p", "p_holm", "detectable", "needed"):
        if getattr(check, field) is not None:
            yield f"the rule {quote(check.name)} has {field}, which only comparisons have"


def _judged(check: GateCheck, gate: GateReport) -> Iterator[str]:
    """A full judgement is there, or it is not known whether the model may ship: it never fails by itself."""
    del gate
    if check.state == "failed":
        yield f"the check {quote(check.name)} failed, which a judgement that is missing cannot"
    for field in ("found", "baseline", "difference", "interval", "margin", "p", "p_holm", "detectable", "needed"):
        if getattr(check, field) is not None:
            yield f"the check {quote(check.name)} has {field}, which only comparisons have"


def _comparison(check: GateCheck, gate: GateReport) -> Iterator[str]:
    """One number beside the baseline's: a state that its numbers give."""
    what = f"the check {quote(check.name)}"
    if gate.against is None or gate.against.situation != check.kind:
        yield f"{what} is {check.kind}, but the comparison of the gate was not"
    yield from check_modality(what, check.modality, gate.subject.modalities)
    yield from check_interval(f"the difference in {what}", check.difference, check.interval)
    if check.needed is not None and (check.needed < 1 or check.state != "inconclusive"):
        yield f"{what} needs {check.needed} more and is {check.state}"
    p, p_holm, worse = check.p, check.p_holm, check.difference
    if p is None or p_holm is None or worse is None or check.found is None or check.baseline is None:
        if check.state != "inconclusive":
            yield f"{what} is {check.state}, but lacks the numbers that decide it"
        return
    if p_holm < p:
        yield f"{what} has p {p:.6g} but a smaller one after correction, {p_holm:.6g}"
    if check.kind == "retrained" and differ(worse, check.baseline - check.found, check.baseline):
        yield f"the difference in {what} is not that of its numbers"
    yield from _state(check, what, p_holm, worse, gate)


def _state(check: GateCheck, what: str, p_holm: float, worse: float, gate: GateReport) -> Iterator[str]:
    alpha = gate.settings.get("alpha")
    if alpha is None:
        return
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 0.5:
        yield f"its settings have alpha {quote(str(alpha))}, no level between 0 and 0.5"
        return
    fails = p_holm <= alpha and worse > 0 and worse >= (check.margin or 0.0)
    if fails != (check.state == "failed"):
        yield f"{what} {'failed' if check.state == 'failed' else 'did not fail'}, which its numbers do not give"
    if check.state == "passed" and check.detectable is None:
        yield f"{what} passed, and how small a fall would have been caught is not known"


_OF_A_KIND = {"rule": _rule, "judged": _judged}
