"""What has to agree in files of several kinds, each rule a generator of contradictions: sentences without their end."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from collapsekit.io.safe_text import quote
from collapsekit.report.verdicts import DECIDING, TWICE, possible_wholes
from collapsekit.stats.use import use

if TYPE_CHECKING:
    from collapsekit.report.base import Interval
    from collapsekit.report.parts import Curve, Limits, ModalityState, ModalityVerdict, OverallState, Result, Subject

_DIGEST = re.compile(r"[0-9a-f]{64}")


def label_of(name: str, modality: str | None, versus: str | None = None) -> str:
    """Name a result in a sentence.

    Args:
        name: the result's.
        modality: that it is about, if any.
        versus: the other modality, if any.

    Returns:
        As ``'vif.mean' of 'audio'``.
    """
    of = ", ".join(quote(m) for m in (modality, versus) if m is not None)
    return f"{quote(name)} of {of}" if of else quote(name)


def check_names(what: str, listed: Sequence[str]) -> Iterator[str]:
    """Yield that a name is empty, or there twice, in what is ``listed``."""
    if any(not name.strip() for name in listed):
        yield f"{what} has an empty name"
    again = first_repeat(listed)
    if again is not None:
        yield f"{what} names {quote(again)} twice"


def first_repeat(items: Iterable[Any]) -> Any:
    """Return the first of some items that was there before; None where each is there once."""
    seen = set()
    for one in items:
        if one in seen:
            return one
        seen.add(one)
    return None


def check_digest(what: str, text: object) -> Iterator[str]:
    """Yield that what is said to be a SHA-256 is none."""
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        yield f"{what} is {quote(str(text))}, no SHA-256 of 64 digits"


def check_interval(what: str, value: float | None, interval: Interval | None) -> Iterator[str]:
    """Yield that a value lies outside its own interval, or that the interval's ends are swapped.

    Args:
        what: what is checked, for the sentence.
        value: the value, if any.
        interval: its lower and upper end, if any.

    Yields:
        Each contradiction.
    """
    if interval is None:
        return
    if interval[0] > interval[1]:
        yield f"the interval of {what} has its ends swapped"
    if value is not None and not interval[0] <= value <= interval[1]:
        yield f"{what} is {value:.6g}, outside of its own interval from {interval[0]:.6g} to {interval[1]:.6g}"


def check_bounds(what: str, bounds: Limits | None, numbers: Iterable[float | None]) -> Iterator[str]:
    """Yield that one of some numbers lies outside of its own bounds by more than rounding, or that those are no bounds.

    Args:
        what: what the numbers are of, for the sentence.
        bounds: the least and the most that each can be; None: not told, as in reports of earlier releases.
        numbers: the value, the ends of its interval, the points of a curve; None for one that is not there.

    Yields:
        The first contradiction.
    """
    if bounds is None:
        return
    low, high = (-math.inf if bounds[0] is None else bounds[0]), (math.inf if bounds[1] is None else bounds[1])
    if not low < high:
        yield f"the bounds of {what} run from {low:.6g} to {high:.6g}"
        return
    out = next((x for x in numbers if x is not None and _outside(x, low, high)), None)
    if out is not None:
        yield f"{what} or an end of its interval is {out:.6g}, and it can be {_between(low, high)}"


def _outside(x: float, low: float, high: float) -> bool:
    nearest = min(max(x, low), high)
    return not math.isclose(x, nearest, rel_tol=1e-9, abs_tol=1e-9)


def _between(low: float, high: float) -> str:
    if math.isinf(high):
        return f"{low:.6g} at least"
    return f"{high:.6g} at most" if math.isinf(low) else f"{low:.6g} to {high:.6g}"


def check_modality(what: str, modality: str | None, modalities: Sequence[str]) -> Iterator[str]:
    """Yield that a modality is none of the subject's.

    Args:
        what: what is about it, for the sentence.
        modality: its name, if any.
        modalities: the subject's.

    Yields:
        Each contradiction.
    """
    if modality is not None and modality not in modalities:
        yield f"{what} is about {quote(modality)}, and the modalities are {', '.join(map(quote, modalities))}"


def check_subject(subject: Subject) -> Iterator[str]:
    """Yield what cannot be of who was diagnosed, and on what."""
    if not subject.modalities:
        yield "the subject has no modalities"
    for field in ("checkpoint", "task", "metric", "split"):
        if not getattr(subject, field).strip():
            yield f"the subject has no {field}"
    yield from check_names("the subject's list of modalities", subject.modalities)
    yield from check_digest("the subject's sha256", subject.sha256)
    if subject.examples < 1:
        yield f"the subject has {subject.examples} examples, expected at least one"


def check_verdicts(
    overall: OverallState, states: Mapping[str, ModalityState], modalities: Sequence[str]
) -> Iterator[str]:
    """Yield that the verdict of the whole does not follow from its modalities, or that others than the subject's have one.

    Args:
        overall: the verdict of the whole.
        states: verdict of each modality.
        modalities: the subject's.

    Yields:
        Each contradiction.
    """
    odd = sorted(set(states) ^ set(modalities))
    if odd:
        where = "a verdict and is not in the subject" if odd[0] in states else "no verdict"
        yield f"the modality {quote(odd[0])} has {where}"
    possible = possible_wholes(set(states.values()))
    if overall not in possible:
        yield f"the report's verdict is {overall}, but the verdicts of its modalities give {' or '.join(possible)}"


def check_results(rows: Sequence[Result], modalities: Sequence[str]) -> Iterator[str]:
    """Yield results without a name, of unknown modalities, there twice, or outside of their own intervals."""
    for r in rows:
        if not r.name.strip() or not r.probe.strip():
            yield "a result has an empty name, or is of a probe without one"
        for modality in (r.modality, r.versus):
            yield from check_modality(f"the result {quote(r.name)}", modality, modalities)
        yield from check_interval(f"the result {label_of(r.name, r.modality, r.versus)}", r.value, r.interval)
        yield from check_bounds(
            f"the result {label_of(r.name, r.modality, r.versus)}", r.bounds, (r.value, *(r.interval or ()))
        )
        if r.curve is not None:
            yield from _check_curve(f"the curve {label_of(r.name, r.modality, r.versus)}", r.curve)
    again = first_repeat((r.name, r.modality, r.versus) for r in rows)
    if again is not None:
        yield f"the result {label_of(*again)} is there twice"


def _check_curve(what: str, curve: Curve) -> Iterator[str]:
    if curve.lower is not None and curve.upper is not None:
        ends = zip(curve.lower, curve.upper, strict=True)
        if any(low > high for low, high in ends):
            yield f"{what} has a lower bound over its upper one"
    yield from check_bounds(f"a point of {what}", curve.bounds, (*curve.y, *(curve.lower or ()), *(curve.upper or ())))


def differ(a: float, b: float, size: float = 0.0) -> bool:
    """Tell whether two numbers that are computed from the same differ by more than rounding.

    Args:
        a: one number.
        b: the other.
        size: of the numbers that they are computed from.

    Returns:
        Whether they differ by more than a billionth.
    """
    return not math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9 * max(1e-3, abs(size)))


# What verdicts read of each modality, and of the model as a whole; what else a probe says is not looked at here.
_OF_EACH = {f"reliance.{what}{suffix}" for what in ("shapley", "leave_one_out") for suffix in ("", "_metric")}
_OF_EACH |= {f"utilisation.{what}" for what in ("credit", "reference_credit", "ratio", "score", "share")}
_OF_EACH |= {f"utilisation.{what}" for what in ("alone_gain", "alone_metric", "costs_now", "costs_if_missing")}
_OF_THE_WHOLE = {f"reliance.{end}_{what}" for end in ("full", "empty") for what in ("loss", "metric")}
_OF_THE_WHOLE |= {"utilisation.prior_loss"}
_IN_UNIT = {"accuracy", "balanced_accuracy", "macro_f1", "auroc", "macro_auroc", "recall@1"}
_IN_UNIT |= {"average_precision", "macro_average_precision", "micro_average_precision"}


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


# Of a verdict: what is known of a modality, and numbers, which are the same by all rules.
STATES = ("verdict", "at_most", "at_least", "missing", "cause")
NUMBERS = ("score", "interval", "costs_now", "costs_if_missing")


def verdict_differences(modality: str, stated: ModalityVerdict, right: ModalityVerdict) -> Iterator[str]:
    """Yield what a verdict states and the results do not give; words may differ.

    Args:
        modality: that it is about.
        stated: as it stands.
        right: as it follows from the results.

    Yields:
        A sentence each, without its end.
    """
    for field in (*STATES, *NUMBERS):
        a, b = getattr(stated, field), getattr(right, field)
        if a != b:
            yield f"{field} of {quote(modality)} is {quote(str(a))}, but the results give {quote(str(b))}"
