"""reliance: how much loss and metric each modality is worth to the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from pydantic import Field
from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.context import Options, Settings
from collapsekit.features.features import Features
from collapsekit.games.coalitions import EXACT_UP_TO, Coalitions, coalitions, credits
from collapsekit.registry import probe
from collapsekit.report.diagnosis import Curve, Result
from collapsekit.stats.inference.jackknife import interval, interval_array
from collapsekit.stats.inference.quantiles import normal

REMOVED = "absent modalities taken together from other examples, the expectation averaged over {draws} of them"
SAGE = "Covert et al. 2020 (SAGE), eq. 2 and 4; Shapley 1953"


class RelianceOptions(Options):
    """Options of the reliance probe; utilisation and rank_sweep read the same subsets."""

    draws: int | None = Field(
        default=None,
        gt=0,
        description="other examples an absent modality is taken from; default: 8 a class, 32 at least, 256 at most",
    )
    permutations: int = Field(default=64, gt=1, description="sampled orders beyond 6 modalities")


def draws_for(adapter: Adapter, features: Features, options: RelianceOptions) -> int:
    """How many other examples an absent modality is taken from.

    The loss of a mean over few draws is biased up, most of all where no draw happens to hold the right class, so
    the default grows with the number of classes.
    """
    if options.draws is not None:
        return options.draws
    return min(256, max(32, 8 * adapter.task.classes_of(features.outputs)))


def game_of(adapter: Adapter, features: Features, options: RelianceOptions, settings: Settings) -> Coalitions:
    """The coalitions these options ask for, shared by all probes that read them."""
    draws = draws_for(adapter, features, options)
    return coalitions(adapter, features, draws, settings.seed, settings.progress)


def ends(full: float, leave_out: Tensor, extra_se: float, level: float) -> tuple[float, float]:
    """Jackknife interval of a credit, widened by the standard error of sampled orders (zero where exact)."""
    low, high = interval(full, leave_out.tolist(), level)
    if extra_se == 0:
        return low, high
    z = normal(0.5 + level / 2) * extra_se
    return full - ((full - low) ** 2 + z**2) ** 0.5, full + ((high - full) ** 2 + z**2) ** 0.5


@probe(
    "reliance",
    summary="task loss and metric over modality subsets; Shapley credit and leave-one-out of each modality",
    definition="Shapley value of each modality over subsets, worth = minus the task loss; " + REMOVED.format(draws="d"),
    source=SAGE,
    cannot="credit says what the model uses, not what it could use: compare with utilisation",
    options=RelianceOptions,
)
def run(adapter: Adapter, features: Features, *, settings: Settings) -> Iterator[Result]:
    options = settings.own(RelianceOptions)
    game = game_of(adapter, features, options, settings)
    removed = REMOVED.format(draws=len(game.donors))
    yield from _ends_of_the_game(game, settings, removed)
    task = adapter.task
    kinds: dict[str, tuple[Callable[[int], Tensor], str]] = {
        "": (lambda mask: -game.worth(mask).loss, task.loss_name),
        "_metric": (lambda mask: game.worth(mask).metric, task.metric_name),
    }
    for suffix, (worth, unit) in kinds.items():
        credit, error = credits(worth, game.size, options.permutations, settings.seed)
        exact = "exact over all subsets" if game.exact else f"sampled over {options.permutations} orders"
        for i, modality in enumerate(features.modalities):
            make = partial(Result, probe="reliance", modality=modality, unit=unit)
            value = float(credit[i, 0])
            yield make(
                name=f"reliance.shapley{suffix}",
                value=value,
                interval=ends(value, credit[i, 1:], float(error[i, 0]), settings.level),
                definition=f"Shapley value of the modality over subsets, {exact}; worth: {unit}; {removed}",
                source=SAGE,
            )
            drop = worth(game.full) - worth(game.full & ~(1 << i))
            yield make(
                name=f"reliance.leave_one_out{suffix}",
                value=float(drop[0]),
                interval=interval(float(drop[0]), drop[1:].tolist(), settings.level),
                definition=f"worth of all modalities minus worth without this one ({unit}); {removed}",
                source="Gat et al. 2021 (perceptual score), by expectation instead of a single permutation",
            )
    yield from _subsets(game, settings, (task.loss_name, task.metric_name), removed)


def _ends_of_the_game(game: Coalitions, settings: Settings, removed: str) -> Iterator[Result]:
    task = game.adapter.task
    for name, mask in (("full", game.full), ("empty", 0)):
        worth = game.worth(mask)
        what = "the model as it is" if name == "full" else f"the model with every modality absent; {removed}"
        for suffix, values, unit in (("loss", worth.loss, task.loss_name), ("metric", worth.metric, task.metric_name)):
            yield Result(
                name=f"reliance.{name}_{suffix}",
                probe="reliance",
                value=float(values[0]),
                interval=interval(float(values[0]), values[1:].tolist(), settings.level),
                unit=unit,
                definition=f"{unit} of {what}",
                source="task definition",
            )


def _subsets(game: Coalitions, settings: Settings, units: tuple[str, str], removed: str) -> Iterator[Result]:
    size = game.size
    if game.exact:
        masks = sorted(range(1 << size), key=lambda mask: (bin(mask).count("1"), mask))
        note = None
    else:
        alone = [1 << i for i in range(size)]
        masks = [0, *alone, *(game.full & ~a for a in alone), game.full]
        note = f"with more than {EXACT_UP_TO} modalities only single ones, all but one, none and all are listed"
    labels = tuple("+".join(game.names(mask)) or "(none)" for mask in masks)
    for suffix, unit, values in (
        ("", units[0], torch.stack([game.worth(mask).loss for mask in masks])),
        ("_metric", units[1], torch.stack([game.worth(mask).metric for mask in masks])),
    ):
        low, high = interval_array(values[:, 0], values[:, 1:].T, settings.level)
        yield Result(
            name=f"reliance.subsets{suffix}",
            probe="reliance",
            unit=unit,
            definition=f"{unit} when the model sees only these modalities; {removed}",
            source="Covert et al. 2020 (SAGE), eq. 2",
            curve=Curve(
                x=labels,
                y=tuple(values[:, 0].tolist()),
                lower=tuple(low.tolist()),
                upper=tuple(high.tolist()),
                x_label="modalities present",
                y_label=unit,
            ),
            note=note,
        )
