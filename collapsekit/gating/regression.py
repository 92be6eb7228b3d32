"""A report held against a baseline: the same training run example by example, another one against how runs vary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

from collapsekit.errors import ConfigError
from collapsekit.gating.criteria import Criterion, Limits, due_of, numbers, says_nothing, value_of
from collapsekit.report.baseline import Run
from collapsekit.report.diagnosis import Interval, Report
from collapsekit.report.gate import GateCheck, State
from collapsekit.report.per_example import PerExample
from collapsekit.stats.inference.holm import holm
from collapsekit.stats.inference.prediction import (
    MAX_RUNS,
    POWER,
    detectable_paired,
    detectable_retrained,
    examples_needed,
    prediction_half,
    prediction_p,
    runs_needed,
    spread,
)
from collapsekit.stats.inference.signflip import sign_flip, standard_error, unit_sums
from collapsekit.stats.use import floor_of

MIN_RUNS = 3  # of which a spread can be told at all
LEVEL = 0.95
PAIRED = "one-sided sign-flip permutation test of the differences over the same examples"
RETRAINED = "one-sided prediction interval of one more training run, t(B - 1)·s·√(1 + 1/B), from the baseline's runs"
SOURCES = {
    "paired": "Fisher 1935; Holm 1979, over everything the gate watches",
    "retrained": "Hahn & Meeker 1991, section 4.7; Holm 1979, over everything the gate watches",
}


@dataclass(frozen=True)
class Evidence:
    """One number in both, and the evidence that it got worse."""

    number: Criterion
    found: float
    baseline: float
    worse: float  # above 0: worse
    interval: Interval | None
    p: float
    detectable: float | None
    margin: float
    effect: float
    needed: int | None = None
    note: str = ""


def paired_checks(report: Report, records: PerExample, run: Run, limits: Limits) -> list[GateCheck]:
    """Check the report against one of the same training run, over pairs of the same examples.

    Args:
        report: The report to judge.
        records: Its records.
        run: The baseline's run, with records.
        limits: What is watched, and by how much it may worsen.

    Returns:
        A check for each number; p-values are corrected together.

    Raises:
        ConfigError: Where the records are of different examples.
    """
    theirs = run.read_records()
    assert theirs is not None  # the caller has asked
    if not np.array_equal(theirs.ids, records.ids):
        raise ConfigError(
            "the baseline's records are of other examples than the report's: diagnose both on the same data."
        )
    watched = numbers(report, limits.watch, says_nothing([run.report]))
    return _judged(
        [_paired(n, report, records, run.report, theirs, limits, len(watched)) for n in watched],
        watched,
        limits,
        "paired",
    )


def retrained_checks(report: Report, runs: Sequence[Run], limits: Limits) -> list[GateCheck]:
    """Check the report against how much the baseline's training runs vary.

    Args:
        report: The report to judge.
        runs: The baseline's runs.
        limits: What is watched, and by how much it may worsen.

    Returns:
        A check for each number; p-values are corrected together.
    """
    before = [r.report for r in runs]
    watched = numbers(report, limits.watch, says_nothing(before))
    seen = [_retrained(n, report, before, limits, len(watched)) for n in watched]
    return _judged(seen, watched, limits, "retrained")


def undecided(report: Report, limits: Limits, kind: str, why: str) -> list[GateCheck]:
    """Make a check that decides nothing of every number, for a reason common to all.

    Args:
        report: The report to judge.
        limits: What is watched.
        kind: How the numbers would have been compared.
        why: The reason, in words.

    Returns:
        A check for each number.
    """
    watched = numbers(report, limits.watch)
    return _judged([why for _ in watched], watched, limits, kind)


def _paired(
    number: Criterion, ours: Report, new: PerExample, theirs: Report, old: PerExample, limits: Limits, tests: int
) -> Evidence | str:
    found, before = value_of(number, ours), value_of(number, theirs)
    if isinstance(found, str) or isinstance(before, str):
        return found if isinstance(found, str) else f"in the baseline, {before}"
    column = next((c for c in number.columns if c in new.columns and c in old.columns), None)
    if column is None:
        return (
            f"the records do not hold {number.name} of each example: diagnose with the probes reliance and utilisation"
        )
    apart = old.columns[column].astype(np.float64) - new.columns[column].astype(np.float64)
    if column.startswith("loss"):
        apart = -apart
    p = sign_flip(apart, new.units)
    scale = _scale(number, column, theirs)
    if scale is None:
        worse, half = before - found, _unpaired_half(number, ours, theirs)
        error = None if half is None else half / float(student_t.ppf(0.5 + LEVEL / 2, 15))
    else:
        sums = unit_sums(apart, new.units)
        worse, error = float(apart.mean()) * scale, standard_error(sums, len(apart)) * scale
        half = error * float(student_t.ppf(0.5 + LEVEL / 2, len(sums) - 1)) if math.isfinite(error) else None
    margin, effect = limits.margin(number.kind, before), limits.effect(number.kind, before)
    alpha = limits.alpha / tests
    reach = detectable_paired(error, alpha, margin) if error is not None and math.isfinite(error) else None
    needed = None
    if reach is not None and error is not None and reach > effect:
        needed = examples_needed(len(apart), error, alpha, margin, effect)
    interval = None if half is None else (worse - half, worse + half)
    return Evidence(number, found, before, worse, interval, p, reach, margin, effect, needed)


def _scale(number: Criterion, column: str, baseline: Report) -> float | None:
    """The factor that makes a mean of the column's differences one of the number; None where there is none."""
    if number.kind == "use":
        due = due_of(baseline, number.modality)
        return None if isinstance(due, str) else 1.0 / (due[0] + floor_of(due[1]))
    return 1.0 if column.startswith("metric") else None


def _unpaired_half(number: Criterion, ours: Report, theirs: Report) -> float | None:
    """Half an interval of the difference, made of both reports' own as if of different examples: too wide if anything."""
    name = "reliance.full_metric" if number.kind == "metric" else "reliance.leave_one_out_metric"
    both = [r.find(name, number.modality) for r in (ours, theirs)]
    halves = [(r.interval[1] - r.interval[0]) / 2 for r in both if r is not None and r.interval is not None]
    return math.hypot(*halves) if len(halves) == 2 else None


def _retrained(number: Criterion, report: Report, runs: Sequence[Report], limits: Limits, tests: int) -> Evidence | str:
    found, values = value_of(number, report), [value_of(number, r) for r in runs]
    if isinstance(found, str):
        return found
    known = [v for v in values if not isinstance(v, str)]
    if len(known) < len(values):
        return f"in the baseline, {next(v for v in values if isinstance(v, str))}"
    if len(known) < MIN_RUNS:
        return (
            f"how retraining varies takes at least {MIN_RUNS} baseline runs, and there {_are(len(known))}: add "
            f"{MIN_RUNS - len(known)} more of other seeds with `collapsekit baseline update`"
        )
    mean, sd, count = sum(known) / len(known), spread(known), len(known)
    margin, effect = limits.margin(number.kind, mean), limits.effect(number.kind, mean)
    alpha = limits.alpha / tests
    reach, half = detectable_retrained(sd, count, alpha, margin), prediction_half(sd, count, LEVEL)
    needed, note = None, ""
    if reach > effect:
        enough = runs_needed(sd, alpha, margin, effect)
        needed = None if enough is None else max(1, enough - count)
        if enough is None:
            note = f"even {MAX_RUNS} runs would not do, as runs vary by {sd:.3g} (standard deviation): raise the effect"
    worse = mean - found
    interval, p = (worse - half, worse + half), prediction_p(worse, sd, count)
    return Evidence(number, found, mean, worse, interval, p, reach, margin, effect, needed, note)


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"


def _judged(seen: Sequence[Evidence | str], watched: Sequence[Criterion], limits: Limits, kind: str) -> list[GateCheck]:
    """Checks of all numbers, their p-values corrected together."""
    corrected = iter(holm([s.p for s in seen if isinstance(s, Evidence)]))
    return [
        _check(s, n, next(corrected), limits, kind) if isinstance(s, Evidence) else _no_check(s, n, limits, kind)
        for s, n in zip(seen, watched, strict=True)
    ]


def _no_check(why: str, number: Criterion, limits: Limits, kind: str) -> GateCheck:
    return GateCheck(
        name=number.name,
        kind="paired" if kind == "paired" else "retrained",
        state="inconclusive",
        sentence=f"Not decided: {why}.",
        modality=number.modality,
        margin=limits.margin(number.kind),
        unit=number.unit,
        definition=number.definition,
        source=SOURCES[kind],
    )


def _check(seen: Evidence, number: Criterion, p_holm: float, limits: Limits, kind: str) -> GateCheck:
    margin, effect = seen.margin, seen.effect
    state: State = "passed"
    if p_holm <= limits.alpha and seen.worse > 0 and seen.worse >= margin:
        state = "failed"
    elif seen.detectable is None or seen.detectable > effect:
        state = "inconclusive"
    return GateCheck(
        name=number.name,
        kind="paired" if kind == "paired" else "retrained",
        state=state,
        sentence=_sentence(seen, state, p_holm, limits, kind),
        modality=number.modality,
        found=seen.found,
        baseline=seen.baseline,
        difference=seen.worse,
        interval=seen.interval,
        margin=margin,
        p=seen.p,
        p_holm=p_holm,
        detectable=seen.detectable,
        needed=seen.needed if state == "inconclusive" else None,
        unit=number.unit,
        definition=f"{number.definition}; {PAIRED if kind == 'paired' else RETRAINED}",
        source=SOURCES[kind],
    )


def _sentence(seen: Evidence, state: State, p_holm: float, limits: Limits, kind: str) -> str:
    number, margin, effect = seen.number, seen.margin, seen.effect
    moved = "fell" if seen.worse > 0 else "rose"
    text = f"{number.name} {moved} from {seen.baseline:.3f} to {seen.found:.3f}"
    if seen.worse == 0:
        text = f"{number.name} is {seen.found:.3f} as before"
    p = f"p = {p_holm:.2g} after Holm" if p_holm >= 1e-4 else "p < 0.0001 after Holm"
    if state == "failed":
        return f"{text}: a fall of {seen.worse:.3f}, over the margin of {margin:.3g} and significant ({p})."
    if p_holm <= limits.alpha and seen.worse > 0:
        text += f" ({p}), under the margin of {margin:.3g}"
    elif seen.worse >= margin > 0:
        text += f", over the margin of {margin:.3g} but not significant ({p})"
    if seen.detectable is None:
        return f"{text}; how small a fall would have been caught is not known, so this decides nothing."
    text += f"; a fall of {seen.detectable:.3f} would have been caught with {POWER:.0%} probability"
    if state == "passed":
        return f"{text}."
    more = seen.note
    if not more and seen.needed is not None:
        what = "baseline runs" if kind == "retrained" else "examples in all"
        more = (
            f"{seen.needed} more {what} would do" if kind == "retrained" else f"about {seen.needed:,} {what} would do"
        )
    return f"{text}, and the gate has to see one of {effect:.3g}" + (f": {more}." if more else ".")
