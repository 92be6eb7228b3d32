"""prefix_gap: each encoder as multimodal training left it, against the same encoder trained alone."""

from __future__ import annotations

import math
from collections.abc import Iterator

from collapsekit.adapters.base import Adapter
from collapsekit.context import Settings
from collapsekit.features.features import Features
from collapsekit.measures import LOSS, METRIC, Measure, declare
from collapsekit.readouts.linear import UnimodalReadout
from collapsekit.readouts.unimodal import Baselines, Plan, UnimodalOptions
from collapsekit.registry import probe
from collapsekit.report.diagnosis import Result
from collapsekit.session.measured import baselines, multimodal_prefix
from collapsekit.stats.inference.jackknife import interval
from collapsekit.stats.inference.leave_out import leave_out_means
from collapsekit.tasks.scoring import leave_out_metric

SOURCE = "Chaudhuri et al. 2025, Section 4.1 and Figure 4"
READ_OUT = "linear evaluation fitted on train, its penalty chosen on held-out examples"
ALONE = "the same encoder trained alone"
GAP = f"loss of the encoder's features in the checkpoint minus loss of {ALONE}, both by {READ_OUT}"
PREFIX_IS = f"of the encoder's features in the checkpoint; {READ_OUT}"
BASELINE_IS = f"of {ALONE}; {READ_OUT}"

PREFIX_METRIC = declare(
    Measure(
        "prefix_gap.prefix_metric",
        definition="{metric} " + PREFIX_IS,
        source=SOURCE,
        unit=METRIC,
        better="higher",
        why="task metrics are written so that higher is better",
        figure="bars",
    )
)
PREFIX_LOSS = declare(
    Measure(
        "prefix_gap.prefix_loss",
        definition="{loss} " + PREFIX_IS,
        source=SOURCE,
        unit=LOSS,
        better="lower",
        why="it is the task loss",
    )
)
BASELINE_METRIC = declare(
    Measure(
        "prefix_gap.baseline_metric",
        definition="{metric} " + BASELINE_IS,
        source=SOURCE,
        unit=METRIC,
        cannot="it is of an encoder trained alone, so it says nothing of the model",
        figure="bars",
    )
)
BASELINE_LOSS = declare(
    Measure(
        "prefix_gap.baseline_loss",
        definition="{loss} " + BASELINE_IS,
        source=SOURCE,
        unit=LOSS,
        cannot="it is of an encoder trained alone, so it says nothing of the model",
    )
)
GAP_OF = declare(Measure("prefix_gap.gap", definition=GAP, source=SOURCE, unit=LOSS, headline="each", figure="bars"))


class PrefixGapOptions(UnimodalOptions):
    """Options of the prefix_gap probe; utilisation takes the same baselines."""


def trained_alone(
    adapter: Adapter, features: Features, options: PrefixGapOptions, settings: Settings
) -> Baselines | None:
    """The baselines these options ask for; None in the quick profile, which trains no encoders."""
    plan = plan_of(options, settings)
    return None if plan is None else baselines(adapter, features, plan, settings)


def plan_of(options: PrefixGapOptions, settings: Settings) -> Plan | None:
    """How encoders are trained; None in the quick profile."""
    if settings.profile == "quick":
        return None
    budget = math.inf if settings.profile == "full" else options.budget
    return Plan(options.start, options.rates, options.epochs, budget)


@probe(
    "prefix_gap",
    title="Prefix gap",
    place=30,
    summary="linear evaluation of each encoder as the model has it, against the same encoder trained alone",
    definition=GAP,
    source=SOURCE,
    cannot="a gap shows an encoder held back by joint training; an ignored encoder may have none",
    options=PrefixGapOptions,
    trains="models",
)
def run(adapter: Adapter, features: Features, *, settings: Settings) -> Iterator[Result]:
    options = settings.own(PrefixGapOptions)
    left = {m: multimodal_prefix(adapter, features, m) for m in features.modalities}
    made = trained_alone(adapter, features, options, settings)
    for m in features.modalities:
        yield from _pair((PREFIX_LOSS, PREFIX_METRIC), m, left[m], adapter, features, settings)
        if made is None or m not in made.trained:
            reason = "profile quick trains no encoders" if made is None else made.skipped[m]
            for measure in (BASELINE_LOSS, BASELINE_METRIC, GAP_OF):
                yield measure.fill(adapter.task).skipped(reason, modality=m)
            continue
        alone = made.trained[m]
        note = "; ".join(filter(None, [made.described[m], made.note]))
        yield from _pair((BASELINE_LOSS, BASELINE_METRIC), m, alone, adapter, features, settings, note)
        task, groups = adapter.task, features.groups
        gap = leave_out_means(
            task.loss(left[m].expected, features.targets) - task.loss(alone.expected, features.targets), groups
        )
        span = interval(float(gap[0]), gap[1:].tolist(), settings.level)
        yield GAP_OF.fill(task).result(float(gap[0]), span, modality=m, note=note)


def _pair(
    measures: tuple[Measure, Measure],
    modality: str,
    readout: UnimodalReadout,
    adapter: Adapter,
    features: Features,
    settings: Settings,
    note: str | None = None,
) -> Iterator[Result]:
    """Loss and metric of one readout, with intervals over examples."""
    task = adapter.task
    loss = leave_out_means(task.loss(readout.expected, features.targets), features.groups)
    metric = leave_out_metric(task, readout.expected, features.targets, features.groups)
    chosen = "; ".join(filter(None, [f"penalty chosen: {readout.l2:g}", note]))
    for measure, values in zip(measures, (loss, metric), strict=True):
        span = interval(float(values[0]), values[1:].tolist(), settings.level)
        yield measure.fill(task).result(float(values[0]), span, modality=modality, note=chosen)
