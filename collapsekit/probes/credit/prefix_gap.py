"""prefix_gap: each encoder as multimodal training left it, against the same encoder trained alone."""

from __future__ import annotations

from collections.abc import Iterator

from collapsekit.errors import NumericsError
from collapsekit.measures import LOSS, METRIC, Finding, Measure, Panel, Picture, declare
from collapsekit.probes._shared import PREFIX_SOURCE, READ_OUT, estimate, metric_count, need_features
from collapsekit.readouts.linear import UnimodalReadout
from collapsekit.readouts.unimodal import UnimodalOptions
from collapsekit.registry import probe
from collapsekit.report.diagnosis import Result
from collapsekit.session.costs.cost import Cost
from collapsekit.session.costs.preview import Preview
from collapsekit.session.session import Session
from collapsekit.stats.inference.leave_out import leave_out_means
from collapsekit.tasks.scoring import leave_out_metric

ALONE = "the same encoder trained alone"
GAP = f"loss of the encoder's features in the checkpoint minus loss of {ALONE}, both by {READ_OUT}"
PREFIX_IS = f"of the encoder's features in the checkpoint; {READ_OUT}"
BASELINE_IS = f"of {ALONE}; {READ_OUT}"

PREFIX_METRIC = declare(
    Measure(
        "prefix_gap.prefix_metric",
        definition="{metric} " + PREFIX_IS,
        source=PREFIX_SOURCE,
        unit=METRIC,
        bounds="unit",
        better="higher",
        why="task metrics are written so that higher is better",
        figure="bars",
    )
)
PREFIX_LOSS = declare(
    Measure(
        "prefix_gap.prefix_loss",
        definition="{loss} " + PREFIX_IS,
        source=PREFIX_SOURCE,
        unit=LOSS,
        bounds="unit",
        better="lower",
        why="it is the task loss",
    )
)
BASELINE_METRIC = declare(
    Measure(
        "prefix_gap.baseline_metric",
        definition="{metric} " + BASELINE_IS,
        source=PREFIX_SOURCE,
        unit=METRIC,
        bounds="unit",
        cannot="it is of an encoder trained alone, so it says nothing of the model",
        figure="bars",
    )
)
BASELINE_LOSS = declare(
    Measure(
        "prefix_gap.baseline_loss",
        definition="{loss} " + BASELINE_IS,
        source=PREFIX_SOURCE,
        unit=LOSS,
        bounds="unit",
        cannot="it is of an encoder trained alone, so it says nothing of the model",
    )
)
GAP_OF = declare(
    Measure("prefix_gap.gap", definition=GAP, source=PREFIX_SOURCE, unit=LOSS, headline="each", figure="bars")
)


PICTURES = (
    Picture(
        "prefix_gap",
        "Prefix gap",
        (
            Panel("gap ({unit})", {"gap": "prefix_gap.gap"}),
            Panel("{metric}", {"prefix": "prefix_gap.prefix_metric", "baseline": "prefix_gap.baseline_metric"}),
        ),
        (
            Finding(
                "beyond",
                "prefix_gap.gap",
                {
                    "clear": "The encoder of {modality} is worse than one trained alone, by {value} {unit}.",
                    "unclear": "No encoder is clearly worse than one trained alone.",
                },
            ),
            Finding(
                "most",
                "prefix_gap.prefix_metric",
                {
                    "clear": "The encoder of {modality} predicts best: {metric} {value}.",
                    "unclear": "It is not clear which encoder predicts best: {metric} {value} of {modality}, {other} of "
                    "{second}.",
                },
            ),
        ),
    ),
)


class PrefixGapOptions(UnimodalOptions):
    """Options of the prefix_gap probe; utilisation takes the same baselines."""


def estimate_cost(preview: Preview) -> Cost:
    """Cost the linear readouts and the encoders trained alone."""
    return preview.prefixes() + preview.trained_alone()


@probe(
    "prefix_gap",
    title="Prefix gap",
    place=30,
    pictures=PICTURES,
    summary="linear evaluation of each encoder as the model has it, against the same encoder trained alone",
    definition=GAP,
    source=PREFIX_SOURCE,
    cannot="a gap shows an encoder held back by joint training; an ignored encoder may have none",
    options=PrefixGapOptions,
    trains="models",
    cost=estimate_cost,
)
def run(session: Session) -> Iterator[Result]:
    """Compare each encoder as multimodal training left it with the same encoder trained alone.

    Both are read out linearly, on training examples, and judged on the diagnosed ones (Chaudhuri et al. 2025,
    Section 4.1 and Figure 4). The quick profile trains no encoder, so only the first is measured there.

    Yields:
        By modality loss and metric of the encoder's features in the checkpoint, both of the encoder trained alone, and
        the gap of the losses.
    """
    prefixes, baselines = session.prefixes, session.trained_alone
    task, targets = session.task, session.features.targets
    for m in session.modalities:
        try:
            need_features(session, m)
        except NumericsError as e:
            for measure in (PREFIX_LOSS, PREFIX_METRIC, BASELINE_LOSS, BASELINE_METRIC, GAP_OF):
                yield measure.fill(task).skipped(str(e), modality=m)
            continue
        yield from _pair((PREFIX_LOSS, PREFIX_METRIC), m, prefixes[m], session)
        if baselines is None or m not in baselines.trained:
            reason = "profile quick trains no encoders" if baselines is None else baselines.skipped[m]
            for measure in (BASELINE_LOSS, BASELINE_METRIC, GAP_OF):
                yield measure.fill(task).skipped(reason, modality=m)
            continue
        alone = baselines.trained[m]
        note = "; ".join(filter(None, [baselines.described[m], baselines.note]))
        yield from _pair((BASELINE_LOSS, BASELINE_METRIC), m, alone, session, note)
        gaps = task.loss(prefixes[m].expected, targets) - task.loss(alone.expected, targets)
        value, span = estimate(leave_out_means(gaps, session.features.groups), session.level)
        yield GAP_OF.fill(task).result(value, span, modality=m, note=note)


def _pair(
    measures: tuple[Measure, Measure],
    modality: str,
    readout: UnimodalReadout,
    session: Session,
    note: str | None = None,
) -> Iterator[Result]:
    """Loss and metric of one readout, with intervals over examples."""
    task, features = session.task, session.features
    loss = leave_out_means(task.loss(readout.expected, features.targets), features.groups)
    metric = leave_out_metric(task, readout.expected, features.targets, features.groups)
    chosen = "; ".join(filter(None, [f"penalty chosen: {readout.l2:g}", note]))
    for measure, values in zip(measures, (loss, metric), strict=True):
        quantity = measure.fill(task)
        value, span = estimate(values, session.level, quantity.bounds, metric_count(session))
        yield quantity.result(value, span, modality=modality, note=chosen)
