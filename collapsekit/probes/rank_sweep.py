"""rank_sweep: what upweighting a modality before fusion does to ranks, task and similarity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

from pydantic import Field, field_validator

from collapsekit.adapter.base import Adapter, Prediction
from collapsekit.errors import NumericsError, did_you_mean
from collapsekit.features import Features
from collapsekit.probes.reliance import RelianceOptions
from collapsekit.probes.spectrum import CONCATENATED, RANKS, rank_functions, small_n
from collapsekit.readout import fold
from collapsekit.registry import Options, probe
from collapsekit.replay import coalitions, credits, leave_out_means, leave_out_metric, predict
from collapsekit.report import Curve, Result
from collapsekit.settings import Settings
from collapsekit.stats.cka import cka_leave_out
from collapsekit.stats.jackknife import interval
from collapsekit.stats.moments import grouped_moments, leave_one_out, merge_all
from collapsekit.stats.spectrum import singular_values
from collapsekit.training import Recipe, retrained_fusion

PAPER = "Chaudhuri et al. 2025, Section 4.2 and Figure 5"
SCALED = "the modality's features multiplied by β before fusion, β = 1 being the model as it is"
TRAINED = "fusion and head trained anew at each β on this checkpoint's encoders, " + SCALED
CKA = "debiased linear CKA of the modality's features with the fused representation"
CKA_SOURCE = "Kornblith et al. 2019; unbiased HSIC of Song et al. 2012; Figure 5 (b, d) of Chaudhuri et al. 2025"


class RankSweepOptions(Options):
    """Options of the rank_sweep probe."""

    betas: tuple[float, ...] = Field(default=(0.0, 0.5, 1.0, 2.0, 4.0, 6.0, 8.0), description="values of β")
    modality: str | None = Field(default=None, description="which to upweight; 'all'; default: the least used")
    mode: Literal["scale", "train"] = Field(default="scale", description="scale features, or retrain the fusion too")
    epochs: int = Field(default=40, gt=0, description="at most so many epochs a β in train mode")
    rate: float = Field(default=1e-3, gt=0, description="learning rate in train mode")
    rtol: float = Field(default=1e-3, gt=0, lt=1, description="tolerance of the numerical rank, relative to σmax")

    @field_validator("betas", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return [v for v in value.split(",") if v.strip()] if isinstance(value, str) else value

    @field_validator("betas")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(value) < 2 or min(value) < 0:
            raise ValueError("needs at least two values of β, none negative")
        return tuple(sorted(set(value)))


@dataclass(frozen=True)
class _Point:
    """Value and leave-one-group-out values of every number at one β."""

    numbers: dict[str, tuple[float, list[float]]]
    similarity: dict[str, tuple[float, list[float]]]


@probe(
    "rank_sweep",
    summary="ranks, task and similarity of the fused representation as one modality is upweighted by β",
    definition="ranks of the fused representation over β; " + SCALED,
    source=PAPER,
    cannot="the paper does not define β; a critical β alone does not make a collapse",
    options=RankSweepOptions,
)
def run(adapter: Adapter, features: Features, *, settings: Settings) -> Iterator[Result]:
    options = settings.own(RankSweepOptions)
    if features.concatenated:
        raise NumericsError(CONCATENATED)
    n, d = features.fused.shape
    if n < 2 * d:
        raise NumericsError(f"needs at least 2·d = {2 * d} examples for d = {d} fused dimensions, found {n}")
    for modality in _chosen(adapter, features, options, settings):
        yield from _sweep(adapter, features, modality, options, settings)


def _chosen(adapter: Adapter, features: Features, options: RankSweepOptions, settings: Settings) -> tuple[str, ...]:
    wanted = options.modality
    if wanted == "all":
        return features.modalities
    if wanted is not None:
        if wanted not in features.modalities:
            near = did_you_mean(wanted, features.modalities)
            raise NumericsError(f"rank_sweep.modality {wanted!r} is not a modality of the model{near}")
        return (wanted,)
    asked = settings.of("reliance", RelianceOptions)
    game = coalitions(adapter, features, asked.draws, settings.seed, settings.progress)
    credit, _ = credits(lambda mask: -game.worth(mask).loss, game.size, asked.permutations, settings.seed)
    return (features.modalities[int(credit[:, 0].argmin())],)


def _sweep(
    adapter: Adapter, features: Features, modality: str, options: RankSweepOptions, settings: Settings
) -> Iterator[Result]:
    points = []
    for i, beta in enumerate(options.betas):
        points.append(_at(adapter, features, modality, beta, options, settings))
        settings.progress.step(f"β sweep of {modality}", i + 1, len(options.betas))
    how = SCALED if options.mode == "scale" else TRAINED
    note = small_n(*features.fused.shape)
    make = partial(Result, probe="rank_sweep", modality=modality, note=note)
    definitions = {name: (text.format(rtol=options.rtol), source) for name, (text, source) in RANKS.items()}
    definitions["loss"] = (adapter.task.loss_name, PAPER)
    definitions["metric"] = (adapter.task.metric_name, PAPER)
    for name, (text, source) in definitions.items():
        curve = _curve(options.betas, [p.numbers[name] for p in points], text.split(" (")[0], settings, name in RANKS)
        yield make(name=f"rank_sweep.{name}", curve=curve, definition=f"{text}; {how}", source=source)
    for other in features.modalities:
        if all(other in p.similarity for p in points):
            curve = _curve(options.betas, [p.similarity[other] for p in points], "CKA", settings, False)
            yield make(name="rank_sweep.cka", versus=other, curve=curve, definition=f"{CKA}; {how}", source=CKA_SOURCE)
    yield from _unimodal_path(adapter, features, modality, options, settings, points)


def _at(
    adapter: Adapter, features: Features, modality: str, beta: float, options: RankSweepOptions, settings: Settings
) -> _Point:
    subject = adapter
    if options.mode == "train":
        recipe = Recipe(rate=options.rate, epochs=options.epochs, seed=settings.seed)
        trained = retrained_fusion(adapter, fold(adapter, features), {modality: beta}, recipe)
        if trained is None:
            raise NumericsError("rank_sweep.mode=train needs model.factory, to build the fusion afresh")
        subject = trained
    result = predict(subject, features, scale={modality: beta})
    return _measure(adapter, features, result, options)


def _measure(adapter: Adapter, features: Features, result: Prediction, options: RankSweepOptions) -> _Point:
    groups = features.groups
    count = int(groups.max()) + 1
    numbers: dict[str, tuple[float, list[float]]] = {}
    parts = grouped_moments(result.fused, groups, count)
    full, out = merge_all(parts), leave_one_out(parts)
    for name, rank in rank_functions(options.rtol).items():
        numbers[name] = rank(singular_values(full)), [rank(singular_values(m)) for m in out]
    task = adapter.task
    expected = task.expect(result.outputs)
    for name, values in (
        ("loss", leave_out_means(task.loss(expected, features.targets), groups)),
        ("metric", leave_out_metric(task, expected, features.targets, groups)),
    ):
        numbers[name] = float(values[0]), values[1:].tolist()
    similarity = {}
    for m, x in features.pooled.items():
        try:
            similarity[m] = cka_leave_out(x, result.fused, groups, count)
        except NumericsError:  # constant features have no similarity to anything
            continue
    return _Point(numbers, similarity)


def _curve(
    betas: tuple[float, ...], values: list[tuple[float, list[float]]], label: str, settings: Settings, log: bool
) -> Curve:
    ends = [interval(full, out, settings.level, log=log) for full, out in values]
    return Curve(
        x=betas,
        y=tuple(full for full, _ in values),
        lower=tuple(low for low, _ in ends),
        upper=tuple(high for _, high in ends),
        x_label="β",
        y_label=label,
    )


def _unimodal_path(
    adapter: Adapter,
    features: Features,
    modality: str,
    options: RankSweepOptions,
    settings: Settings,
    points: list[_Point],
) -> Iterator[Result]:
    others = [m for m in features.modalities if m != modality]
    alone = predict(adapter, features, hold=others)
    make = partial(Result, probe="rank_sweep", modality=modality)
    name = "numerical_rank"
    crossing = (
        "smallest β above 1 at which the fused representation's numerical rank is no larger than that of the unimodal "
        "path, linear between the values of β; its interval is the step it lies in"
    )
    try:
        rank, out = _measure(adapter, features, alone, options).numbers[name]
    except NumericsError:
        reason = "the fused representation does not vary with this modality alone"
        yield make(name="rank_sweep.unimodal_rank", definition=RANKS[name][0], source=PAPER, skipped=reason)
        yield make(name="rank_sweep.critical_beta", definition=crossing, source=PAPER, skipped=reason)
        return
    yield make(
        name="rank_sweep.unimodal_rank",
        value=rank,
        interval=interval(rank, out, settings.level, log=True),
        unit="dimensions",
        definition=RANKS[name][0].format(rtol=options.rtol) + ", the other modalities' features held at their mean",
        source=PAPER,
    )
    at = critical_beta(options.betas, [p.numbers[name][0] for p in points], rank)
    if at is None:
        reason = f"the rank stays above that of the unimodal path ({rank:g}) up to β = {max(options.betas):g}"
        yield make(name="rank_sweep.critical_beta", definition=crossing, source=PAPER, skipped=reason)
    else:
        yield make(
            name="rank_sweep.critical_beta",
            value=at[0],
            interval=at[1],
            unit="β",
            definition=crossing,
            source=PAPER,
        )


def critical_beta(
    betas: tuple[float, ...], ranks: list[float], floor: float
) -> tuple[float, tuple[float, float]] | None:
    """Where ``ranks`` over ``betas`` first fall to ``floor`` beyond β = 1, and the step that holds it; else None."""
    above = [(b, r) for b, r in zip(betas, ranks, strict=True) if b >= 1]
    for (b0, r0), (b1, r1) in pairwise(above):
        if r0 > floor >= r1:
            return b0 + (b1 - b0) * (r0 - floor) / (r0 - r1), (b0, b1)
    return None
