"""What has to agree in files of several kinds, each rule a generator of contradictions: sentences without their end."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from collapsekit.io.safe_text import quote
from collapsekit.report.verdicts import overall_of

if TYPE_CHECKING:
    from collapsekit.report.base import Interval
    from collapsekit.report.parts import ModalityState, OverallState, Result, Subject

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
    follows = overall_of(list(states.values()))
    if overall != follows:
        yield f"the report's verdict is {overall}, but the verdicts of its modalities give {follows}"


def check_results(rows: Sequence[Result], modalities: Sequence[str]) -> Iterator[str]:
    """Yield results without a name, of unknown modalities, there twice, or outside of their own intervals."""
    for r in rows:
        if not r.name.strip() or not r.probe.strip():
            yield "a result has an empty name, or is of a probe without one"
        for modality in (r.modality, r.versus):
            yield from check_modality(f"the result {quote(r.name)}", modality, modalities)
        yield from check_interval(f"the result {label_of(r.name, r.modality, r.versus)}", r.value, r.interval)
        bounds = (r.curve.lower, r.curve.upper) if r.curve is not None else (None, None)
        if None not in bounds and any(low > high for low, high in zip(*bounds, strict=True)):  # type: ignore[arg-type]
            yield f"the curve {label_of(r.name, r.modality, r.versus)} has a lower bound over its upper one"
    again = first_repeat((r.name, r.modality, r.versus) for r in rows)
    if again is not None:
        yield f"the result {label_of(*again)} is there twice"


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
