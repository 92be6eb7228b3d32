"""A probe of one's own: how sure the model is, and how right, when a modality is taken from another example."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor

from collapsekit import Adapter, Features, Options, Result, Settings, probe
from collapsekit.ext import Cost, NumericsError, Preview, jackknife_interval, marginal_samples, predict

SOURCE = "Guo et al. 2017 (On Calibration of Modern Neural Networks), eq. 3"
MEASURES = {
    "ece": "|mean confidence - accuracy| within equal-width bins of confidence, averaged by the bins' sizes",
    "overconfidence": "mean confidence minus accuracy over all examples; negative where the model is too unsure",
}


class CalibrationOptions(Options):
    """What ``--set calibration.NAME=VALUE`` can change."""

    bins: int = Field(default=15, gt=0, description="equal-width bins of confidence")
    draws: int = Field(default=8, gt=0, description="other examples a modality is taken from")


def estimate_cost(preview: Preview) -> Cost:
    """Cost a replay for each modality and draw: ``diagnose --dry-run`` asks for it."""
    draws = min(preview.options_of("calibration", CalibrationOptions).draws, preview.size - 1)
    return preview.replayed(len(preview.modalities) * draws)


@probe(
    "calibration",
    summary="calibration error and overconfidence, with every modality and with each one taken from another example",
    definition="; ".join(f"{name}: {meaning}" for name, meaning in MEASURES.items()),
    source=SOURCE,
    cannot="a calibrated model may ignore a modality; with few examples a bin the calibration error is biased up",
    options=CalibrationOptions,
    cost=estimate_cost,
)
def run(adapter: Adapter, features: Features, *, settings: Settings) -> Iterator[Result]:
    options = settings.own(CalibrationOptions)
    if adapter.task.name != "classification":
        raise NumericsError("it needs the task classification, where a prediction has a confidence")
    others = marginal_samples(len(features), options.draws, settings.seed)
    situations: dict[str | None, list[Tensor]] = {None: [features.outputs]}
    for modality in features.modalities:
        situations[modality] = [predict(adapter, features, swap={modality: other}).outputs for other in others]
    for absent, outputs in situations.items():
        excess = torch.stack([binned_excess(adapter, features, o, options.bins) for o in outputs]).mean(dim=0)
        how = f"{absent} taken from another example, {len(outputs)} times each" if absent else "the model as it is"
        for name, meaning in MEASURES.items():
            values = with_leave_outs(name, excess, torch.bincount(features.groups))
            low, high = jackknife_interval(values[0], values[1:], settings.level)
            yield Result(
                name=f"calibration.{name}_without" if absent else f"calibration.{name}",
                probe="calibration",
                modality=absent,
                value=values[0],
                interval=(max(low, 0.0) if name == "ece" else low, high),
                unit="probability",
                definition=f"{meaning}; {how}",
                source=SOURCE,
            )


def binned_excess(adapter: Adapter, features: Features, outputs: Tensor, bins: int) -> Tensor:
    """Sum of confidence minus correctness in each bin, by jackknife group, (groups, bins)."""
    confidence, predicted = adapter.task.expect(outputs).max(dim=1)
    excess = confidence - (predicted == features.targets).double()
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1  # bin k holds ((k - 1) / bins, k / bins]
    sums = torch.zeros(int(features.groups.max()) + 1, bins, dtype=torch.float64)
    return sums.index_put_((features.groups, bin_of), excess, accumulate=True)


def with_leave_outs(measure: str, excess: Tensor, sizes: Tensor) -> list[float]:
    """The measure over all examples, then without each jackknife group."""
    sums = torch.cat([excess.sum(dim=0, keepdim=True), excess.sum(dim=0) - excess])
    examples = torch.cat([sizes.sum()[None], sizes.sum() - sizes])
    over_bins = sums.abs().sum(dim=1) if measure == "ece" else sums.sum(dim=1)
    values: list[float] = (over_bins / examples).tolist()
    return values
