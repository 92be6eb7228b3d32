"""rank_sweep: what upweighting a modality before fusion does to ranks, task and similarity."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice, pairwise
from typing import Literal

import torch
from pydantic import Field

from collapsekit.adapters.base import Prediction
from collapsekit.distributed.process_group import current
from collapsekit.errors import NumericsError
from collapsekit.features.features import Features
from collapsekit.interventions.edits import TRIED, Edit
from collapsekit.interventions.replay import predict, predict_many
from collapsekit.measures import LOSS, METRIC, Finding, Measure, Panel, Picture, Quantity, declare
from collapsekit.probes._shared import (
    CKA_SOURCE,
    SCALED,
    SweepOptions,
    cost_of_swept,
    estimate,
    metric_count,
    need_features,
    need_mixed,
    swept_modalities,
)
from collapsekit.readouts.fit import Recipe, rows_of
from collapsekit.readouts.fit_stacked import retrained_fusions
from collapsekit.registry import probe
from collapsekit.report.diagnosis import Curve, Result
from collapsekit.session.costs.cost import Cost
from collapsekit.session.costs.preview import Preview
from collapsekit.session.session import Session
from collapsekit.stats.inference.leave_out import leave_out_means
from collapsekit.stats.linalg.cka import sides_leave_out
from collapsekit.stats.linalg.ranks import RANKS, rank_functions, rank_interval, small_n
from collapsekit.stats.linalg.spectrum import spectra
from collapsekit.tasks.base import Task
from collapsekit.tasks.scoring import leave_out_metric

PAPER = "Chaudhuri et al. 2025, Section 4.2 and Figure 5"
STACKED = "fusions that can be stacked are trained all at once, until the held-out loss no longer falls"
TRAINED = "fusion and head trained anew at each β on this checkpoint's encoders, " + SCALED
CROSSING = (
    "smallest β above 1 at which the fused representation's numerical rank has fallen to that of the unimodal path, "
    "linear between the values of β; its interval is the step it lies in"
)
UNIMODAL_SOURCE = "after Chaudhuri et al. 2025, Section 4.2, where the unimodal rank is of an encoder trained alone"
CKA = "debiased linear CKA of the modality's features with the fused representation"

EFFECTIVE_RANK = declare(
    Measure(
        "rank_sweep.effective_rank",
        definition=RANKS["effective_rank"][0] + "; {how}",
        source=RANKS["effective_rank"][1],
        unit="dimensions",
        bounds=(0.0, None),
        title="Effective rank as a modality is upweighted (β)",
        figure="lines",
        side_by_side=True,
    )
)
NUMERICAL_RANK = declare(
    Measure(
        "rank_sweep.numerical_rank",
        definition=RANKS["numerical_rank"][0] + "; {how}",
        source=RANKS["numerical_rank"][1],
        unit="dimensions",
        bounds=(0.0, None),
        title="Numerical rank as a modality is upweighted (β)",
        figure="lines",
        side_by_side=True,
    )
)
STABLE_RANK = declare(
    Measure(
        "rank_sweep.stable_rank",
        definition=RANKS["stable_rank"][0] + "; {how}",
        source=RANKS["stable_rank"][1],
        unit="dimensions",
        bounds=(0.0, None),
        figure="lines",
        side_by_side=True,
    )
)
PARTICIPATION_RATIO = declare(
    Measure(
        "rank_sweep.participation_ratio",
        definition=RANKS["participation_ratio"][0] + "; {how}",
        source=RANKS["participation_ratio"][1],
        unit="dimensions",
        bounds=(0.0, None),
        figure="lines",
        side_by_side=True,
    )
)
LOSS_OVER_BETA = declare(
    Measure(
        "rank_sweep.loss",
        definition="{loss}; {how}",
        source=PAPER,
        unit=LOSS,
        bounds="unit",
        figure="lines",
        side_by_side=True,
    )
)
METRIC_OVER_BETA = declare(
    Measure(
        "rank_sweep.metric",
        definition="{metric}; {how}",
        source=PAPER,
        unit=METRIC,
        bounds="unit",
        title="Task metric as a modality is upweighted (β)",
        figure="lines",
        side_by_side=True,
    )
)
CKA_OVER_BETA = declare(
    Measure(
        "rank_sweep.cka",
        definition=CKA + "; {how}",
        source=CKA_SOURCE,
        unit="CKA",
        bounds=(-1.0, 1.0),
        figure="lines",
        side_by_side=True,
    )
)
UNIMODAL_RANK = declare(
    Measure(
        "rank_sweep.unimodal_rank",
        definition=RANKS["numerical_rank"][0] + ", {how}",
        source=UNIMODAL_SOURCE,
        unit="dimensions",
        bounds=(0.0, None),
    )
)
CRITICAL_BETA = declare(Measure("rank_sweep.critical_beta", definition=CROSSING, source=UNIMODAL_SOURCE, unit="β"))
OF_RANK = {
    "effective_rank": EFFECTIVE_RANK,
    "numerical_rank": NUMERICAL_RANK,
    "stable_rank": STABLE_RANK,
    "participation_ratio": PARTICIPATION_RATIO,
}


PICTURES = (
    Picture(
        "beta_curves",
        "Rank, task and CKA as a modality is upweighted",
        (
            Panel("dimensions", {"": "rank_sweep.effective_rank"}, title="Effective rank", along="β"),
            Panel(
                "dimensions",
                {"": "rank_sweep.numerical_rank"},
                title="Numerical rank",
                along="β",
                guides={"rank_sweep.unimodal_rank": "y", "rank_sweep.critical_beta": "x"},
            ),
            Panel("dimensions", {"": "rank_sweep.stable_rank"}, title="Stable rank", along="β"),
            Panel("dimensions", {"": "rank_sweep.participation_ratio"}, title="Participation ratio", along="β"),
            Panel("{metric}", {"": "rank_sweep.metric"}, title="Task: {metric}", along="β"),
            Panel("loss ({unit})", {"": "rank_sweep.loss"}, title="Task: loss", along="β", unless="rank_sweep.metric"),
            Panel("CKA", {"": "rank_sweep.cka"}, title="CKA with the swept modality", along="β"),
        ),
        (
            Finding(
                "change",
                "rank_sweep.numerical_rank",
                {
                    "above": "Multiplied by {end}, {modality} raises the numerical rank: {value}, then {other}.",
                    "below": "Multiplied by {end}, {modality} lowers the numerical rank: {value}, then {other}.",
                    "unclear": "Multiplied by {end}, {modality} does not clearly change the numerical rank: {value}, "
                    "then {other}.",
                },
                begin=1.0,
            ),
            Finding(
                "change",
                "rank_sweep.numerical_rank",
                {
                    "above": "From β = {begin} to {end}, {modality} raises the numerical rank: {value}, then {other}.",
                    "below": "From β = {begin} to {end}, {modality} lowers the numerical rank: {value}, then {other}.",
                    "unclear": "From β = {begin} to {end}, {modality} does not clearly change the numerical rank: {value}, "
                    "then {other}.",
                },
            ),
        ),
        about="rank_sweep.numerical_rank",
    ),
)


class RankSweepOptions(SweepOptions):
    """Options of the rank_sweep probe."""

    mode: Literal["scale", "train"] = Field(default="scale", description="scale features, or retrain the fusion too")
    epochs: int = Field(default=40, gt=0, description="at most so many epochs a β in train mode")
    rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False, description="learning rate in train mode")
    rtol: float = Field(default=1e-3, gt=0, lt=1, description="tolerance of the numerical rank, relative to σmax")


# At one β: every number by its name and, where it is about one, the modality; with each group left out.
_Point = dict[tuple[str, str | None], tuple[float, list[float]]]


def estimate_cost(preview: Preview) -> Cost:
    """Cost finding the least used modality, a replay for each β and one for the modality alone; in train mode also the
    fusions that are trained."""
    options, features, n = preview.options_of("rank_sweep", RankSweepOptions), preview.features, preview.size
    if features.concatenated or n < 2 * features.fused.shape[1]:
        return Cost()
    chosen, cost = cost_of_swept(preview, options)
    asked = chosen * (len(options.betas) + 1)
    if options.mode == "scale":
        return cost + preview.replayed(asked, together=True)
    cost += preview.fit_split()
    if preview.adapter.config.model.factory is None:
        return cost
    at, runs = preview.fit_sizes, asked + chosen  # all at once; where that does not work out, each by itself again
    rows = runs * (options.epochs + 2) * (at.fit + at.choose)
    rows += asked * min(TRIED, n) * (6 + 5 * len(features.inputs))  # which of them each new fusion reads
    trained = preview.fitted(runs, options.epochs) + Cost(replays=rows, gradients=runs * options.epochs * at.fit)
    return cost + trained.at_most(STACKED) + Cost(replays=asked * n)


@probe(
    "rank_sweep",
    title="Rank and task as a modality is upweighted (β)",
    place=40,
    pictures=PICTURES,
    summary="ranks, task and similarity of the fused representation as one modality is upweighted by β",
    definition="ranks of the fused representation over β; " + SCALED,
    source=PAPER,
    cannot="the paper does not define β; a critical β alone does not make a collapse",
    options=RankSweepOptions,
    cost=estimate_cost,
)
def run(session: Session) -> Iterator[Result]:
    """Follow ranks, task and similarity of the fused representation as one modality is upweighted before fusion.

    The paper does not define its β: here it multiplies the modality's features (after Chaudhuri et al. 2025, Section 4.2
    and Figure 5). In train mode fusion and head are trained anew at each β.

    Yields:
        By upweighted modality: curves over β of four ranks, loss, metric and the CKA with every modality's features; the
        rank of what the modality alone makes of the fusion; and the β at which the sweep falls to it.
    """
    options, features = session.options_of("rank_sweep", RankSweepOptions), session.features
    need_mixed(session)
    n, d = features.fused.shape
    if n < 2 * d:
        raise NumericsError(f"needs at least 2·d = {2 * d} examples for d = {d} fused dimensions, found {n}")
    swept = swept_modalities(session, options)
    need_features(session, *swept)
    for modality in swept:
        yield from _sweep(session, modality, options)


def _sweep(session: Session, modality: str, options: RankSweepOptions) -> Iterator[Result]:
    task, features = session.task, session.features
    predictions = _predictions(session, modality, options)
    points = []
    for i, prediction in enumerate(islice(predictions, len(options.betas))):
        points.append(_measure(task, features, prediction, options))
        session.progress.step(f"β sweep of {modality}", i + 1, len(options.betas))
    how = SCALED if options.mode == "scale" else TRAINED
    make = partial(_curve, session, modality, points, options)
    for name, measure in OF_RANK.items():
        yield make(name, None, measure.fill(rtol=options.rtol, how=how))
    yield make("loss", None, LOSS_OVER_BETA.fill(task, how=how))
    yield make("metric", None, METRIC_OVER_BETA.fill(task, how=how))
    for other in features.modalities:
        yield make("cka", other, CKA_OVER_BETA.fill(how=how))
    alone = _measure(task, features, next(predictions), options)
    yield from _unimodal_path(features, modality, options, session.level, points, alone)


def _predictions(session: Session, modality: str, options: RankSweepOptions) -> Iterator[Prediction]:
    """What fusion and head make of the modality's features times each β, in train mode new ones trained on them; and last
    of the modality alone, the others held at their mean, in train mode at 0."""
    adapter, features = session.adapter, session.features
    others = [m for m in features.modalities if m != modality]
    if options.mode == "scale":
        asked = [Edit(scale={modality: beta}) for beta in options.betas]
        yield from predict_many(adapter, features, [*asked, Edit(hold=others)])
        return
    factors = [*({modality: beta} for beta in options.betas), dict.fromkeys(others, 0.0)]
    recipe = Recipe(rate=options.rate, epochs=options.epochs, seed=session.seed)
    trained = retrained_fusions(adapter, session.fit_split, factors, recipe, session.progress)
    if trained is None:
        raise NumericsError("rank_sweep.mode=train needs model.factory, to build the fusion afresh")
    # Training is in full precision, so what the new fusion reads has to be, too.
    full = rows_of(features, torch.arange(len(features)), full=True)[0]
    for factor, fusion in zip(factors, trained, strict=True):
        yield predict(fusion, replace(features, recorded=full), scale=factor)


def _measure(task: Task, features: Features, result: Prediction, options: RankSweepOptions) -> _Point:
    """Ranks, task and similarity of one prediction; what it has none of (a constant has no rank) is left out."""
    groups = features.groups
    point: _Point = {}
    if not bool(torch.isfinite(result.fused).all() and torch.isfinite(result.outputs).all()):
        return point
    expected = task.expect(result.outputs)
    for name, values in (
        ("loss", leave_out_means(task.loss(expected, features.targets), groups)),
        ("metric", leave_out_metric(task, expected, features.targets, groups)),
    ):
        point[name, None] = float(values[0]), values[1:].tolist()
    whole, left = features.moments(result.fused)
    sigma, *out = spectra([whole, *left], result.fused.shape[1])
    for name, rank in rank_functions(options.rtol).items():
        with contextlib.suppress(NumericsError):
            point[name, None] = rank(sigma), [rank(s) for s in out]
    with contextlib.suppress(NumericsError):
        fused = features.side_of(result.fused)
        for m in features.modalities:
            with contextlib.suppress(NumericsError):
                point["cka", m] = sides_leave_out(features.side(m), fused, current().map)
    return point


def _curve(
    session: Session,
    modality: str,
    points: list[_Point],
    options: RankSweepOptions,
    name: str,
    versus: str | None,
    quantity: Quantity,
) -> Result:
    """One number over the values of β at which it could be had."""
    (n, d), level = session.features.fused.shape, session.level
    found = [(beta, p[name, versus]) for beta, p in zip(options.betas, points, strict=True) if (name, versus) in p]
    if not found:
        reason = "the fused representation or the features are constant or not finite at every β"
        return quantity.skipped(reason, modality=modality, versus=versus, unit=True)
    if name in RANKS:
        ends = [rank_interval(full, out, d, level) for _, (full, out) in found]
    else:
        count = metric_count(session) if name == "metric" else None
        values = (torch.tensor([full, *out], dtype=torch.float64) for _, (full, out) in found)
        ends = [estimate(v, level, quantity.bounds, count)[1] for v in values]
    had = [beta for beta, _ in found]
    lost = [f"{beta:g}" for beta in options.betas if beta not in had]
    notes = [small_n(n, d) if name in RANKS else None]
    notes.append(f"not to be had at β = {', '.join(lost)}: constant or not finite there" if lost else None)
    curve = Curve(
        x=tuple(had),
        y=tuple(full for _, (full, _) in found),
        lower=tuple(low for low, _ in ends),
        upper=tuple(high for _, high in ends),
        x_label="β",
        y_label=name.replace("_", " ") if name in RANKS else str(quantity.unit),
    )
    return quantity.curve(curve, modality=modality, versus=versus, note="; ".join(filter(None, notes)) or None)


def _unimodal_path(
    features: Features,
    modality: str,
    options: RankSweepOptions,
    level: float,
    points: list[_Point],
    point: _Point,
) -> Iterator[Result]:
    """Rank of what the modality alone makes of the fusion (``point``), and the β at which the sweep falls to it."""
    if options.mode == "scale":
        how = "the other modalities' features held at their mean"
    else:
        how = "fusion and head trained anew with the other modalities' features at 0"
    own = UNIMODAL_RANK.fill(rtol=options.rtol, how=how)
    if ("numerical_rank", None) not in point:
        reason = "the fused representation does not vary with this modality alone"
        yield own.skipped(reason, modality=modality, unit=True)
        yield CRITICAL_BETA.skipped(reason, modality=modality)
        return
    floor, out = point["numerical_rank", None]
    yield own.result(floor, rank_interval(floor, out, features.fused.shape[1], level), modality=modality)
    had = [
        (beta, p["numerical_rank", None][0])
        for beta, p in zip(options.betas, points, strict=True)
        if ("numerical_rank", None) in p
    ]
    try:
        value, step = critical_beta(tuple(b for b, _ in had), [r for _, r in had], floor)
    except NumericsError as e:
        yield CRITICAL_BETA.skipped(str(e), modality=modality)
    else:
        yield CRITICAL_BETA.result(value, step, modality=modality)


def critical_beta(betas: tuple[float, ...], ranks: list[float], floor: float) -> tuple[float, tuple[float, float]]:
    """Find where ``ranks`` over ascending ``betas`` fall to ``floor`` beyond β = 1.

    Args:
        betas: Values of β, ascending, as many as ``ranks``.
        ranks: The rank at each β.
        floor: The rank of the unimodal path.

    Returns:
        The β, by a straight line within the step that holds it, and the two ends of that step.

    Raises:
        NumericsError: Where fewer than two β from 1 on were swept, where the ranks start at or under ``floor``, and
            where they never fall to it; it says which.
    """
    above = [(b, r) for b, r in zip(betas, ranks, strict=True) if b >= 1]
    if len(above) < 2:
        raise NumericsError("fewer than two values of β from 1 on were swept")
    first, last = above[0], above[-1]
    if first[1] <= floor:
        raise NumericsError(
            f"the rank is at or under that of the unimodal path ({floor:g}) already at β = {first[0]:g}"
        )
    for (b0, r0), (b1, r1) in pairwise(above):
        if r0 > floor >= r1:
            return b0 + (b1 - b0) * (r0 - floor) / (r0 - r1), (b0, b1)
    raise NumericsError(f"the rank stays above that of the unimodal path ({floor:g}) up to β = {last[0]:g}")
