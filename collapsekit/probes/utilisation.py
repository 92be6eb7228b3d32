"""utilisation: the credit the model gives a modality, against what a balanced reference gives it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

from torch import Tensor

from collapsekit.adapter.base import Adapter
from collapsekit.features import Features
from collapsekit.probes.prefix_gap import PrefixGapOptions, trained_alone
from collapsekit.probes.reliance import RelianceOptions, ends, game_of
from collapsekit.readout import Unimodal, fold, prefix
from collapsekit.reference import Reference, make_reference
from collapsekit.registry import probe
from collapsekit.replay import Coalitions, coalitions, credits, leave_out_metric
from collapsekit.report import Result
from collapsekit.settings import Settings

BALANCED = (
    "balanced reference: late fusion of every modality's best unimodal readout, each calibrated and their evidence added "
    "in log-probability (or value) space with one weight fitted on held-out examples, as sure of itself as the model is; "
    "absent modalities taken from the same other examples as in the model"
)
SOURCE = "collapsekit docs/verdicts.md; Shapley credit as in Covert et al. 2020 (SAGE)"


@probe(
    "utilisation",
    summary="how much of the credit a balanced reference gives a modality the model gives it; what that costs",
    definition="Shapley credit in the model divided by Shapley credit in the reference; " + BALANCED,
    source=SOURCE,
    cannot="the reference adds evidence up, so information that only a pair of modalities holds together is not in it",
    trains="models",
)
def run(adapter: Adapter, features: Features, *, settings: Settings) -> Iterator[Result]:
    options = settings.of("reliance", RelianceOptions)
    readouts, evidence = _best_readouts(adapter, features, settings)
    game = game_of(adapter, features, options, settings)
    reference = make_reference(adapter, features, readouts, game.donors)
    ours, ours_error = credits(lambda k: -game.worth(k).loss, game.size, options.permutations, settings.seed)
    theirs, theirs_error = credits(lambda k: -reference.worth(k).loss, game.size, options.permutations, settings.seed)
    unit = adapter.task.loss_name
    yield _with_interval(
        partial(Result, probe="utilisation", source=SOURCE),
        "utilisation.prior_loss",
        reference.constant().loss,
        settings,
        "loss of the best constant prediction: the most any readout can gain",
        unit,
    )
    for i, m in enumerate(features.modalities):
        make = partial(Result, probe="utilisation", modality=m, source=SOURCE)
        judged = partial(make, note=evidence[m])
        credit, due = ours[i], theirs[i]
        error, due_error = float(ours_error[i, 0]), float(theirs_error[i, 0])
        yield make(
            name="utilisation.credit",
            value=float(credit[0]),
            interval=ends(float(credit[0]), credit[1:], error, settings.level),
            unit=unit,
            definition="Shapley credit the model gives the modality; worth: minus the task loss over subsets",
        )
        yield _share(make, credit, ours.sum(0), error, settings)
        yield _with_interval(
            judged, "utilisation.reference_credit", due, settings, f"Shapley credit in the {BALANCED}", unit, due_error
        )
        yield _ratio(judged, credit, due, (error, due_error), settings)
        gain = reference.constant().loss - reference.alone(m).loss
        what = "loss of the best constant prediction minus loss of the modality's best readout alone"
        yield _with_interval(judged, "utilisation.alone_gain", gain, settings, what, unit)
        alone = reference.alone(m).metric
        metric = adapter.task.metric_name
        yield _with_interval(judged, "utilisation.alone_metric", alone, settings, f"{metric} of that readout", metric)
        yield from _costs(make, m, adapter, features, reference, game, settings)


def _with_interval(
    make: partial[Result],
    name: str,
    values: Tensor,
    settings: Settings,
    definition: str,
    unit: str,
    error: float = 0.0,
) -> Result:
    """A value and its leave-out values (1 + G,) as a result; ``error``: standard error of sampled orders."""
    return make(
        name=name,
        value=float(values[0]),
        interval=ends(float(values[0]), values[1:], error, settings.level),
        unit=unit,
        definition=definition,
    )


def _share(make: partial[Result], credit: Tensor, total: Tensor, error: float, settings: Settings) -> Result:
    name, what = "utilisation.share", "the modality's part of the sum of all credits in the model"
    if float(total.min()) <= 0:
        reason = "the model is, at least on some groups of examples, no better than without inputs"
        return make(name=name, definition=what, skipped=reason)
    # The sum itself is exact in sampled orders, too.
    return _with_interval(make, name, credit / total, settings, what, "share", error / float(total[0]))


def _ratio(
    make: partial[Result], credit: Tensor, due: Tensor, errors: tuple[float, float], settings: Settings
) -> Result:
    definition = f"credit in the model divided by credit in the balanced reference, not below 0; {BALANCED}"
    if float(due.min()) <= 0:
        reason = (
            "the balanced reference gives the modality no credit that stays above 0 whichever examples are left out"
        )
        return make(name="utilisation.ratio", definition=definition, skipped=reason)
    ratio = credit / due
    value = max(0.0, float(ratio[0]))
    error = math.hypot(errors[0], float(ratio[0]) * errors[1]) / float(due[0])
    low, high = ends(float(ratio[0]), ratio[1:], error, settings.level)
    return make(
        name="utilisation.ratio",
        value=value,
        interval=(min(value, max(0.0, low)), max(value, high)),
        unit="ratio",
        definition=definition,
    )


def _best_readouts(
    adapter: Adapter, features: Features, settings: Settings
) -> tuple[dict[str, Unimodal], dict[str, str]]:
    """Per modality the better, on held-out examples, of the prefix and the encoder trained alone; and which."""
    made = trained_alone(adapter, features, settings.of("prefix_gap", PrefixGapOptions), settings)
    chosen, evidence = {}, {}
    for m in features.modalities:
        chosen[m] = prefix(adapter, features, m)
        evidence[m] = "readout: linear evaluation of the checkpoint's own encoder"
        if made is not None and m in made.trained:
            evidence[m] += ", better on held-out examples than the encoder trained alone"
            if made.trained[m].validation_loss < chosen[m].validation_loss:
                chosen[m] = made.trained[m]
                evidence[m] = f"readout: the encoder trained alone ({made.described[m]})"
        elif made is not None:
            evidence[m] += f" (no encoder trained alone: {made.skipped[m]})"
        else:
            evidence[m] += " (profile quick trains no encoders)"
    return chosen, evidence


def _costs(
    make: partial[Result],
    modality: str,
    adapter: Adapter,
    features: Features,
    reference: Reference,
    game: Coalitions,
    settings: Settings,
) -> Iterator[Result]:
    """What adding the modality's evidence to the model's own prediction gains: as it is, and without another one."""
    task, at = adapter.task, fold(adapter, features)
    held = coalitions(adapter, at.held, len(game.donors), settings.seed, settings.progress)
    how = (
        f"{task.metric_name} of the model's own prediction with the modality's best readout added, minus that without it; "
        "weights of both fitted on held-out examples"
    )
    if at.held is at.train:
        make = partial(
            make, note="no val split: weights fitted on examples the model trained on, so costs may read low"
        )
    for i, other in enumerate(features.modalities):
        mask = game.full if other == modality else game.full & ~(1 << i)
        model, chosen_on = game.worth(mask).expected, held.worth(mask).expected[at.choose]
        with_it, without = (
            leave_out_metric(task, expected, features.targets, features.groups)
            for expected in (reference.added(modality, model, chosen_on), reference.added(None, model, chosen_on))
        )
        if other == modality:
            yield _with_interval(make, "utilisation.costs_now", with_it - without, settings, how, task.metric_name)
        else:
            name, absent = (
                "utilisation.costs_if_missing",
                f"{how}; the other modality absent from the model's prediction",
            )
            one = partial(make, versus=other)
            yield _with_interval(one, name, with_it - without, settings, absent, task.metric_name)
