"""A repair's three reports side by side: which numbers and curves may be compared, and which of two is the better one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from collapsekit.measures import headings, lookup
from collapsekit.measures.of_verdict import SCORE
from collapsekit.report.comparison import Better
from collapsekit.report.diagnosis import Report, Result
from collapsekit.report.names import label, modality_names, whole_label
from collapsekit.report.repair import RepairReport

Estimate = tuple[float, tuple[float, float] | None]
Key = tuple[str, str | None, str | None, int]


@dataclass(frozen=True)
class Judgement:
    """How one number stands beside another."""

    word: str  # "better", "worse", "the same"
    overlap: bool  # the intervals overlap, so that chance may have done it

    def __str__(self) -> str:
        return f"{self.word} (intervals overlap)" if self.overlap else self.word


@dataclass(frozen=True)
class Numbers:
    """One quantity before, after, and with plain fine-tuning."""

    before: Estimate | None
    after: Estimate | None
    control: Estimate | None
    better: Better | None = None  # None where that is not known
    beside_control: bool = True  # whether the control was measured on the same examples

    @property
    def difference(self) -> float | None:
        """After minus before, None where it could not be had."""
        if self.before is None or self.after is None:
            return None
        found = self.after[0] - self.before[0]
        return found if math.isfinite(found) else None

    @property
    def than_before(self) -> Judgement | None:
        """How ``after`` stands beside ``before``."""
        return judge(self.after, self.before, self.better)

    @property
    def than_control(self) -> Judgement | None:
        """How ``after`` stands beside ``control``."""
        return judge(self.after, self.control, self.better) if self.beside_control else None


def judge(new: Estimate | None, old: Estimate | None, better: Better | None) -> Judgement | None:
    """Judge whether ``new`` is better than ``old``.

    Args:
        new: A number and its interval.
        old: The number it stands beside.
        better: Which way is better.

    Returns:
        The judgement; None where the direction or a number is not known.
    """
    if new is None or old is None or better is None:
        return None
    if new[0] == old[0]:
        return Judgement("the same", False)
    (a, b), (c, d) = new[1] or (new[0], new[0]), old[1] or (old[0], old[0])
    had = new[1] is not None or old[1] is not None
    return Judgement("better" if (new[0] > old[0]) == (better == "higher") else "worse", had and a <= d and c <= b)


@dataclass(frozen=True)
class Pair:
    """One result in ``before`` and ``after``, and in ``control`` where that has it with the same definition."""

    before: Result
    after: Result
    control: Result | None
    numbers: Numbers

    @property
    def label(self) -> str:
        """The short name with the modalities it is about."""
        return label(self.before)


@dataclass(frozen=True)
class RepairDelta:
    """What can be compared, by probe, and what was left out with the reason."""

    values: dict[str, tuple[Pair, ...]]
    curves: dict[str, tuple[Pair, ...]]
    left: dict[str, tuple[str, ...]]  # reason -> whole names of results

    def pairs(self) -> list[Pair]:
        """List each pair once, whether it has a value, a curve or both."""
        found = [p for part in (self.values, self.curves) for pairs in part.values() for p in pairs]
        return list({id(p): p for p in found}.values())


def _better(result: Result) -> Better | None:
    """Which way is better, where its measure says; of all others only the difference is shown."""
    measure = lookup(result.name)
    return None if measure is None else measure.better


def _side_by_side(result: Result) -> bool:
    """Whether a point of its curve means the same in another report."""
    measure = lookup(result.name)
    return measure is not None and measure.side_by_side


def repair_delta(report: RepairReport) -> RepairDelta:
    """Put every result of the three reports side by side, or leave it out with the reason."""
    before, after = _keyed(report.before), _keyed(report.after)
    control = _keyed(report.control) if report.control is not None else {}
    left: dict[str, list[str]] = {}
    values: dict[str, list[Pair]] = {}
    curves: dict[str, list[Pair]] = {}
    for key in _ordered(report, {**before, **after, **control}):
        old, new, plain = before.get(key), after.get(key), control.get(key)
        reason = _apart(old, new)
        if reason is not None or old is None or new is None:
            left.setdefault(reason or "", []).append(whole_label(old or new or plain))
            continue
        if report.control is not None:
            without = _apart(old, plain, ("before", "with plain fine-tuning"))
            if without is not None:
                left.setdefault(f"plain fine-tuning only: {without}", []).append(whole_label(old))
                plain = None
        pair = Pair(old, new, plain, _numbers(report, old, new, plain))
        if old.value is not None and new.value is not None:
            values.setdefault(old.probe, []).append(pair)
        if old.curve is not None and new.curve is not None and _side_by_side(old):
            if set(old.curve.x) & set(new.curve.x):
                curves.setdefault(old.probe, []).append(pair)
            else:
                left.setdefault("its curves have no point in common", []).append(whole_label(old))
    return RepairDelta(
        {h.probe: tuple(values[h.probe]) for h in headings(values)},
        {h.probe: tuple(curves[h.probe]) for h in headings(curves)},
        {reason: tuple(names) for reason, names in left.items()},
    )


def _numbers(report: RepairReport, old: Result, new: Result, plain: Result | None) -> Numbers:
    better = _better(old) if not unlike(report.before, report.after) else None
    beside = report.control is not None and not unlike(report.control, report.after)
    return Numbers(estimate(old), estimate(new), estimate(plain), better, beside)


def estimate(result: Result | None) -> Estimate | None:
    """Value and interval, None where there is no value."""
    return None if result is None or result.value is None else (result.value, result.interval)


def scores(report: RepairReport, modalities: Sequence[str] | None = None) -> dict[str, Numbers]:
    """Compare the score of each of the modalities, by default of those that were repaired, from the verdicts."""
    better = SCORE.better if not unlike(report.before, report.after) else None
    beside = report.control is not None and not unlike(report.control, report.after)
    found = {}
    for m in report.repaired if modalities is None else modalities:
        parts = [_score(r, m) for r in (report.before, report.after, report.control)]
        found[m] = Numbers(parts[0], parts[1], parts[2], better, beside)
    return found


def _score(report: Report | None, modality: str) -> Estimate | None:
    verdict = report.modalities.get(modality) if report is not None else None
    return None if verdict is None or verdict.score is None else (verdict.score, verdict.interval)


def unlike(one: Report, other: Report) -> list[str]:
    """Name in what two reports were not measured alike, so that their numbers say nothing of each other."""
    fields = ("modalities", "task", "metric", "split", "examples", "seed")
    return [f for f in fields if getattr(one.subject, f) != getattr(other.subject, f)]


def _keyed(report: Report) -> dict[Key, Result]:
    found: dict[Key, Result] = {}
    for r in report.results:  # a name used twice is compared with its own counterpart, and nothing is lost
        again = 0
        while (r.name, r.modality, r.versus, again) in found:
            again += 1
        found[r.name, r.modality, r.versus, again] = r
    return found


def _ordered(report: RepairReport, keys: dict[Key, Result]) -> list[Key]:
    """By name as they come, the modalities of each name in the order of the model's, pairs by both."""
    names = {name: i for i, name in enumerate(dict.fromkeys(k[0] for k in keys))}
    ranks: dict[str | None, int] = {m: i for i, m in enumerate(modality_names(report.before))}
    return sorted(keys, key=lambda k: (names[k[0]], ranks.get(k[1], len(ranks)), ranks.get(k[2], len(ranks))))


def _apart(old: Result | None, new: Result | None, when: tuple[str, str] = ("before", "after")) -> str | None:
    """Why two results are not to be compared, None where they are."""
    for one, time in ((old, when[0]), (new, when[1])):
        if one is None:
            return f"not in the report {time}"
        if one.skipped is not None:
            return f"not measured {time}: {one.skipped}"
    if old is None or new is None:
        return None
    for field, what in (("definition", "the definition"), ("source", "the source"), ("unit", "the unit")):
        if getattr(old, field) != getattr(new, field):
            return f"{what} {when[1]} is not that {when[0]}"
    if not (old.value is not None and new.value is not None) and not (old.curve is not None and new.curve is not None):
        return f"a number {when[0] if old.value is not None else when[1]}, only a curve at the other time"
    return None
