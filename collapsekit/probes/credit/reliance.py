"""reliance: how much loss and metric each modality is worth to the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.context import Settings
from collapsekit.features.features import Features
from collapsekit.games.coalitions import EXACT_UP_TO, CoalitionGame, GameOptions, draws_for, shapley_values
from collapsekit.measures import LOSS, METRIC, Measure, declare
from collapsekit.registry import probe
from collapsekit.report.diagnosis import Curve, Result
from collapsekit.session.measured import make_game
from collapsekit.stats.inference.jackknife import interval, interval_array
from collapsekit.stats.inference.quantiles import normal

REMOVED = "absent modalities taken together from other examples, the expectation averaged over {draws} of them"
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
        better="lower",
        why="it is the task loss",
        headline="each",
    )
)
EMPTY_METRIC = declare(
    Measure("reliance.empty_metric", definition="{metric} " + EMPTY_IS, source="task definition", unit=METRIC)
)
EMPTY_LOSS = declare(
    Measure("reliance.empty_loss", definition="{loss} " + EMPTY_IS, source="task definition", unit=LOSS)
)
SHAPLEY = declare(
    Measure(
        "reliance.shapley",
        definition=SHAPLEY_IS + "{loss}; " + REMOVED,
        source=SAGE,
        unit=LOSS,
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
        cannot="a modality whose content others repeat costs nothing, however much it is used",
        figure="bars",
    )
)
SUBSETS = declare(
    Measure("reliance.subsets", definition="{loss} " + ALONE_IS, source=SAGE_2, unit=LOSS, side_by_side=True)
)
SUBSETS_METRIC = declare(
    Measure("reliance.subsets_metric", definition="{metric} " + ALONE_IS, source=SAGE_2, unit=METRIC, side_by_side=True)
)


class RelianceOptions(GameOptions):
    """Options of the reliance probe; utilisation and rank_sweep read the same subsets."""


def game_of(adapter: Adapter, features: Features, options: RelianceOptions, settings: Settings) -> CoalitionGame:
    """The coalitions these options ask for, shared by all probes that read them."""
    draws = draws_for(adapter, features, options.draws)
    return make_game(adapter, features, draws, settings.seed, settings.progress)


def ends(full: float, leave_out: Tensor, extra_se: float, level: float) -> tuple[float, float]:
    """Jackknife interval of a credit, widened by the standard error of sampled orders (zero where exact)."""
    low, high = interval(full, leave_out.tolist(), level)
    if extra_se == 0:
        return low, high
    z = normal(0.5 + level / 2) * extra_se
    return full - ((full - low) ** 2 + z**2) ** 0.5, full + ((high - full) ** 2 + z**2) ** 0.5


@probe(
    "reliance",
    title="What each modality earns",
    place=10,
    summary="task loss and metric over modality subsets; Shapley credit and leave-one-out of each modality",
    definition="Shapley value of each modality over subsets, worth = minus the task loss; " + REMOVED.format(draws="d"),
    source=SAGE,
    cannot="credit says what the model uses, not what it could use: compare with utilisation",
    options=RelianceOptions,
)
def run(adapter: Adapter, features: Features, *, settings: Settings) -> Iterator[Result]:
    options = settings.own(RelianceOptions)
    game = game_of(adapter, features, options, settings)
    yield from _ends_of_the_game(game, settings)
    task, draws = adapter.task, len(game.donors)
    kinds: tuple[tuple[Callable[[int], Tensor], Measure, Measure], ...] = (
        (lambda mask: -game.value(mask).loss, SHAPLEY, LEAVE_ONE_OUT),
        (lambda mask: game.value(mask).metric, SHAPLEY_METRIC, LEAVE_ONE_OUT_METRIC),
    )
    exact = "exact over all subsets" if game.exact else f"sampled over {options.permutations} orders"
    for worth, shapley, without in kinds:
        credit, error = shapley_values(worth, game.size, options.permutations, settings.seed)
        for i, modality in enumerate(features.modalities):
            value = float(credit[i, 0])
            span = ends(value, credit[i, 1:], float(error[i, 0]), settings.level)
            yield shapley.fill(task, exact=exact, draws=draws).result(value, span, modality=modality)
            drop = worth(game.full) - worth(game.full & ~(1 << i))
            span = interval(float(drop[0]), drop[1:].tolist(), settings.level)
            yield without.fill(task, draws=draws).result(float(drop[0]), span, modality=modality)
    yield from _subsets(game, settings)


def _ends_of_the_game(game: CoalitionGame, settings: Settings) -> Iterator[Result]:
    for mask, of_loss, of_metric in ((game.full, FULL_LOSS, FULL_METRIC), (0, EMPTY_LOSS, EMPTY_METRIC)):
        worth = game.value(mask)
        for measure, values in ((of_loss, worth.loss), (of_metric, worth.metric)):
            span = interval(float(values[0]), values[1:].tolist(), settings.level)
            yield measure.fill(game.adapter.task, draws=len(game.donors)).result(float(values[0]), span)


def _subsets(game: CoalitionGame, settings: Settings) -> Iterator[Result]:
    size = game.size
    if game.exact:
        masks = sorted(range(1 << size), key=lambda mask: (bin(mask).count("1"), mask))
        note = None
    else:
        alone = [1 << i for i in range(size)]
        masks = [0, *alone, *(game.full & ~a for a in alone), game.full]
        note = f"with more than {EXACT_UP_TO} modalities only single ones, all but one, none and all are listed"
    labels = tuple("+".join(game.names(mask)) or "(none)" for mask in masks)
    for measure, values in (
        (SUBSETS, torch.stack([game.value(mask).loss for mask in masks])),
        (SUBSETS_METRIC, torch.stack([game.value(mask).metric for mask in masks])),
    ):
        low, high = interval_array(values[:, 0], values[:, 1:].T, settings.level)
        quantity = measure.fill(game.adapter.task, draws=len(game.donors))
        curve = Curve(
            x=labels,
            y=tuple(values[:, 0].tolist()),
            lower=tuple(low.tolist()),
            upper=tuple(high.tolist()),
            x_label="modalities present",
            y_label=str(quantity.unit),
        )
        yield quantity.curve(curve, note=note)
