"""utilisation: the credit the model gives a modality, against what a balanced reference gives it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.games.balanced_reference import BalancedReference
from collapsekit.games.coalitions import CoalitionGame
from collapsekit.measures import LOSS, METRIC, Finding, Measure, Panel, Picture, Quantity, declare
from collapsekit.probes._shared import Credit, credit_interval, credits_of, estimate, metric_count, sum_of
from collapsekit.readouts.raw import ReadoutOptions
from collapsekit.readouts.strength import ReferenceStrength
from collapsekit.registry import probe
from collapsekit.report.diagnosis import Curve, Result
from collapsekit.session.costs.cost import Cost
from collapsekit.session.costs.preview import Preview
from collapsekit.session.session import Session
from collapsekit.stats.inference.quantiles import normal
from collapsekit.stats.inference.sums import Part, ratio_interval
from collapsekit.stats.use import FLOOR, floor_of
from collapsekit.tasks.scoring import leave_out_metric

BALANCED = (
    "balanced reference: late fusion of every modality's best unimodal readout, of encoders or of raw inputs, each "
    "calibrated and their evidence added "
    "in log-probability (or value) space with one weight fitted on held-out examples, and, where a network on all "
    "encoders' features or raw inputs finds it on held-out examples, what modalities say only together; "
    "absent modalities taken from the same other examples as in the model"
)
SURE = (
    "the model drawn toward the prior by one factor fitted on held-out examples, so that it is as sure as it is right"
)
CAP = 2.0  # ratios above are given as this: how many times more than its due is not what is asked
LEAST = 0.1  # part of what it gains alone that a modality is due at least, however clearly another says the same
DUE = f"Shapley credit in the balanced reference, at least {LEAST:g} of what the modality's readout gains alone"
FEWEST = 20  # examples to fit on, held out, and diagnosed
SOURCE = "collapsekit docs/verdicts.md; Shapley credit as in Covert et al. 2020 (SAGE)"

DUE_IS = f"due: {DUE}; {BALANCED}"
ADDED = (
    "{metric} of the model's own prediction with the modality's best readout added, minus that without it; weights of both "
    "fitted on held-out examples, or, where those were trained on, of each half of the examples on the other"
)
TOGETHER = declare(
    Measure(
        "utilisation.joint_gain",
        definition="loss of the sum of unimodal evidence minus loss with a network added that reads all encoders' "
        "features or raw inputs and their pairwise products, fitted beside that sum",
        source=SOURCE,
        unit=LOSS,
    )
)
PRIOR_LOSS = declare(
    Measure(
        "utilisation.prior_loss",
        definition="loss of the best constant prediction: the most any readout can gain",
        source=SOURCE,
        unit=LOSS,
        bounds="unit",
    )
)
CREDIT = declare(
    Measure(
        "utilisation.credit",
        definition=f"Shapley credit the model gives the modality; worth: minus the task loss over subsets; {SURE}",
        source=SOURCE,
        unit=LOSS,
        cannot="credit that one modality gains another loses, so no credit is better than another",
        figure="bars",
    )
)
SHARE_OF = declare(
    Measure(
        "utilisation.share",
        definition="the modality's credit in the model over the sum of all credits, in the model or the reference, "
        "whichever is more",
        source=SOURCE,
        unit="share",
    )
)
REFERENCE_CREDIT = declare(
    Measure("utilisation.reference_credit", definition=f"{DUE}; {BALANCED}", source=SOURCE, unit=LOSS, figure="bars")
)
RATIO = declare(
    Measure(
        "utilisation.ratio",
        definition=f"credit in the model divided by what is due, between 0 and {CAP:g}; {DUE_IS}; interval by Fieller's "
        "theorem",
        source=SOURCE,
        unit="ratio",
        bounds=(0.0, 2.0),
    )
)
SCORE = declare(
    Measure(
        "utilisation.score",
        definition=f"1 - (credit + e) / (due + e), between 0 and 1, neither below 0; due: {DUE}; e: {FLOOR:.1%} of the "
        f"prior loss, so that what is due nothing is not ignored; {BALANCED}; by Fieller's theorem",
        source=SOURCE,
        unit="score",
        bounds=(0.0, 1.0),
        better="lower",
        why="0 is fully used, 1 is fully ignored",
    )
)
ALONE_GAIN = declare(
    Measure(
        "utilisation.alone_gain",
        definition="loss of the best constant prediction minus loss of the modality's best readout alone",
        source=SOURCE,
        unit=LOSS,
        better="higher",
        why="it is task loss gained by the modality alone",
    )
)
ALONE_METRIC = declare(
    Measure(
        "utilisation.alone_metric",
        definition="{metric} of that readout",
        source=SOURCE,
        unit=METRIC,
        bounds="unit",
        better="higher",
        why="task metrics are written so that higher is better",
    )
)
DUE_AT_MOST = declare(
    Measure(
        "utilisation.due_at_most",
        definition="what the modality would be due if it said everything: Shapley credit with no loss left in every subset "
        "that holds it, and the loss of the balanced reference in every other",
        source=SOURCE,
        unit=LOSS,
    )
)
LEARNED = declare(
    Measure(
        "utilisation.learned",
        definition="share of the loss of the best constant prediction that the model gains: as it is, or, of probabilities, "
        "drawn toward the prior where it is surer than it is right",
        source=SOURCE,
        unit="share",
    )
)
LEARNABLE = declare(
    Measure(
        "utilisation.learnable",
        definition="share of the loss of the best constant prediction that the balanced reference gains",
        source=SOURCE,
        unit="share",
    )
)
STRENGTH = declare(
    Measure(
        "utilisation.strength",
        definition="gain of the readout that the due is read from over the largest gain of any that was tried, on held-out "
        "examples; curve: the gain of each family as a share of the loss of the best constant, the one that is used first",
        source=SOURCE,
        unit="share",
        cannot="it is beside what was tried: a readout that nobody tried may be stronger",
    )
)
TRAINED = declare(
    Measure(
        "utilisation.reference_trained",
        definition="1 where the modality's encoder was also trained alone until its held-out loss fell no more, or has no "
        "weights to train and raw inputs were read out, or where nothing beats the user's own predictions, else 0: a "
        "stronger reference might find more",
        source=SOURCE,
        unit="0 or 1",
    )
)
INDEPENDENT = declare(
    Measure(
        "utilisation.reference_independent",
        definition="1 where readouts of the modality's raw inputs were tried too, which no encoder can hide anything from, "
        "else 0",
        source=SOURCE,
        unit="0 or 1",
    )
)
COSTS_NOW = declare(
    Measure(
        "utilisation.costs_now",
        definition=ADDED,
        source=SOURCE,
        unit=METRIC,
        bounds="difference",
        better="lower",
        why="it is what the model loses of the task metric today",
    )
)
COSTS_IF_MISSING = declare(
    Measure(
        "utilisation.costs_if_missing",
        definition=f"{ADDED}; the other modality absent from the model's prediction",
        source=SOURCE,
        unit=METRIC,
        bounds="difference",
        better="lower",
        why="it is what the model loses of the task metric without the other modality",
    )
)


PICTURES = (
    Picture(
        "utilisation",
        "Credit beside a balanced reference",
        (
            Panel(
                "credit ({unit})",
                {"this model": "utilisation.credit", "balanced reference": "utilisation.reference_credit"},
            ),
        ),
        (
            Finding(
                "beyond",
                "utilisation.ratio",
                {
                    "clear": "{modality} gets {value} times the credit it is due.",
                    "unclear": "No modality clearly gets less credit than it is due.",
                },
                side="below",
                limit=1.0,
            ),
        ),
    ),
)


class UtilisationOptions(ReadoutOptions):
    """Options of the utilisation probe."""


def estimate_cost(preview: Preview) -> Cost:
    """Cost readouts, encoders trained alone, coalitions on diagnosed and held-out examples, and what modalities say
    together."""
    cost, at = preview.fit_split(), preview.fit_sizes
    _need_enough({"to fit on": at.fit, "held out": at.choose, "diagnosed": preview.size})
    cost += preview.balanced_reference()
    cost += preview.coalitions(preview.shapley_masks, calibrated=True) + preview.seed_noise()
    cost += preview.coalitions([preview.full, *preview.without_one])
    if at.held == "train":  # costs are weighed on halves of the diagnosed examples
        return cost
    return cost + preview.coalitions([preview.full, *preview.without_one], split=at.held)


@probe(
    "utilisation",
    title="Credit beside a balanced reference",
    place=20,
    pictures=PICTURES,
    summary="how much of the credit a balanced reference gives a modality the model gives it; what that costs",
    definition="Shapley credit in the model divided by Shapley credit in the reference; " + BALANCED,
    source=SOURCE,
    cannot=(
        "what modalities say only together is found by a small network on few examples or not at all; a readout too weak "
        "for a modality makes it look uninformative"
    ),
    options=UtilisationOptions,
    trains="models",
    cost=estimate_cost,
)
def run(session: Session) -> Iterator[Result]:
    """Measure how much of what a balanced reference gets from each modality the model gets from it.

    The reference fuses every modality's best unimodal readout late, and plays the same game of coalitions as the
    calibrated model. Definitions and their reasons are in docs/verdicts.md; credit is that of SAGE (Covert et al. 2020).

    Yields:
        What modalities say only together; the loss of the best constant; and by modality the model's and the reference's
        credit, their ratio and score, what its readout gains alone, and what adding it to the model gains.
    """
    _check_size(session)
    strengths = {m: session.reference(m) for m in session.modalities}
    game, reference = session.game, session.balanced_reference.whole
    yield _gained_together(session)
    task, prior, level = session.task, reference.constant().loss, session.level
    least = task.loss_bounds.of_negatives
    noise = game.calibrated_seed_noise.loss
    ours = credits_of(session, lambda k: -game.calibrated(k).loss, least, noise=noise)
    theirs = credits_of(session, lambda k: -reference.value(k).loss, least)
    total = torch.maximum(sum_of(ours), sum_of(theirs))
    yield _with_interval(PRIOR_LOSS.fill(task), None, None, prior, level)
    yield _with_interval(LEARNED.fill(), None, None, 1 - _loss_of_model(session) / prior, level)
    yield _with_interval(LEARNABLE.fill(), None, None, 1 - reference.value(game.full).loss / prior, level)
    for i, m in enumerate(session.modalities):
        yield from _strength(m, strengths[m])
        note = f"readout: {strengths[m].read}"
        gain = prior - reference.alone(m).loss
        credit, due = ours[i], theirs[i].at_least(LEAST * gain, estimate(LEAST * gain, level)[1])
        yield CREDIT.fill(task).result(float(credit.values[0]), credit.ends, modality=m)
        yield _share(m, credit.values, total, credit.error, level)
        yield REFERENCE_CREDIT.fill(task).result(float(due.values[0]), due.ends, modality=m, note=note)
        most = torch.maximum(_due_at_most(session, reference, i), LEAST * gain)
        yield _with_interval(DUE_AT_MOST.fill(task), m, None, most, level)
        yield _ratio(m, note, credit, due, level)
        yield _score(m, note, credit, due, float(prior[0]), level)
        yield _with_interval(ALONE_GAIN.fill(task), m, note, gain, level)
        metric = reference.alone(m).metric
        yield _with_interval(ALONE_METRIC.fill(task), m, note, metric, level, count=metric_count(session))
        yield from _costs(m, session, reference, game)


def _loss_of_model(session: Session) -> Tensor:
    """Loss of the model on all modalities, (1 + G,): of probabilities, drawn toward the prior where that lowers it on
    held-out examples, never away from it, or the noise of a network that has learned nothing would count as much as what
    another has learned. Values, too large by chance, would gain by it whatever they say."""
    game, calibration, task = session.game, session.calibration, session.task
    probable = (
        calibration is not None and task.prior_loss(game.value(game.full).expected, calibration.prior) is not None
    )
    surer = probable and calibration is not None and calibration.factor < 1
    return (game.calibrated(game.full) if surer else game.value(game.full)).loss


def _due_at_most(session: Session, reference: BalancedReference, i: int) -> Tensor:
    """What modality ``i`` would be due if it said everything, (1 + G,)."""
    none_left = torch.zeros_like(reference.constant().loss)
    credit, _ = session.shapley_values(lambda k: none_left if k >> i & 1 else -reference.value(k).loss)
    return credit[i]


def _strength(modality: str, strength: ReferenceStrength) -> Iterator[Result]:
    """How strong the readout is that the due is read from, and what it was held against."""
    curve = Curve(
        x=tuple(strength.gains),
        y=tuple(strength.gains.values()),
        x_label="readout",
        y_label="held-out gain (share of the prior loss)",
    )
    yield STRENGTH.fill().result(strength.strength, curve=curve, modality=modality, note=strength.read)
    yield TRAINED.result(float(strength.trained_alone), modality=modality, note=strength.why_not)
    yield INDEPENDENT.result(float(strength.independent), modality=modality)


def _check_size(session: Session) -> None:
    """On fewer examples than these a readout that found nothing is no sign that there is nothing. Raises NumericsError."""
    at = session.fit_split
    _need_enough({"to fit on": len(at.fit), "held out": len(at.choose), "diagnosed": len(session.features)})


def _need_enough(counts: dict[str, int]) -> None:
    """Raises NumericsError where a reference has too few examples, ``counts`` by what they are for."""
    what, n = min(counts.items(), key=lambda item: item[1])
    if n < FEWEST:
        raise NumericsError(f"a reference needs at least {FEWEST} examples, found {n} {what}: use more")


def _gained_together(session: Session) -> Result:
    """What modalities say only together gains beside the sum of what each says alone."""
    found, together = session.balanced_reference, TOGETHER.fill(session.task)
    if session.task.embeddings > 1:
        return together.skipped("both sides of a pair are read out together in the reference itself")
    if found.described is None:
        return together.skipped("on held-out examples it adds no more than chance to the sum of unimodal evidence")
    full = (1 << len(session.modalities)) - 1
    value, span = estimate(found.summed.value(full).loss - found.whole.value(full).loss, session.level)
    return together.result(value, span, note=found.described)


def _with_interval(
    quantity: Quantity,
    modality: str | None,
    note: str | None,
    values: Tensor,
    level: float,
    error: float = 0.0,
    *,
    versus: str | None = None,
    count: float | None = None,
) -> Result:
    """A value and its leave-out values (1 + G,) as a result; ``error``: standard error of sampled orders; ``count``: of
    the independent examples behind a metric."""
    span = credit_interval(values, error, level, quantity.bounds, count)
    return quantity.result(float(values[0]), span, modality=modality, versus=versus, note=note)


def _share(modality: str, credit: Tensor, total: Tensor, error: float, level: float) -> Result:
    if float(total.min()) <= 0:
        reason = "model and reference are, at least on some groups of examples, no better than without inputs"
        return SHARE_OF.skipped(reason, modality=modality)
    # The sum itself is exact in sampled orders, too.
    return _with_interval(SHARE_OF.fill(), modality, None, credit / total, level, error / float(total[0]))


def _ratio(modality: str, note: str, credit: Credit, due: Credit, level: float) -> Result:
    if float(due.values[0]) <= 0:
        reason = "the balanced reference gives the modality no credit above 0"
        return RATIO.skipped(reason, modality=modality, note=note)
    value, low, high = _quotient(credit, due, 0.0, level, CAP)
    return RATIO.result(value, (low, high), modality=modality, note=note)


def _score(modality: str, note: str, credit: Credit, due: Credit, prior_loss: float, level: float) -> Result:
    """The ratio drawn to 1 where little is due, so that there is one for every modality and no cliff at zero."""
    value, low, high = _quotient(credit.at_least(0.0), due.at_least(0.0), floor_of(prior_loss), level, 1.0)
    return SCORE.result(1.0 - value, (1.0 - high, 1.0 - low), modality=modality, note=note)


def _quotient(credit: Credit, due: Credit, more: float, level: float, cap: float) -> tuple[float, float, float]:
    """(credit + more) / (due + more) within [0, cap] with its interval, widened by the standard errors of sampled orders."""
    more_of = Part(torch.full_like(credit.values, more))
    a, b = float(credit.values[0]) + more, float(due.values[0]) + more
    value = min(cap, max(0.0, a / b))
    low, high = ratio_interval([*credit.parts, more_of], [*due.parts, more_of], level, cap)
    extra = normal(0.5 + level / 2) * math.hypot(credit.error, value * due.error) / b
    low, high = min(low, value), max(high, value)
    return value, max(0.0, value - math.hypot(value - low, extra)), min(cap, value + math.hypot(high - value, extra))


def _costs(modality: str, session: Session, reference: BalancedReference, game: CoalitionGame) -> Iterator[Result]:
    """What adding the modality's evidence to the model's own prediction gains: as it is, and without another one."""
    task, features, at = session.task, session.features, session.fit_split
    if task.embeddings > 1:
        yield COSTS_NOW.fill(task).skipped("embeddings of two models lie in spaces of their own", modality=modality)
        return
    trained_on = at.held is at.train and bool((features.groups % 2).any())  # halves of more than one group
    held = None if trained_on else session.on(at.held).game_of(len(game.donors))
    note = (
        None
        if held is not None
        else "no val split beside it: weights of each half of the examples fitted on the other half"
    )
    for i, other in enumerate(features.modalities):
        mask = game.full if other == modality else game.full & ~(1 << i)
        model = game.value(mask).expected
        chosen_on = None if held is None else held.value(mask).expected[at.choose]
        with_it, without = (
            leave_out_metric(task, expected, features.targets, features.groups)
            for expected in (
                reference.added_across(of, model) if chosen_on is None else reference.added(of, model, chosen_on)
                for of in ((modality, None if other == modality else other), None)
            )
        )
        if other == modality:
            yield _with_interval(COSTS_NOW.fill(task), modality, note, with_it - without, session.level)
        else:
            cost = COSTS_IF_MISSING.fill(task)
            yield _with_interval(cost, modality, note, with_it - without, session.level, versus=other)
