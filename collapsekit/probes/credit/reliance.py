"""reliance: how much loss and metric each modality is worth to the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from collapsekit.adapters.live.absence import describe_absence
from collapsekit.games.coalitions import EXACT_UP_TO, CoalitionGame, GameOptions
from collapsekit.games.seed_noise import REPEATS
from collapsekit.measures import LOSS, METRIC, Finding, Measure, Panel, Picture, declare
from collapsekit.probes._shared import banded_curve, credits_of, difference, estimate, metric_count
from collapsekit.registry import probe
from collapsekit.report.diagnosis import Curve, Result
from collapsekit.session.costs.cost import Cost
from collapsekit.session.costs.preview import Preview
from collapsekit.session.session import Session
from collapsekit.stats.inference.bounds import Bounds
from collapsekit.tasks.base import Task
from collapsekit.tasks.make import further_tasks
from collapsekit.tasks.scoring import leave_out_metric

REMOVED = (
    "absent modalities taken together from other examples, the expectation averaged over {draws} of them{otherwise}"
)
SAGE = "Covert et al. 2020 (SAGE), eq. 2 and 4; Shapley 1953"
SAGE_2 = "Covert et al. 2020 (SAGE), eq. 2"
PERCEPTUAL = "Gat et al. 2021 (perceptual score), by expectation instead of a single permutation"
SHAPLEY_IS = "Shapley value of the modality over subsets, {exact}; worth: "
WITHOUT_IS = "worth of all modalities minus worth without this one "
ALONE_IS = "when the model sees only these modalities; " + REMOVED
EMPTY_IS = "of the model with every modality absent; " + REMOVED

FULL_METRIC = declare(
    Measure(
        "reliance.full_metric",
        definition="{metric} of the model as it is",
        source="task definition",
        unit=METRIC,
        bounds="unit",
        better="higher",
        why="task metrics are written so that higher is better",
        headline="each",
    )
)
FULL_LOSS = declare(
    Measure(
        "reliance.full_loss",
        definition="{loss} of the model as it is",
        source="task definition",
        unit=LOSS,
        bounds="unit",
        better="lower",
        why="it is the task loss",
        headline="each",
    )
)
EMPTY_METRIC = declare(
    Measure(
        "reliance.empty_metric", definition="{metric} " + EMPTY_IS, source="task definition", unit=METRIC, bounds="unit"
    )
)
EMPTY_LOSS = declare(
    Measure("reliance.empty_loss", definition="{loss} " + EMPTY_IS, source="task definition", unit=LOSS, bounds="unit")
)
SHAPLEY = declare(
    Measure(
        "reliance.shapley",
        definition=SHAPLEY_IS + "{loss}; " + REMOVED,
        source=SAGE,
        unit=LOSS,
        bounds="difference",
        headline="each",
        cannot="credit that one modality gains another loses, so no credit is better than another",
        figure="bars",
    )
)
SHAPLEY_METRIC = declare(
    Measure(
        "reliance.shapley_metric",
        definition=SHAPLEY_IS + "{metric}; " + REMOVED,
        source=SAGE,
        unit=METRIC,
        bounds="difference",
        cannot="credit that one modality gains another loses, so no credit is better than another",
        figure="bars",
    )
)
LEAVE_ONE_OUT = declare(
    Measure(
        "reliance.leave_one_out",
        definition=WITHOUT_IS + "({loss}); " + REMOVED,
        source=PERCEPTUAL,
        unit=LOSS,
        bounds="difference",
        cannot="a modality whose content others repeat costs nothing, however much it is used",
        figure="bars",
    )
)
LEAVE_ONE_OUT_METRIC = declare(
    Measure(
        "reliance.leave_one_out_metric",
        definition=WITHOUT_IS + "({metric}); " + REMOVED,
        source=PERCEPTUAL,
        unit=METRIC,
        bounds="difference",
        cannot="a modality whose content others repeat costs nothing, however much it is used",
        figure="bars",
    )
)
SUBSETS = declare(
    Measure(
        "reliance.subsets",
        definition="{loss} " + ALONE_IS,
        source=SAGE_2,
        unit=LOSS,
        bounds="unit",
        figure="rows",
        side_by_side=True,
    )
)
SUBSETS_METRIC = declare(
    Measure(
        "reliance.subsets_metric",
        definition="{metric} " + ALONE_IS,
        source=SAGE_2,
        unit=METRIC,
        bounds="unit",
        figure="rows",
        side_by_side=True,
    )
)
FURTHER = declare(
    Measure(
        "reliance.further_metrics",
        definition="further metrics that the config names, of the model as it is: {names}; intervals over examples scored",
        source="task definition",
        side_by_side=True,
    )
)
FURTHER_LOST = declare(
    Measure(
        "reliance.further_metrics_lost",
        definition="worth of all modalities minus worth without this one, in each further metric: {names}; " + REMOVED,
        source=PERCEPTUAL,
        side_by_side=True,
    )
)
FLIPS = declare(
    Measure(
        "reliance.flips",
        definition="share of the choices in an answer (its class, or the one at each of its places) that are others without "
        "this modality than as it is, mean over answers: the flip rate; absent modalities taken from other examples, mean "
        "over {draws} of them{otherwise}",
        source="collapsekit docs/probes/reliance.md",
        unit="share",
        bounds=(0.0, 1.0),
        cannot="whether answers are right before or after, and what is due to the modality; a model that guesses flips too",
        figure="bars",
    )
)
SEED_NOISE = declare(
    Measure(
        "reliance.seed_noise",
        definition="standard error of a difference of two such losses ({loss}) that is due to seeds alone, each answer the "
        "mean over {samples} seeds: of the model as it is and with modalities of other examples (all, or the one of which "
        "this is largest), the standard deviation over {repeats} sets of seeds, widened as Student's t is wider than the "
        "normal",
        source="Student 1908",
        unit=LOSS,
        bounds=(0.0, None),
        better="lower",
        why="no difference below it is a modality's",
    )
)


PICTURES = (
    Picture(
        "reliance",
        "What each modality earns",
        (
            Panel(
                "loss saved ({unit})",
                {"Shapley": "reliance.shapley", "leave one out": "reliance.leave_one_out"},
            ),
            Panel(
                "{metric} gained",
                {"Shapley": "reliance.shapley_metric", "leave one out": "reliance.leave_one_out_metric"},
            ),
            Panel("share of answers that flip", {"": "reliance.flips"}),
            Panel("loss ({unit})", {"": "reliance.subsets"}, along="modalities given"),
            Panel("{metric}", {"": "reliance.subsets_metric"}, along="modalities given"),
        ),
        (
            Finding(
                "most",
                "reliance.shapley",
                {
                    "clear": "The model saves the most loss with {modality}: {value} {unit}.",
                    "unclear": "It is not clear with which modality the model saves the most loss: {value} {unit} with "
                    "{modality}, {other} with {second}.",
                },
            ),
        ),
    ),
)


class RelianceOptions(GameOptions):
    """Options of the reliance probe; utilisation and rank_sweep read the same subsets."""


def estimate_cost(preview: Preview) -> Cost:
    """Cost the coalitions: of Shapley credit, those that lack one modality, and those that are listed."""
    masks = {0, preview.full, *preview.shapley_masks, *preview.without_one, *_listed(len(preview.modalities))}
    return preview.coalitions(sorted(masks)) + preview.seed_noise()


@probe(
    "reliance",
    title="What each modality earns",
    place=10,
    pictures=PICTURES,
    summary="task loss and metric over modality subsets; Shapley credit and leave-one-out of each modality",
    definition="Shapley value of each modality over subsets, worth = minus the task loss; "
    + REMOVED.format(draws="d", otherwise=""),
    source=SAGE,
    cannot="credit says what the model uses, not what it could use: compare with utilisation",
    options=RelianceOptions,
    cost=estimate_cost,
)
def run(session: Session) -> Iterator[Result]:
    """Measure what the model gets from each modality, by the game of its coalitions.

    An absent modality is taken from other examples, together with the others that are absent, and the expectation is
    averaged over them before it is scored (Covert et al. 2020, SAGE, eq. 2).

    Yields:
        Loss and metric of the model as it is and with every modality absent; by modality the Shapley value (Shapley 1953)
        and what leaving it out costs, each of loss and of metric; how often answers become others without it, where that
        is asked; and loss and metric over the subsets.
    """
    game = session.game
    yield from _ends_of_the_game(session, game)
    task, removal = session.task, _removal(session)
    count = metric_count(session)
    noise = game.seed_noise
    kinds: tuple[tuple[Callable[[int], Tensor], Measure, Measure, Bounds, float], ...] = (
        (lambda mask: -game.value(mask).loss, SHAPLEY, LEAVE_ONE_OUT, task.loss_bounds.of_negatives, noise.loss),
        (lambda mask: game.value(mask).metric, SHAPLEY_METRIC, LEAVE_ONE_OUT_METRIC, task.metric_bounds, noise.metric),
    )
    exact = "exact over all subsets" if game.exact else f"sampled over {session.permutations} orders"
    for worth, shapley, without, bounds, error in kinds:
        credits = credits_of(session, worth, bounds, count, error)
        for i, modality in enumerate(session.modalities):
            credit = credits[i]
            quantity = shapley.fill(task, exact=exact, **removal)
            yield quantity.result(float(credit.values[0]), credit.ends, modality=modality)
            lost = difference(worth(game.full), worth(game.full & ~(1 << i)), session.level, bounds, count, error)
            yield without.fill(task, **removal).result(*lost, modality=modality)
    if game.counts_flips:
        yield from _flips(session, game)
    yield from _subsets(session, game)
    yield from _further(session, game)
    if (samples := session.adapter.config.model.samples) > 1:
        yield SEED_NOISE.fill(task, samples=samples, repeats=REPEATS).result(noise.loss, None)


def _flips(session: Session, game: CoalitionGame) -> Iterator[Result]:
    """How often answers become others without each modality."""
    quantity = FLIPS.fill(session.task, **_removal(session))
    for i, m in enumerate(session.modalities):
        values = game.flips(i)
        if values is None:
            yield quantity.skipped("answers of this task choose none of several, so none becomes another", modality=m)
            continue
        span = estimate(values, session.level, quantity.bounds, session.features.independent)
        yield quantity.result(*span, modality=m)


def _removal(session: Session) -> dict[str, object]:
    """What definitions say of absent modalities."""
    return {"draws": len(session.game.donors), "otherwise": describe_absence(session.adapter)}


def _ends_of_the_game(session: Session, game: CoalitionGame) -> Iterator[Result]:
    count = metric_count(session)
    for mask, of_loss, of_metric in ((game.full, FULL_LOSS, FULL_METRIC), (0, EMPTY_LOSS, EMPTY_METRIC)):
        worth = game.value(mask)
        for measure, values in ((of_loss, worth.loss), (of_metric, worth.metric)):
            quantity = measure.fill(session.task, **_removal(session))
            yield quantity.result(*estimate(values, session.level, quantity.bounds, count))


def _further(session: Session, game: CoalitionGame) -> Iterator[Result]:
    """Further metrics, each with its interval: of the model as it is, and what is lost without each modality."""
    tasks = further_tasks(session.task, session.adapter.config)
    if not tasks:
        return
    names, count = tuple(t.metric_name for t in tasks), metric_count(session)
    features = session.features

    def scores(task: Task, mask: int) -> Tensor:
        return leave_out_metric(task, game.value(mask).expected, features.targets, features.groups)

    def curve(each: list[tuple[float, tuple[float, float]]]) -> Curve:
        ends = [e for _, e in each]
        return Curve(
            x=names,
            y=tuple(value for value, _ in each),
            lower=tuple(low for low, _ in ends),
            upper=tuple(high for _, high in ends),
            x_label="metric",
            y_label="value",
        )

    whole = [estimate(scores(t, game.full), session.level, t.metric_bounds, count) for t in tasks]
    told = ", ".join(names)
    yield FURTHER.fill(session.task, names=told).curve(curve(whole))
    for i, m in enumerate(session.modalities):
        mask = game.full & ~(1 << i)
        lost = [difference(scores(t, game.full), scores(t, mask), session.level, t.metric_bounds, count) for t in tasks]
        yield FURTHER_LOST.fill(session.task, names=told, **_removal(session)).curve(curve(lost), modality=m)


def _listed(size: int) -> list[int]:
    """The subsets that are listed where not all are: none, single modalities, all but one, and all."""
    alone, full = [1 << i for i in range(size)], (1 << size) - 1
    return [0, *alone, *(full & ~a for a in alone), full]


def _subsets(session: Session, game: CoalitionGame) -> Iterator[Result]:
    size, count = game.size, metric_count(session)
    if game.exact:
        masks = sorted(range(1 << size), key=lambda mask: (bin(mask).count("1"), mask))
        note = None
    else:
        masks = _listed(size)
        note = f"with more than {EXACT_UP_TO} modalities only single ones, all but one, none and all are listed"
    labels = tuple("+".join(game.names(mask)) or "(none)" for mask in masks)
    for measure, values in (
        (SUBSETS, torch.stack([game.value(mask).loss for mask in masks])),
        (SUBSETS_METRIC, torch.stack([game.value(mask).metric for mask in masks])),
    ):
        quantity = measure.fill(session.task, **_removal(session))
        unit, bounds = str(quantity.unit), quantity.bounds
        curve = banded_curve(labels, values, "modalities present", unit, session.level, bounds, count)
        yield quantity.curve(curve, note=note)
