"""Whether a repair may stand: judged on the validation split, beside what was there before."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from collapsekit.repairs.training.job import Job
from collapsekit.report.diagnosis import Report
from collapsekit.report.repair import METRIC_MARGIN, MIN_SCORE_FALL, Check, metric_passes, score_passes
from collapsekit.report.verdicts import describe_state, is_weak
from collapsekit.stats.inference.bounded import bounded_interval
from collapsekit.tasks.scoring import leave_out_metric

LEVEL = 0.90  # two-sided, so 95 % one-sided
UNKNOWN = "could not be had"


def metric_check(job: Job, before: Tensor, after: Tensor) -> Check:
    """Check that the task metric is not worse: paired over the same examples, by a delete-a-group jackknife of the
    difference.

    Args:
        job: The repair's job, with the held-out examples.
        before: Expectations (n, ...) of the held-out examples before the repair, as the task scores them.
        after: The same after it, in the same order.

    Returns:
        The check, in the metric's unit.
    """
    task, at = job.adapter.task, job.at
    groups = at.held.groups[at.choose]
    values = [leave_out_metric(task, expected, at.held_targets, groups) for expected in (before, after)]
    differences = values[1] - values[0]
    difference, bounds = float(differences[0]), task.metric_bounds.of_differences
    low, high = (float(x) for x in bounded_interval(differences[0], differences[1:], LEVEL, bounds))
    passed = metric_passes(difference, (low, high))
    verdict = "not worse" if passed else "worse"
    return Check(
        name="metric",
        passed=passed,
        before=float(values[0][0]),
        after=float(values[1][0]),
        difference=difference,
        interval=(low, high),
        definition=(
            f"{task.metric_name} on the {at.held.split} split, after minus before, {LEVEL:.0%} interval by a jackknife over "
            f"groups of the same examples; passed where it reaches 0 and the loss is at most {METRIC_MARGIN:g}"
        ),
        sentence=(
            f"{task.metric_name} on {at.held.split} is {verdict}: {float(values[0][0]):.3f} before, "
            f"{float(values[1][0]):.3f} after (difference {difference:+.3f} [{low:+.3f}, {high:+.3f}])."
        ),
    )


def score_check(modality: str, before: Report, after: Report) -> Check:
    """Check that the modality is ignored less than before.

    Args:
        modality: Its name.
        before: The report before the repair.
        after: The report after it, on the same examples.

    Returns:
        The check, of scores from 0 (fully used) to 1 (fully ignored); not passed where one is not known.
    """
    old, new = before.modalities[modality].score, after.modalities[modality].score
    difference = new - old if old is not None and new is not None else None
    passed = score_passes(difference)
    shown = [UNKNOWN if value is None else f"{value:.2f}" for value in (old, new)]
    return Check(
        name=f"score.{modality}",
        passed=passed,
        before=old,
        after=new,
        difference=difference,
        definition=(
            f"score of {modality} (0 fully used, 1 fully ignored) on the {before.subject.split} split; passed where it "
            f"falls by at least {MIN_SCORE_FALL:g}"
        ),
        sentence=(
            f"The score of {modality} on {before.subject.split} {'falls' if passed else 'does not fall enough'}: "
            f"{shown[0]} before, {shown[1]} after (0 is fully used, 1 fully ignored)."
        ),
    )


def still_used_check(modality: str, before: Report, after: Report) -> Check:
    """Check that a modality that was used, and is not to be repaired, is not ignored in the place of those that are.

    Args:
        modality: Its name.
        before: The report before the repair.
        after: The report after it, on the same examples.

    Returns:
        The check; not passed where the modality is collapsed or at most underused after, nor where that is not known and its
        score rose.
    """
    old, new = before.modalities[modality], after.modalities[modality]
    difference = new.score - old.score if old.score is not None and new.score is not None else None
    as_before = new.verdict != "inconclusive" or (difference is not None and difference < MIN_SCORE_FALL)
    passed = not is_weak(new) and as_before
    return Check(
        name=f"still_used.{modality}",
        passed=passed,
        before=old.score,
        after=new.score,
        difference=difference,
        definition=(
            f"verdict of {modality}, which was used before, on the {before.subject.split} split; passed unless it is "
            "collapsed or at most underused after, or inconclusive with a score that rose by as much as counts; shown are "
            "its scores"
        ),
        sentence=(
            f"{modality}, used on {before.subject.split} before, is {describe_state(new)} after"
            f"{'.' if passed else ': the repair taught the model to ignore it.'}"
        ),
    )


def beats(after: Report, control: Report, repaired: Sequence[str]) -> bool | None:
    """Tell whether a repaired modality's score is lower than plain fine-tuning leaves it, by as much as counts.

    Args:
        after: The report after the repair.
        control: The report after plain fine-tuning, on the same examples.
        repaired: Names of the modalities that were to be repaired.

    Returns:
        True where that is so of one or more of them; None where no such pair of scores is known.
    """
    pairs = [(after.modalities[m].score, control.modalities[m].score) for m in repaired]
    known = [(a, c) for a, c in pairs if a is not None and c is not None]
    return any(a <= c - MIN_SCORE_FALL for a, c in known) if known else None
