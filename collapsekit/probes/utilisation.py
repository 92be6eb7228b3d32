"""utilisation: the credit the model gives a modality, against what a balanced reference gives it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import Tensor

from collapsekit.adapter.base import Adapter
from collapsekit.features import Features
from collapsekit.probes.prefix_gap import PrefixGapOptions, trained_alone
from collapsekit.probes.reliance import RelianceOptions, ends
from collapsekit.readout import Unimodal, fold, prefix
from collapsekit.reference import Reference, make_reference
from collapsekit.registry import probe
from collapsekit.replay import Coalitions, coalitions, credits, leave_out_metric
from collapsekit.report import Result
from collapsekit.settings import Settings
from collapsekit.stats.jackknife import interval

BALANCED = (
    "balanced reference: late fusion of every modality's best unimodal readout, evidence added in log-probability (or "
    "value) space, its weight for each subset chosen on held-out examples"
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
    reference = make_reference(adapter, features, readouts)
    game = coalitions(adapter, features, options.draws, settings.seed, settings.progress)
    ours, ours_error = credits(lambda k: -game.worth(k).loss, game.size, options.permutations, settings.seed)
    theirs, _ = credits(lambda k: -reference.worth(k).loss, game.size, options.permutations, settings.seed)
    unit = adapter.task.loss_name
    total = float(ours[:, 0].sum())
    yield _with_interval(
        partial(Result, probe="utilisation", source=SOURCE),
        "utilisation.prior_loss",
        reference.worth(0).loss,
        settings,
        "loss of the best constant prediction: the most any readout can gain",
        unit,
    )
    for i, m in enumerate(features.modalities):
        make = partial(Result, probe="utilisation", modality=m, source=SOURCE)
        judged = partial(make, note=evidence[m])
        credit, due = ours[i], theirs[i]
        yield make(
            name="utilisation.credit",
            value=float(credit[0]),
            interval=ends(float(credit[0]), credit[1:], float(ours_error[i, 0]), settings.level),
            unit=unit,
            definition="Shapley credit the model gives the modality; worth: minus the task loss over subsets",
        )
        what = "the modality's part of the sum of all credits in the model"
        if total <= 0:
            yield make(name="utilisation.share", definition=what, skipped="the model is no better than without inputs")
        else:
            yield _with_interval(make, "utilisation.share", credit / ours.sum(0), settings, what, "share")
        yield _with_interval(
            judged, "utilisation.reference_credit", due, settings, f"Shapley credit in the {BALANCED}", unit
        )
        yield _ratio(judged, credit, due, settings)
        gain = reference.worth(0).loss - reference.alone(m).loss
        what = "loss of the best constant prediction minus loss of the modality's best readout alone"
        yield _with_interval(judged, "utilisation.alone_gain", gain, settings, what, unit)
        alone = reference.alone(m).metric
        metric = adapter.task.metric_name
        yield _with_interval(judged, "utilisation.alone_metric", alone, settings, f"{metric} of that readout", metric)
        yield from _costs(make, m, adapter, features, reference, game, settings)


def _with_interval(
    make: partial[Result], name: str, values: Tensor, settings: Settings, definition: str, unit: str
) -> Result:
    return make(
        name=name,
        value=float(values[0]),
        interval=interval(float(values[0]), values[1:].tolist(), settings.level),
        unit=unit,
        definition=definition,
    )


def _ratio(make: partial[Result], credit: Tensor, due: Tensor, settings: Settings) -> Result:
    definition = "credit in the model divided by credit in the balanced reference, not below 0"
    if float(due.min()) <= 0:
        reason = "the balanced reference gives the modality no credit to compare with: it says nothing alone"
        return make(name="utilisation.ratio", definition=definition, skipped=reason)
    ratio = credit / due
    low, high = interval(float(ratio[0]), ratio[1:].tolist(), settings.level)
    value = max(0.0, float(ratio[0]))
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
        f"{task.metric_name} gained by adding the modality's best readout to the model's own prediction, both weights "
        "fitted on held-out examples"
    )
    for i, other in enumerate(features.modalities):
        mask = game.full if other == modality else game.full & ~(1 << i)
        now = reference.added(modality, game.worth(mask).expected, held.worth(mask).expected[at.choose])
        gain = leave_out_metric(task, now, features.targets, features.groups) - game.worth(mask).metric
        if other == modality:
            yield _with_interval(make, "utilisation.costs_now", gain, settings, how, task.metric_name)
        else:
            name, absent = "utilisation.costs_if_missing", f"{how}; the other modality absent"
            yield _with_interval(partial(make, versus=other), name, gain, settings, absent, task.metric_name)
