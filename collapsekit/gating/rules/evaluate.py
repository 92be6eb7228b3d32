"""Rules decided on one report. What a report does not have never passes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.gating.rules.parser import And, Compare, Node, Not, comparisons, parse_rule
from collapsekit.gating.rules.paths import ReportPath, ReportValue, look_up
from collapsekit.io.safe_text import quote
from collapsekit.report.diagnosis import Report
from collapsekit.report.gate import SIGNS, GateCheck, State

DEFAULT = ("verdict != collapsed",)
_UNDECIDED = "inconclusive"


def check_modalities(rules: Sequence[str], modalities: Collection[str]) -> None:
    """Raise ConfigError for a rule that names a modality that is none of those ``modalities``: it could never be met."""
    for rule in rules:
        for comparison in comparisons(parse_rule(rule)):
            for side in comparison.sides:
                for name in side.modalities if isinstance(side, ReportPath) else ():
                    if name not in modalities:
                        raise ConfigError(
                            f"the rule {quote(rule)} names the modality {quote(name)}{did_you_mean(name, modalities)}: "
                            f"the model has {', '.join(modalities)}."
                        )


def decide_rule(rule: str, report: Report) -> GateCheck:
    """Return the rule as a check. Raises ConfigError where it cannot be read.

    Passed: it holds, and everything it names is there and decided. Failed: it does not hold, whatever the values that
    are not there would be. Else inconclusive. A verdict of "inconclusive" is decided only for a comparison with that word.
    """
    node = parse_rule(rule)
    holds = _value(node, report)
    parts = [pair for c in comparisons(node) for pair in _pairs(c, report)]
    missing = [said for c, a, b in parts if (said := _why_not(c, a, b)) is not None]
    state: State = "inconclusive"
    if holds is False:
        state = "failed"
    elif holds and not missing:
        state = "passed"
    values = [f for _, a, b in parts for f in (a, b) if isinstance(f, ReportValue)]
    one = values[0] if len(values) == 1 else None
    named = {f.modality for f in values}
    return GateCheck(
        name=rule.strip(),
        kind="rule",
        state=state,
        sentence=_sentence(state, values, missing, report),
        modality=named.pop() if len(named) == 1 else None,
        found=one.value if one is not None and isinstance(one.value, float | int) else None,
        definition="a rule over the values of one report",
        source="the gate's rules",
    )


def check_judged(report: Report) -> GateCheck:
    """Return as a check whether every modality was fully judged: passed, or inconclusive with what is missing."""
    judged = report.judged
    if judged is None:
        state: State = "inconclusive"
        sentence = "Not decided: the report, as earlier ones, does not say how much could be judged: diagnose again."
    elif judged.extent == "fully":
        state, sentence = "passed", "Holds: every modality was fully judged."
    else:
        state, sentence = "inconclusive", f"Not decided: partly judged, of {'; '.join(judged.missing)}."
    return GateCheck(
        name="fully judged",
        kind="judged",
        state=state,
        sentence=sentence,
        definition="whether all was there that the verdict of every modality needs; waived by --allow-partial",
        source="the report's `judged`",
    )


def _value(node: Node, report: Report) -> bool | None:
    """Whether it holds; None where that hangs on what is not there (Kleene's strong logic of three values)."""
    if isinstance(node, Compare):
        each = [_compare(node, a, b) for _, a, b in _pairs(node, report)]
        return False if False in each else (None if None in each else True)
    if isinstance(node, Not):
        inner = _value(node.of, report)
        return None if inner is None else not inner
    left, right = _value(node.left, report), _value(node.right, report)
    decisive = not isinstance(node, And)  # one False decides an "and", one True an "or"
    if decisive in (left, right):
        return decisive
    return None if None in (left, right) else not decisive


Side = ReportValue | float | str


def _pairs(comparison: Compare, report: Report) -> list[tuple[Compare, Side, Side]]:
    """Both sides with their values; of a ``*``, once for each modality, the same on both sides."""
    sides = [list(look_up(s, report)) if isinstance(s, ReportPath) else [s] for s in comparison.sides]
    count = max(len(s) for s in sides)
    left, right = (s * count if len(s) == 1 else s for s in sides)
    return [(comparison, a, b) for a, b in zip(left, right, strict=True)]


def _compare(comparison: Compare, left: Side, right: Side) -> bool | None:
    if _why_not(comparison, left, right) is not None:
        return None
    a, b = (s.value if isinstance(s, ReportValue) else s for s in (left, right))
    return SIGNS[comparison.op](a, b)


def _why_not(comparison: Compare, left: Side, right: Side) -> str | None:
    """Why this cannot be decided; None where it can."""
    for side, other in ((left, right), (right, left)):
        if not isinstance(side, ReportValue):
            continue
        if side.value is None:
            return f"{side.name} is not there, as {side.why_not}"
        about = comparison.left if side is left else comparison.right
        is_verdict = isinstance(about, ReportPath) and about.words is not None
        if is_verdict and side.value == _UNDECIDED and other != _UNDECIDED:
            return f"{side.name} is inconclusive, which decides nothing"
    return None


def _sentence(state: State, values: list[ReportValue], missing: list[str], report: Report) -> str:
    if state == "inconclusive":
        return f"Not decided: {'; '.join(dict.fromkeys(missing))}."
    seen = list(dict.fromkeys(f"{f.name} is {_shown(f.value)}" for f in values if f.value is not None))
    ignored = [m for m, v in report.modalities.items() if v.verdict == "collapsed"]
    if ignored and "verdict is collapsed" in seen:
        seen[seen.index("verdict is collapsed")] += f" (of {', '.join(ignored)})"
    return f"{'Holds' if state == 'passed' else 'Does not hold'}: {', '.join(seen)}."


def _shown(value: float | str | None) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
