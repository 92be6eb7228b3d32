"""missing: the task with modalities absent, in every pattern and at several rates, under each way to fill the gap."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import torch
from pydantic import Field, field_validator
from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.context import Options
from collapsekit.errors import NumericsError, did_you_mean
from collapsekit.features.content_seeds import modality_seeds
from collapsekit.features.features import Features
from collapsekit.interventions.imputation import (
    CLASS_MEAN,
    CONSTANTS,
    FILLS,
    LENT,
    SUBSTITUTION,
    BackgroundSet,
    can_substitute,
    find_neighbours,
    has_split,
    impute,
    make_background_set,
    same_shapes,
)
from collapsekit.interventions.replay import predict
from collapsekit.measures import LOSS, METRIC, Finding, Measure, Panel, Picture, declare
from collapsekit.probes._shared import banded_curve, estimate, metric_count
from collapsekit.registry import probe
from collapsekit.report.diagnosis import Result
from collapsekit.session.costs.cost import Cost
from collapsekit.session.costs.preview import UNITS, Preview
from collapsekit.session.session import Session
from collapsekit.stats.inference.leave_out import leave_out_means
from collapsekit.stats.missing import absence
from collapsekit.tasks.scoring import leave_out_metric

ALL_UP_TO = 5  # modalities; beyond, not every pattern is tried
BEST = "the fill that is best on held-out examples may take fewer replays than `sample`"
BY_MODEL = (*CONSTANTS, *LENT, SUBSTITUTION)  # that one can have where a model is used: among them the best is chosen
PAPER = (0.1, 0.2, 0.3, 0.4, 0.7)  # Chaudhuri et al. 2025, Section 4.4
NO_FILL = "no fill that runs the model and needs no labels was asked for, or could be had"
PATTERNS_SOURCE = "after Chaudhuri et al. 2025, Appendix C.4 and Table 6"
RATES_SOURCE = "after Chaudhuri et al. 2025, Section 4.4 and Table 1; rates also of Table 3"
DROP_SOURCE = "after Chaudhuri et al. 2025, Table 3 (one modality missing at a rate) and Table 6 (fills)"
AT_RATES = (
    "each modality absent from each example with probability equal to the rate, independently, but every example keeps "
    "the one whose random number is largest (absent share: rate - rate^m/m for m modalities); what is absent at one "
    "rate is absent at every higher one"
)

IN_PATTERNS = (
    "with a set of modalities absent from every example ({few} of the proper sets), and their mean; absent modalities "
    "{fill_how}"
)
IN_RATES = f"over the rate at which modalities go missing, and their mean: {AT_RATES}; absent modalities {{fill_how}}"
PATTERNS = declare(
    Measure(
        "missing.patterns.{fill}",
        definition="{metric} " + IN_PATTERNS,
        source=PATTERNS_SOURCE,
        unit=METRIC,
        bounds="unit",
        better="higher",
        why="task metrics are written so that higher is better",
        figure="rows",
        side_by_side=True,
    )
)
PATTERNS_LOSS = declare(
    Measure(
        "missing.patterns_loss.{fill}",
        definition="{loss} " + IN_PATTERNS,
        source=PATTERNS_SOURCE,
        unit=LOSS,
        bounds="unit",
        better="lower",
        why="it is the task loss",
        side_by_side=True,
    )
)
RATES = declare(
    Measure(
        "missing.rates.{fill}",
        definition="{metric} " + IN_RATES,
        source=RATES_SOURCE,
        unit=METRIC,
        bounds="unit",
        better="higher",
        why="task metrics are written so that higher is better",
        title="Task metric as modalities go missing",
        figure="lines",
        side_by_side=True,
    )
)
RATES_LOSS = declare(
    Measure(
        "missing.rates_loss.{fill}",
        definition="{loss} " + IN_RATES,
        source=RATES_SOURCE,
        unit=LOSS,
        bounds="unit",
        better="lower",
        why="it is the task loss",
        side_by_side=True,
    )
)
DROP = declare(
    Measure(
        "missing.drop",
        definition="{metric} of the model minus {metric} with this modality absent from every example; curve: {metric} over "
        "the rate of examples it is absent from; filled in the best of the ways that run the model",
        source=DROP_SOURCE,
        unit=METRIC,
        bounds="difference",
        side_by_side=True,
        figure="bars",
    )
)


PICTURES = (
    Picture(
        "missing",
        "When modalities are missing",
        (
            Panel("{metric} lost without it, best fill", {"": "missing.drop"}),
            Panel("{metric}", {"": "missing.rates.{fill}"}, along="rate at which modalities are missing"),
            Panel("{metric}", {"": "missing.patterns.{fill}"}, along="modalities absent"),
        ),
        (
            Finding(
                "beyond",
                "missing.drop",
                {
                    "clear": "Without {modality}, {metric} falls by {value}, filled in the best way.",
                    "unclear": "Without any one modality, {metric} does not clearly fall, filled in the best way.",
                },
            ),
        ),
    ),
)


class MissingOptions(Options):
    """Options of the missing probe."""

    fills: tuple[str, ...] | None = Field(
        default=None,
        description="of zeros, mean, neighbour, sample, substitution, class_mean (reads labels), late; default: all that "
        "the model has and that need no labels",
    )
    rates: tuple[float, ...] = Field(
        default=(0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.8, 0.9, 0.95),
        description="rates of missing modalities; paper: those of Chaudhuri et al. 2025, Table 1",
    )
    draws: int = Field(default=4, gt=0, description="random examples tried for each; metrics are averaged over them")
    bank: int = Field(default=4096, gt=0, description="at most so many training examples to take from")

    @field_validator("fills")
    @classmethod
    def _known(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is None:
            return None
        for fill in value:
            if fill not in FILLS:
                raise ValueError(f"{fill!r} is not one of {', '.join(FILLS)}{did_you_mean(fill, FILLS)}")
        return tuple(fill for fill in FILLS if fill in value)

    @field_validator("rates", mode="before")
    @classmethod
    def _of_the_paper(cls, value: object) -> object:
        return PAPER if value in ("paper", ["paper"]) else value

    @field_validator("rates")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or not all(0 < rate < 1 for rate in value):
            raise ValueError("needs at least one rate, all above 0 and below 1")
        return tuple(sorted(set(value)))


@dataclass(frozen=True)
class _Study:
    """Examples some of whose modalities go missing, and those that stand in for them."""

    session: Session
    bank: BackgroundSet
    draws: int

    @property
    def features(self) -> Features:
        """The examples."""
        return self.session.features

    def expected(self, fill: str, absent: Tensor) -> Iterator[list[Tensor]]:
        """For each mask of ``absent`` (k, n, modalities) what is predicted, (n, ...) a draw. Raises NumericsError."""
        adapter, task, seed = self.session.adapter, self.session.task, self.session.seed
        if fill == "late":
            late = self.session.late_fusion()
            yield from ([late(mask)] for mask in absent)
            return
        rows = None
        if fill in LENT:
            rows = find_neighbours(self.features, self.bank, fill, absent, self.draws, seed)
        for k, mask in enumerate(absent):
            found = []
            for lent in rows[k] if rows is not None else [None]:
                given = impute(adapter, self.features, self.bank, fill, mask, lent)
                outputs = predict(adapter, given).outputs
                if not bool(torch.isfinite(outputs).all()):
                    raise NumericsError(f"the model's output is not finite with absent modalities filled by {fill!r}")
                found.append(task.expect(outputs))
            yield found

    def scores(self, expected: list[Tensor]) -> Tensor:
        """Metric and loss, over all examples and without each group, mean over draws: (2, 1 + G)."""
        task, y, groups = self.session.task, self.features.targets, self.features.groups
        both = [
            torch.stack([leave_out_metric(task, e, y, groups), leave_out_means(task.loss(e, y), groups)])
            for e in expected
        ]
        return torch.stack(both).mean(0)


def estimate_cost(preview: Preview) -> Cost:
    """Cost a replay for each pattern and rate under each fill; those that choose the best fill on held-out examples; and
    those of what is lost under it."""
    options, adapter, split = preview.options_of("missing", MissingOptions), preview.adapter, preview.features.split
    bank, count, cost = make_background_set(adapter, preview.features, options.bank), len(preview.modalities), Cost()
    if split != "train" and has_split(adapter, "train"):
        cost += preview.encoded("train")
    fills = _fills(adapter, options)
    if "late" in fills:
        with contextlib.suppress(NumericsError):  # it is skipped
            cost += preview.prefixes()
    usable = [f for f in fills if f in BY_MODEL and (f != SUBSTITUTION or can_substitute(adapter))]
    classes = CLASS_MEAN in fills and adapter.task.classes_of(preview.features.outputs) > 1
    tried = [*usable, CLASS_MEAN] if classes else usable
    if tried:
        cost += _filled(preview, tried, options, len(absent_sets(count)) + len(options.rates), split)
    if not usable:
        return cost
    cost += _choosing(preview, bank, usable, options) + preview.replayed(1)
    lent = options.draws if "sample" in usable else 1
    best = preview.replayed(count * lent)
    preview.reckon(scored=count * lent * (len(options.rates) + 2) * preview.size)
    return cost + (best if len(usable) == 1 or lent == 1 else best.at_most(BEST))


def _filled(
    preview: Preview, fills: list[str], options: MissingOptions, masks: int, split: str, part: int | None = None
) -> Cost:
    """The cost of answering under each fill with so many masks of absent modalities."""
    n = preview.size_of(split) if part is None else part
    asked = masks * sum(options.draws if f == "sample" else 1 for f in fills)
    cost = preview.replayed(asked, split, part=part)
    lenders = min(preview.size_of("train" if has_split(preview.adapter, "train") else split), options.bank)
    searches = (
        len(preview.modalities) * (1 if split == preview.features.split else masks) if "neighbour" in fills else 0
    )
    preview.reckon(scored=asked * n, compared=searches * lenders * n)
    if SUBSTITUTION in fills:
        cost += preview.once(("latents", split, part), lambda: Cost(passes=n))
    return cost


def _choosing(preview: Preview, bank: BackgroundSet, fills: list[str], options: MissingOptions) -> Cost:
    """The cost of choosing the best fill for each modality, on the examples that ``_held_out`` takes."""
    features, count = preview.features, len(preview.modalities)
    if bank.own:
        return _filled(preview, fills, options, count, features.split)
    if features.split != "val" and has_split(preview.adapter, "val"):
        cost = preview.encoded("val")
        if same_shapes(features.of("val"), bank.features):
            return cost + _filled(preview, fills, options, count, "val")
    fifth = preview.size_of("train") if features.units is not None else -(-preview.size_of("train") // 5)
    cost = _filled(preview, fills, options, count, "train", fifth)
    return cost if features.units is None else cost.at_most(UNITS)


@probe(
    "missing",
    title="When modalities are missing",
    place=100,
    pictures=PICTURES,
    summary="task metric and loss with modalities absent, by pattern and by rate, under each way to fill the gap",
    definition="task metric and loss with the recorded features of absent modalities replaced",
    source="after Chaudhuri et al. 2025, Tables 1, 3 and 6",
    cannot="what a model trained for missing modalities would do; a small drop may mean that others say the same",
    trains="heads",
    options=MissingOptions,
    cost=estimate_cost,
)
def run(session: Session) -> Iterator[Result]:
    """Measure the task with modalities absent, in every pattern and at several rates, under each way to fill the gap.

    After Chaudhuri et al. 2025, Tables 1, 3 and 6; what a fill is says ``collapsekit.interventions.imputation.FILLS``.

    Yields:
        By fill metric and loss over the sets of absent modalities and over the rate at which they go missing, with their
        means; and by modality the metric lost without it, under the fill that is best for it.
    """
    options, features = session.options_of("missing", MissingOptions), session.features
    study = _Study(session, make_background_set(session.adapter, features, options.bank), options.draws)
    n, m = len(features), len(features.modalities)
    sets = absent_sets(m)
    patterns = torch.tensor([[i in gone for i in range(m)] for gone in sets])
    uniforms = _uniforms(session)
    rates = torch.stack([absence(uniforms, rate) for rate in options.rates])
    masks = torch.cat([patterns[:, None].expand(-1, n, -1), rates])
    labels = tuple("+".join(features.modalities[i] for i in gone) for gone in sets)
    usable = []
    fills = _fills(session.adapter, options)
    for i, fill in enumerate(fills):
        try:
            scores = torch.stack([study.scores(e) for e in study.expected(fill, masks)])
        except NumericsError as e:
            yield from _curves(study, fill, labels, options, session.level, None, str(e).rstrip("."))
        else:
            yield from _curves(study, fill, labels, options, session.level, scores, None)
            usable += [fill] if fill in BY_MODEL else []
        session.progress.step("fills of missing modalities", i + 1, len(fills))
    yield from _drops(study, usable, uniforms, options, session.level)


def _fills(adapter: Adapter, options: MissingOptions) -> tuple[str, ...]:
    """The ways to fill that are tried."""
    had = tuple(f for f in FILLS if f != CLASS_MEAN and (f != SUBSTITUTION or can_substitute(adapter)))
    return options.fills or had


def absent_sets(m: int) -> list[tuple[int, ...]]:
    """List sets of absent modalities, smaller first: all proper ones of up to 5; beyond, singles, pairs, all but one."""
    sizes = range(1, m) if m <= ALL_UP_TO else (1, 2, m - 1)
    return [gone for size in sizes for gone in combinations(range(m), size)]


def _uniforms(session: Session) -> Tensor:
    """One number in [0, 1) for each example and modality, that follows the modality wherever it is listed."""
    columns = []
    for own in modality_seeds(session.adapter, session.features, session.seed).values():
        generator = torch.Generator().manual_seed(own)
        columns.append(torch.rand(len(session.features), generator=generator, dtype=torch.float64))
    return torch.stack(columns, 1)


def _curves(
    study: _Study,
    fill: str,
    labels: tuple[str, ...],
    options: MissingOptions,
    level: float,
    scores: Tensor | None,
    skipped: str | None,
) -> Iterator[Result]:
    """Metric and loss over patterns and over rates under one fill; ``scores`` (patterns + rates, 2, 1 + G)."""
    task, count = study.session.task, metric_count(study.session)
    m = len(study.features.modalities)
    few = "all" if m <= ALL_UP_TO else "singles, pairs and all but one"
    how = FILLS[fill] + (f"; mean over {study.draws} draws" if fill == "sample" else "")
    kinds = (
        ("patterns", "modalities absent", labels, (PATTERNS, PATTERNS_LOSS)),
        ("rates", "rate missing", options.rates, (RATES, RATES_LOSS)),
    )
    for kind, x_label, x, measures in kinds:
        for k, measure in enumerate(measures):
            quantity = measure.fill(task, fill=fill, few=few, fill_how=how)
            if scores is None:
                yield quantity.skipped(str(skipped), unit=True)
                continue
            values = (scores[: len(labels)] if kind == "patterns" else scores[len(labels) :])[:, k]
            mean = values.mean(0)
            notes = [study.bank.note if fill not in ("zeros", SUBSTITUTION, "late") else None]
            if len(values) > 1:
                notes.append(f"standard deviation over {len(values)} {kind}: {float(values[:, 0].std()):.3g}")
            yield quantity.result(
                *estimate(mean, level, quantity.bounds, count),
                curve=banded_curve(x, values, x_label, str(quantity.unit), level, quantity.bounds, count),
                note="; ".join(filter(None, notes)) or None,
            )


def _drops(
    study: _Study, fills: list[str], uniforms: Tensor, options: MissingOptions, level: float
) -> Iterator[Result]:
    """What is lost without each modality under the fill that is best for it, and over the rate it is missing at."""
    features, task = study.features, study.session.task
    metric, count = task.metric_name, metric_count(study.session)
    lost = DROP.fill(task)
    if not fills:
        for m in features.modalities:
            yield lost.skipped(NO_FILL, modality=m, unit=True)
        return
    judge, where = _held_out(study, options)
    full = task.expect(predict(study.session.adapter, features).outputs)
    rates = (0.0, *options.rates, 1.0)
    for i, m in enumerate(features.modalities):
        fill = max(fills, key=partial(_worth, judge, i))
        (gone,) = study.expected(fill, _alone(features, i))
        rows = []
        for rate in rates:
            absent = (uniforms[:, i] < rate).reshape(-1, *[1] * (full.ndim - 1))
            rows.append(study.scores([torch.where(absent, e, full) for e in gone])[0])
        drop = rows[0] - rows[-1]
        yield lost.result(
            *estimate(drop, level, lost.bounds),
            modality=m,
            curve=banded_curve(rates, torch.stack(rows), "rate missing", metric, level, task.metric_bounds, count),
            note="; ".join(filter(None, [f"fill {fill!r}, the best {where}", study.bank.note])),
        )


def _alone(features: Features, modality: int) -> Tensor:
    """The mask (1, n, modalities) under which one modality is absent from every example."""
    absent = torch.zeros(1, len(features), len(features.modalities), dtype=torch.bool)
    absent[:, :, modality] = True
    return absent


def _held_out(study: _Study, options: MissingOptions) -> tuple[_Study, str]:
    """Examples on which the best fill is chosen: val, or a fifth of train; the diagnosed ones where there are none."""
    session, features = study.session, study.features
    if study.bank.own:
        return study, "on these very examples, so the drop may read low"
    if features.split != "val" and has_split(session.adapter, "val"):
        held = features.of("val")
        if same_shapes(held, study.bank.features):
            return _Study(session.on(held), study.bank, study.draws), "on split 'val'"
    train = features.of("train")
    index = torch.arange(len(train))
    bank = BackgroundSet(train.taken(index[~train.fifth][: options.bank]), False)
    held = train.taken(index[train.fifth])
    return _Study(session.on(held), bank, study.draws), "on a fifth of the train split, which the model knows"


def _worth(judge: _Study, modality: int, fill: str) -> tuple[float, float]:
    """Metric, then minus the loss (for ties, and where the metric is not defined), with one modality absent."""
    task, y = judge.session.task, judge.features.targets
    (found,) = judge.expected(fill, _alone(judge.features, modality))
    try:
        metric = sum(task.metric(e, y) for e in found) / len(found)
    except NumericsError:
        metric = 0.0
    loss = sum(float(task.loss(e, y).mean()) for e in found) / len(found)
    return round(metric, 9), -round(loss, 6)  # less than that is rounding, which must not choose
