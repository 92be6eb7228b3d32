"""growing: prefix gap, redundancy, rank and task over models trained on more and more of the modalities."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from pydantic import Field
from torch import Tensor

from collapsekit.checkpoint.read import read_checkpoint
from collapsekit.config.schema import SubsetConfig
from collapsekit.context import Options
from collapsekit.data.base import Batch, Source
from collapsekit.errors import CollapsekitError, ConfigError, NumericsError, did_you_mean
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.measures import LOSS, METRIC, Finding, Measure, Panel, Picture, Quantity, declare
from collapsekit.probes._shared import CONCATENATED, PREFIX_SOURCE, READ_OUT, VIF, RankOptions, estimate, metric_count
from collapsekit.readouts.linear import UnimodalReadout
from collapsekit.registry import probe
from collapsekit.report.diagnosis import Curve, Result
from collapsekit.session.costs.cost import Cost
from collapsekit.session.costs.preview import Preview
from collapsekit.session.session import Session
from collapsekit.stats.inference.bounds import UNBOUNDED, Bounds
from collapsekit.stats.inference.jackknife import interval
from collapsekit.stats.inference.leave_out import leave_out_means
from collapsekit.stats.linalg.ranks import RANKS, rank_functions, rank_interval, small_n
from collapsekit.stats.linalg.spectrum import singular_values
from collapsekit.stats.linalg.vif import vif
from collapsekit.tasks.scoring import leave_out_metric

TABLE_7 = "Chaudhuri et al. 2025, Appendix C.5 and Table 7"
GROWN = "over models trained on ever more of the modalities, the last of them the model itself; modalities added {how}"
PREFIX = f"of a modality's features in the model of each subset, by {READ_OUT}; {GROWN}"
GAP = (
    "mean over the subset's modalities of the prefix gap: loss of the encoder's features in the subset's model minus loss "
    f"of the full model's encoder trained alone, both by {READ_OUT}"
)
OF_SUBSET = f"of the model of each subset; {GROWN}"

MEAN_GAP = declare(
    Measure("growing.prefix_gap", definition=f"{GAP}; {GROWN}", source=PREFIX_SOURCE, unit=LOSS, figure="lines")
)
PREFIX_LOSS = declare(
    Measure(
        "growing.prefix_loss",
        definition="{loss} " + PREFIX,
        source=PREFIX_SOURCE,
        unit=LOSS,
        bounds="unit",
        better="lower",
        why="it is the task loss",
    )
)
VIF_MEAN = declare(
    Measure(
        "growing.vif_mean",
        definition=f"mean over neurons of the {VIF}; {GROWN}",
        source=TABLE_7,
        unit="times",
        bounds=(1.0, None),
        better="lower",
        why="1 is no redundancy between fused neurons",
        figure="lines",
    )
)
EFFECTIVE_RANK = declare(
    Measure(
        "growing.effective_rank",
        definition=f"rank of the fused representation: {RANKS['effective_rank'][0]}; {GROWN}",
        source=RANKS["effective_rank"][1],
        unit="dimensions",
        bounds=(0.0, None),
        figure="lines",
    )
)
NUMERICAL_RANK = declare(
    Measure(
        "growing.numerical_rank",
        definition=f"rank of the fused representation: {RANKS['numerical_rank'][0]}; {GROWN}",
        source=RANKS["numerical_rank"][1],
        unit="dimensions",
        bounds=(0.0, None),
        figure="lines",
    )
)
LOSS_GROWN = declare(
    Measure(
        "growing.loss",
        definition="{loss} " + OF_SUBSET,
        source="task definition",
        unit=LOSS,
        bounds="unit",
        better="lower",
        why="it is the task loss",
        figure="lines",
    )
)
METRIC_GROWN = declare(
    Measure(
        "growing.metric",
        definition="{metric} " + OF_SUBSET,
        source="task definition",
        unit=METRIC,
        bounds="unit",
        better="higher",
        why="task metrics are written so that higher is better",
        figure="lines",
    )
)


PICTURES = (
    Picture(
        "growing",
        "As modalities are added",
        (
            Panel("{metric}", {"": "growing.metric"}, title="Task: {metric}"),
            Panel("loss ({unit})", {"": "growing.loss"}, title="Task: loss", unless="growing.metric"),
            Panel("gap ({unit})", {"": "growing.prefix_gap"}, title="Mean prefix gap"),
            Panel("mean VIF", {"": "growing.vif_mean"}, title="Redundancy"),
            Panel(
                "dimensions",
                {"effective rank": "growing.effective_rank", "numerical rank": "growing.numerical_rank"},
                title="Ranks",
            ),
        ),
        (
            Finding(
                "change",
                "growing.metric",
                {
                    "above": "From {begin} to {end}, {metric} rises: {value}, then {other}.",
                    "below": "From {begin} to {end}, {metric} falls: {value}, then {other}.",
                    "unclear": "From {begin} to {end}, {metric} does not clearly change: {value}, then {other}.",
                },
            ),
        ),
        about="growing.metric",
    ),
)


class GrowingOptions(Options):
    """Options of the growing probe."""

    order: tuple[str, ...] = Field(default=(), description="modalities in the order added; default: strongest first")

    def check_modalities(self, known: Sequence[str]) -> None:
        wanted = self.order
        for m in wanted:
            if m not in known:
                raise ConfigError(
                    f"growing.order names {m!r}{did_you_mean(m, known)}: the model has {', '.join(known)}."
                )
        if wanted and (len(wanted) != len(known) or len(set(wanted)) < len(known)):
            raise ConfigError(f"growing.order is {','.join(wanted)}: name each of {', '.join(known)} once.")


@dataclass(frozen=True)
class _Path:
    """The order in which modalities are added, how it was found, and the baselines it may have been found by."""

    order: tuple[str, ...]
    how: str
    strengths: str | None
    alone: Mapping[str, UnimodalReadout]
    without: str | None  # why (some) modalities have no baseline


# A value with its interval, or why it could not be had; by name and modality.
_Point = dict[tuple[str, str | None], tuple[float, float, float] | str]
CHECKS = 8  # times, at most, that the first batch is run again to check a model
ON_THE_WAY = "only subsets on the way are read, each with as many of the modalities"
BOUND = ("vif_bound", None)  # held by points whose VIF is a bound from below


def estimate_cost(preview: Preview) -> Cost:
    """Cost the order of the modalities, and the passes of every given subset's model over the same splits."""
    options, adapter = preview.options_of("growing", GrowingOptions), preview.adapter
    config = adapter.config
    cost = Cost()
    try:
        cost += preview.trained_alone() + preview.prefixes()
    except NumericsError:
        if not options.order:
            raise
    subsets = min(len(config.need_subsets()), len(preview.modalities) - 2)
    few = min(config.data.batch_size, preview.size)
    splits = preview.read.values()
    own = Cost(passes=sum(splits) + CHECKS * few, replays=CHECKS * few, heads=len(preview.modalities) - 1)
    for _ in range(subsets):
        cost += own.at_most(ON_THE_WAY)
    return cost


@probe(
    "growing",
    title="As modalities are added",
    place=140,
    pictures=PICTURES,
    summary="prefix gap, VIF, ranks and task as modalities are added, over the models listed under `subsets`",
    definition="mean prefix gap, mean VIF, effective and numerical rank, and task "
    + GROWN.format(how="strongest first"),
    source="Chaudhuri et al. 2025, Figure 4 and Table 7",
    cannot="the models differ in training as well as in modalities: a trend over one model a subset is no significance",
    options=GrowingOptions,
    trains="models",
    default=False,
    cost=estimate_cost,
)
def run(session: Session) -> Iterator[Result]:
    """Follow prefix gap, redundancy, ranks and task over models trained on more and more of the modalities.

    The models of subsets are those that the config lists; each is run on the same examples in the same order
    (Chaudhuri et al. 2025, Figure 4 and Table 7).

    Yields:
        Curves over the subsets: mean prefix gap, loss of each modality's features, mean VIF, effective and numerical rank
        of the fused representation, loss and metric.
    """
    given = {frozenset(s.modalities): s for s in session.adapter.config.need_subsets()}
    path = _path(session)
    steps = [path.order[:k] for k in range(2, len(path.order))]
    taken = [step for step in steps if frozenset(step) in given]
    missing = " and ".join("+".join(step) for step in steps if step not in taken)
    way = f"modalities added {path.how} are {', '.join(path.order)}"
    if not taken:
        raise NumericsError(
            f"none of the given subsets lies on the way: {way}; give checkpoints of {missing}, or another growing.order"
        )
    points: dict[tuple[str, ...], _Point] = {}
    notes: list[str | None] = [path.strengths]
    widths = []
    for i, step in enumerate([*taken, path.order]):
        session.progress.step("models of growing subsets", i, len(taken) + 1)
        subset = given.get(frozenset(step))
        at = session if subset is None else _session_of(session, subset)
        points[step] = _measure(at, path, _rtol(session))
        widths.append(at.features.fused.shape[1])
        read = at.adapter.checkpoint
        if read is not None and subset is not None:
            notes.append(f"{'+'.join(step)} is {read.path.name} (SHA-256 {read.sha256[:12]})")
    off = ["+".join(s.modalities) for names, s in given.items() if names not in map(frozenset, taken)]
    if missing or off:
        left = f"not on the way and left out: {', '.join(off)}" if off else None
        notes += [left, f"to fill the way give checkpoints of {missing}" if missing else None]
    if len(set(widths)) > 1:
        notes.append(f"fused widths differ ({', '.join(map(str, widths))}): VIF and ranks do not compare")
    yield from _curves(session, path, points, "; ".join(filter(None, notes)) or None)


def _path(session: Session) -> _Path:
    """The order of the modalities: as asked, else by unimodal baselines where all have one, else by prefixes."""
    options, names = session.options_of("growing", GrowingOptions), session.modalities
    wanted = options.order
    options.check_modalities(names)
    try:
        made = session.trained_alone
    except NumericsError as e:
        if not wanted:
            raise
        return _Path(wanted, "in the order asked for", None, {}, str(e).rstrip("."))
    alone = {} if made is None else made.trained
    lost = {} if made is None else made.skipped
    without = "profile quick trains no encoders" if made is None else None
    if lost:
        without = "no encoder trained alone for " + ", ".join(f"{m}: {reason}" for m, reason in lost.items())
    if wanted:
        return _Path(wanted, "in the order asked for", None, alone, without)
    complete = len(alone) == len(names)
    loss = {m: (alone[m] if complete else session.prefix(m)).validation_loss for m in names}
    by = "its encoder trained alone" if complete else "a linear readout of its encoder in the model"
    order = tuple(sorted(names, key=lambda m: loss[m]))
    said = ", ".join(f"{m} {loss[m]:.3g}" for m in order)
    return _Path(order, f"strongest first by the held-out loss of {by}", f"held-out losses: {said}", alone, without)


class _SameExamples(Source):
    """The examples the model itself was diagnosed on, as they were read: no file or loader is asked again."""

    def __init__(self, session: Session) -> None:
        self.adapter, self.features = session.adapter, session.features

    def splits(self) -> list[str]:
        return self.adapter.source.splits()

    def count(self, split: str) -> int | None:
        return self.adapter.source.count(split)

    def batches(self, split: str, keys: list[str], size: int, limit: int | None, seed: int) -> Iterator[Batch]:
        f = self.features.of(split)
        there = {
            self.adapter.config.data.label: f.targets,
            **f.inputs,
        }  # labels as they came, where a task reads by them
        for start in range(0, len(f), size):
            yield {k: there[k][start : start + size] for k in keys}


def _session_of(session: Session, subset: SubsetConfig) -> Session:
    """The model trained on a subset, on the same examples in the same order."""
    adapter, features = session.adapter, session.features
    config = adapter.config
    try:
        twin = type(adapter)(
            config.with_subset(subset),
            checkpoint=read_checkpoint(config.resolve(subset.checkpoint), weights=config.model.weights),
            source=_SameExamples(session),
            device=str(adapter.device),
            seed=session.seed,
        )
        own = extract(twin, features.split, seed=session.seed)
    except CollapsekitError as e:
        raise type(e)(f"subset {'+'.join(subset.modalities)} ({subset.checkpoint}): {e}") from e
    return Session.of(twin, _in_order_of(features, own), session.settings)


def _in_order_of(features: Features, own: Features) -> Features:
    """``own`` with its rows in the order of ``features``: features are sorted by their inputs, of which it has fewer.

    The same examples are then fitted on, judged and left out together in every model.
    """
    places: dict[bytes, list[int]] = {}
    for row, key in enumerate(_keys(own, own)):
        places.setdefault(key, []).append(row)
    at = torch.tensor([places[key].pop() for key in _keys(features, own)])
    there = cache(lambda split: _in_order_of(features.of(split), own.of(split)))
    return replace(own.taken(at), units=features.units, sibling=there)


def _keys(features: Features, own: Features) -> list[bytes]:
    """What tells examples apart in the inputs that ``own`` has."""
    parts = [features.targets, *(features.inputs[k] for k in own.inputs)]
    rows = [t.reshape(len(t), -1).contiguous().view(torch.uint8).numpy() for t in parts if t.numel()]
    return [hashlib.blake2b(b"".join(r[i].tobytes() for r in rows), digest_size=16).digest() for i in range(len(own))]


def _measure(session: Session, path: _Path, rtol: float) -> _Point:
    """Everything that is read of one model."""
    features, level = session.features, session.level
    task, targets, groups = session.task, features.targets, features.groups
    expected = task.expect(features.outputs)
    point: _Point = {
        ("loss", None): _with_interval(leave_out_means(task.loss(expected, targets), groups), level, task.loss_bounds),
        ("metric", None): _with_interval(
            leave_out_metric(task, expected, targets, groups), level, task.metric_bounds, metric_count(session)
        ),
        **_representation(features, rtol, level),
    }
    gaps = []
    for m in features.modalities:
        try:
            each = task.loss(session.prefix(m).expected, targets)
        except NumericsError as e:
            point["prefix_loss", m] = str(e).rstrip(".")
            continue
        point["prefix_loss", m] = _with_interval(leave_out_means(each, groups), level, task.loss_bounds)
        if m in path.alone:
            gaps.append(each - task.loss(path.alone[m].expected, targets))
    if gaps:
        point["prefix_gap", None] = _with_interval(leave_out_means(torch.stack(gaps).mean(0), groups), level)
    else:
        point["prefix_gap", None] = path.without or "no modality has an encoder trained alone"
    return point


def _representation(features: Features, rtol: float, level: float) -> _Point:
    """Mean VIF and ranks of the fused representation."""
    n, d = features.fused.shape
    ranks = {k: f for k, f in rank_functions(rtol).items() if k in ("effective_rank", "numerical_rank")}
    names = [("vif_mean", None), *((k, None) for k in ranks)]
    if features.concatenated:
        return dict.fromkeys(names, CONCATENATED)
    if n < 2 * d:
        return dict.fromkeys(names, f"needs at least 2·d = {2 * d} examples for d = {d} fused dimensions, found {n}")
    full, each = features.moments(features.fused)
    out = list(each)
    point: _Point = {}
    try:
        value, left = float(vif(full).values.mean()), [float(vif(m).values.mean()) for m in out]
        low, high = interval(value, left, level, log=True)
        point["vif_mean", None] = value, min(value, max(1.0, low)), high
        if vif(full).bound:
            point[BOUND] = "near-singular"
    except NumericsError as e:
        point["vif_mean", None] = str(e).rstrip(".")
    for name, rank in ranks.items():
        try:
            value, left = rank(singular_values(full)), [rank(singular_values(m)) for m in out]
            point[name, None] = value, *rank_interval(value, left, d, level)
        except NumericsError as e:
            point[name, None] = str(e).rstrip(".")
    return point


def _rtol(session: Session) -> float:
    return session.options_of("spectrum", RankOptions).rtol


def _with_interval(
    values: Tensor, level: float, bounds: Bounds = UNBOUNDED, count: float | None = None
) -> tuple[float, float, float]:
    """A statistic from itself and its leave-out values (1 + G,)."""
    value, span = estimate(values, level, bounds, count)
    return value, *span


def _curves(
    session: Session, path: _Path, points: Mapping[tuple[str, ...], _Point], note: str | None
) -> Iterator[Result]:
    task, (n, d) = session.task, session.features.fused.shape
    bounds = ", ".join("+".join(step) for step, point in points.items() if BOUND in point)
    biased = f"n = {n} is under 10·d = {10 * d}: biased up" if n < 10 * d else ""
    of_vif = "; ".join(filter(None, [biased, f"near-singular, a lower bound, for {bounds}" if bounds else ""])) or None
    make, fields = partial(_curve, points), {"how": path.how, "rtol": _rtol(session)}
    yield make("prefix_gap", None, MEAN_GAP.fill(task, **fields), path.without)
    for m in session.modalities:
        yield make("prefix_loss", m, PREFIX_LOSS.fill(task, **fields), None)
    yield make("vif_mean", None, VIF_MEAN.fill(task, **fields), of_vif)
    for name, measure in (("effective_rank", EFFECTIVE_RANK), ("numerical_rank", NUMERICAL_RANK)):
        yield make(name, None, measure.fill(task, **fields), small_n(n, d))
    yield make("loss", None, LOSS_GROWN.fill(task, **fields), None)
    yield make("metric", None, METRIC_GROWN.fill(task, **fields), note)


def _curve(
    points: Mapping[tuple[str, ...], _Point], name: str, modality: str | None, quantity: Quantity, note: str | None
) -> Result:
    """One number over the subsets for which it could be had."""
    asked = {"+".join(step): point[name, modality] for step, point in points.items() if (name, modality) in point}
    had = {label: v for label, v in asked.items() if not isinstance(v, str)}
    lost = {label: v for label, v in asked.items() if isinstance(v, str)}
    if not had:
        return quantity.skipped(next(iter(lost.values())), modality=modality, unit=True)
    notes = [note, *(f"not to be had for {label}: {why}" for label, why in lost.items() if why != note)]
    value, low, high = zip(*had.values(), strict=True)
    curve = Curve(x=tuple(had), y=value, lower=low, upper=high, x_label="modalities", y_label=str(quantity.unit))
    return quantity.curve(curve, modality=modality, note="; ".join(filter(None, notes)) or None)
