"""Numbers of one report that are computed from one another: credit, what is due, and what a verdict reads of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from collapsekit.io.safe_text import quote
from collapsekit.report.agreement import differ, label_of
from collapsekit.report.verdicts import DECIDING, TWICE
from collapsekit.stats.use import use

if TYPE_CHECKING:
    from collapsekit.report.parts import Result

# What verdicts read of each modality, and of the model as a whole; what else a probe says is not looked at here.
_OF_EACH = {f"reliance.{what}{suffix}" for what in ("shapley", "leave_one_out") for suffix in ("", "_metric")}
_OF_EACH |= {f"utilisation.{what}" for what in ("credit", "reference_credit", "ratio", "score", "share")}
_OF_EACH |= {f"utilisation.{what}" for what in ("alone_gain", "alone_metric", "costs_now", "costs_if_missing")}
_OF_THE_WHOLE = {f"reliance.{end}_{what}" for end in ("full", "empty") for what in ("loss", "metric")}
_OF_THE_WHOLE |= {"utilisation.prior_loss"}
_IN_UNIT = {"accuracy", "balanced_accuracy", "auroc", "recall@1"}


def credit_contradictions(results: Sequence[Result], modalities: Sequence[str]) -> Iterator[str]:
    """Yield what cannot be of the results that verdicts are read from: whose they are, and their arithmetic."""
    for r in results:
        yield from _belongs(r)
    yield from _sums(results, modalities)
    yield from _ends(results, modalities)
    for m in modalities:
        yield from _use(results, m)
    yield from _shares(results, modalities)


def _belongs(r: Result) -> Iterator[str]:
    probe = r.name.partition(".")[0]
    if probe != r.probe and not {probe, r.probe}.isdisjoint(DECIDING):
        yield f"the result {quote(r.name)} is said to be of the probe {quote(r.probe)}"
    elif r.name in (_OF_EACH if r.modality is None else _OF_THE_WHOLE):
        whose = "the whole model" if r.modality is None else quote(r.modality)
        yield f"the result {quote(r.name)} is about {whose}, which it cannot be"


def _find(results: Sequence[Result], name: str, modality: str | None = None) -> Result | None:
    return next((r for r in results if (r.name, r.modality, r.versus) == (name, modality, None)), None)


def _value(results: Sequence[Result], name: str, modality: str | None = None) -> float | None:
    result = _find(results, name, modality)
    return None if result is None else result.value


def _sums(results: Sequence[Result], modalities: Sequence[str]) -> Iterator[str]:
    """Shapley credits add up to what all modalities together are worth."""
    for suffix, what, sign in (("", "loss", -1), ("_metric", "metric", 1)):
        full, empty = (_value(results, f"reliance.{end}_{what}") for end in ("full", "empty"))
        each = [_value(results, f"reliance.shapley{suffix}", m) for m in modalities]
        known = [v for v in each if v is not None]
        if full is None or empty is None or len(known) < len(each):
            continue
        worth, size = sign * (full - empty), max(abs(full), abs(empty))
        if differ(sum(known), worth, size):
            yield f"the values of 'reliance.shapley{suffix}' add up to {sum(known):.6g}, and all of it is {worth:.6g}"


def _ends(results: Sequence[Result], modalities: Sequence[str]) -> Iterator[str]:
    """The curve over subsets begins and ends with the numbers of no modality and of all, and holds those of all but one."""
    for suffix, what, sign in (("", "loss", -1), ("_metric", "metric", 1)):
        found, full = _find(results, f"reliance.subsets{suffix}"), _value(results, f"reliance.full_{what}")
        if found is None or found.curve is None or full is None:
            continue
        # Names may hold a plus: what two subsets are called says nothing of either.
        points = {x: y for x, y in zip(found.curve.x, found.curve.y, strict=True) if found.curve.x.count(x) == 1}
        right = {"+".join(modalities): full, "(none)": _value(results, f"reliance.empty_{what}")}
        for m in modalities if len(modalities) > 1 else ():
            drop = _value(results, f"reliance.leave_one_out{suffix}", m)
            right["+".join(o for o in modalities if o != m)] = None if drop is None else full - sign * drop
        for label, value in right.items():
            y = points.get(label)
            if y is not None and value is not None and differ(y, value, full):
                yield f"the curve {quote(found.name)} has {y:.6g} at {quote(label)}, and the results give {value:.6g}"


def _use(results: Sequence[Result], m: str) -> Iterator[str]:
    """Ratio and score of a modality follow from its credit and what is due to it."""
    names = (f"utilisation.{name}" for name in ("credit", "reference_credit", "ratio", "score"))
    credit, due, ratio, score = (_value(results, name, m) for name in names)
    if credit is None or due is None:
        return
    if ratio is not None and due > 0 and differ(ratio, min(TWICE, max(0.0, credit / due)), 1.0):
        yield f"{label_of('utilisation.ratio', m)} is {ratio:.6g}, and its credit {credit:.6g} of {due:.6g} that is due"
    prior = _value(results, "utilisation.prior_loss")
    if score is not None and prior is not None and prior > 0:
        right = 1.0 - min(1.0, use(max(0.0, credit), max(0.0, due), prior))
        if differ(score, right, 1.0):
            yield f"{label_of('utilisation.score', m)} is {score:.6g}, and its credit and what is due give {right:.6g}"


def _shares(results: Sequence[Result], modalities: Sequence[str]) -> Iterator[str]:
    """A share is of all credit, the model's or the reference's: what is due to single modalities may be set higher."""
    ours, theirs = (
        [_value(results, f"utilisation.{n}", m) for m in modalities] for n in ("credit", "reference_credit")
    )
    if None in ours or None in theirs:
        return
    least = sum(v for v in ours if v is not None)
    most = max(least, sum(v for v in theirs if v is not None))
    for m, credit in zip(modalities, ours, strict=True):
        share = _value(results, "utilisation.share", m)
        if share is None or credit is None or most <= 0:
            continue
        # Of no more than most, and of no less than least.
        low, high = abs(credit) / most, abs(credit) / least if least > 0 else float("inf")
        if not low - 1e-9 <= abs(share) <= high + 1e-9 or share * credit < 0:
            yield f"{label_of('utilisation.share', m)} is {share:.6g}, which its credit of {credit:.6g} does not give"


def metric_contradictions(results: Sequence[Result], metric: str) -> Iterator[str]:
    """Yield that a metric between 0 and 1 is not."""
    for end in ("full", "empty") if metric in _IN_UNIT else ():
        value = _value(results, f"reliance.{end}_metric")
        if value is not None and not 0 <= value <= 1:
            yield f"{quote(metric)} in 'reliance.{end}_metric' is {value:.6g}, outside of 0 to 1"
