"""What several probes say or do alike: caveats, definitions, options and curves. No probe imports another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from pydantic import Field, field_validator
from torch import Tensor

from collapsekit.context import Options
from collapsekit.errors import ConfigError, NumericsError, did_you_mean
from collapsekit.report.diagnosis import Curve
from collapsekit.session.costs.cost import Cost
from collapsekit.session.costs.preview import Preview
from collapsekit.session.session import Session
from collapsekit.stats.inference.bounded import bounded_interval
from collapsekit.stats.inference.bounds import UNBOUNDED, Bounds
from collapsekit.stats.inference.quantiles import normal
from collapsekit.stats.inference.sums import Part, difference_interval

CONCATENATED = (
    "the fusion point only concatenates the modalities' features, so this reads the same for a healthy and a collapsed "
    "model: set `fusion` to the first submodule that mixes them"
)
READ_OUT = "linear evaluation fitted on train, its penalty chosen on held-out examples"
PREFIX_SOURCE = "Chaudhuri et al. 2025, Section 4.1 and Figure 4"
VIF = "diagonal of the inverse correlation matrix of the fused representation's non-constant columns"
SCALED = "the modality's features multiplied by β before fusion, β = 1 being the model as it is"
CKA_SOURCE = "Kornblith et al. 2019; unbiased HSIC of Song et al. 2012; Figure 5 (b, d) of Chaudhuri et al. 2025"


@dataclass(frozen=True)
class Credit:
    """What a modality is credited with, and how sure that is."""

    values: Tensor  # over all examples, then without each jackknife group, (1+G,)
    held: Part | None  # mean worth of coalitions with the modality, of which it is made; None: not of one
    whole: Part | None  # what of that is the worth of all modalities together
    error: float  # standard error of sampled orders and of a model that samples; 0 where it is exact
    ends: tuple[float, float]  # of its interval

    @property
    def parts(self) -> list[Part]:
        """What it is the sum of: what the model reaches with all modalities, what with the modality and not all others, and
        minus what it reaches without."""
        if self.held is None or self.whole is None:
            return [Part(self.values)]
        others = Part(self.held.values - self.whole.values, self.held.bounds, self.held.count)
        return [self.whole, others, Part(self.values - self.held.values)]

    def at_least(self, least: Tensor | float, ends: tuple[float, float] = (0.0, 0.0)) -> Credit:
        """Return the larger of it and ``least``, (1+G,) with its ``ends``, or a constant."""
        floor = torch.as_tensor(least, dtype=torch.float64).expand_as(self.values)
        if bool((self.values >= floor).all()):
            return self
        span = max(self.ends[0], ends[0]), max(self.ends[1], ends[1])
        return replace(self, values=torch.maximum(self.values, floor), held=None, whole=None, ends=span)


class RankOptions(Options):
    """How ranks are read off a spectrum; growing reads what is set under the name of the probe spectrum."""

    rtol: float = Field(default=1e-3, gt=0, lt=1, description="tolerance of the numerical rank, relative to σmax")


class SweepOptions(Options):
    """What is upweighted and how far; similarity reads what is set under the name of the probe rank_sweep."""

    betas: tuple[float, ...] = Field(default=(0.0, 0.5, 1.0, 2.0, 4.0, 6.0, 8.0), description="values of β")
    modality: str | None = Field(default=None, description="which to upweight; 'all'; default: the least used")

    @field_validator("betas")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        value = tuple(sorted(set(value)))
        if len(value) < 2 or not all(0 <= beta < math.inf for beta in value):
            raise ValueError("needs at least two different values of β, finite and none negative")
        return value

    def check_modalities(self, modalities: Sequence[str]) -> None:
        """Raise ConfigError for a modality that is none of these."""
        if self.modality not in (None, "all", *modalities):
            near = did_you_mean(str(self.modality), modalities)
            raise ConfigError(
                f"rank_sweep.modality is {self.modality!r}{near}: the model has {', '.join(modalities)}, and 'all' is all "
                "of them."
            )


def swept_modalities(session: Session, options: SweepOptions) -> tuple[str, ...]:
    """Choose the modalities to upweight: the named one, all, or the one of least Shapley credit. Raises ConfigError."""
    wanted = options.modality
    if wanted == "all":
        return session.modalities
    if wanted is not None:
        options.check_modalities(session.modalities)
        return (wanted,)
    game = session.game
    credit, _ = session.shapley_values(lambda mask: -game.value(mask).loss)
    return (session.modalities[int(credit[:, 0].argmin())],)


def cost_of_swept(preview: Preview, options: SweepOptions) -> tuple[int, Cost]:
    """Say how many modalities would be upweighted, and what it costs to choose them."""
    if options.modality == "all":
        return len(preview.modalities), Cost()
    if options.modality is not None:
        options.check_modalities(preview.modalities)
        return 1, Cost()
    return 1, preview.coalitions(preview.shapley_masks)


def need_fusion(session: Session) -> None:
    """Raise NumericsError where the config names no fusion, so that nothing is known of the representation."""
    if not session.features.fused.shape[1]:
        raise NumericsError(
            "the config names no `fusion`, the submodule whose output is the multimodal representation: name it, and this "
            "is measured"
        )


def need_mixed(session: Session) -> None:
    """Raise NumericsError where there is no representation in which modalities are mixed."""
    need_fusion(session)
    if session.features.concatenated:
        raise NumericsError(CONCATENATED)


def need_features(session: Session, *modalities: str) -> None:
    """Raise NumericsError where one of these modalities has no encoder, and so no features of its own."""
    without = [m for m in modalities if m in session.adapter.at_input]
    if without:
        raise NumericsError(
            f"{' and '.join(without)} without `encoder` in the config: known by inputs alone, so there are no features"
        )


def metric_count(session: Session) -> float:
    """Count the independent examples behind the task metric, for intervals of metrics that are all right or all wrong."""
    features = session.features
    return session.task.effective_count(features.targets) * features.independent / len(features)


def estimate(
    values: Tensor, level: float, bounds: Bounds = UNBOUNDED, count: float | None = None
) -> tuple[float, tuple[float, float]]:
    """Give a statistic and its jackknife interval.

    Args:
        values: over all examples, then without each jackknife group, (1+G,).
        level: coverage, such as 0.95.
        bounds: the least and the most that the statistic can be.
        count: of the independent examples behind a mean of hits; None: unknown.

    Returns:
        The statistic, and the interval's lower and upper end.
    """
    low, high = bounded_interval(values[0], values[1:], level, bounds, count)
    return float(values[0]), (float(low), float(high))


def credit_interval(
    credit: Tensor, sampling_error: float, level: float, bounds: Bounds = UNBOUNDED, count: float | None = None
) -> tuple[float, float]:
    """Compute the jackknife interval of a credit, widened where it is sampled.

    Args:
        credit: over all examples, then without each jackknife group, (1+G,).
        sampling_error: standard error of sampled orders, in the credit's unit; 0 where it is exact.
        level: coverage, such as 0.95.
        bounds: the least and the most that the credit can be.
        count: of the independent examples behind a mean of hits; None: unknown.

    Returns:
        The lower and the upper end.
    """
    full, ends = estimate(credit, level, bounds, count)
    return _widened(full, ends, sampling_error, level, bounds)


def difference(
    one: Tensor,
    other: Tensor,
    level: float,
    bounds: Bounds = UNBOUNDED,
    count: float | None = None,
    noise: float = 0.0,
) -> tuple[float, tuple[float, float]]:
    """Give the difference of two statistics, each of which lies within ``bounds``, and its jackknife interval.

    Args:
        one: over all examples, then without each jackknife group, (1+G,).
        other: likewise.
        level: coverage, such as 0.95.
        bounds: the least and the most that each can be.
        count: of the independent examples behind means of hits; None: unknown.
        noise: standard error of the difference, of a model that samples.

    Returns:
        The difference, and the interval's lower and upper end.
    """
    full, least = float((one - other)[0]), bounds.of_differences
    low, high = difference_interval(Part(one, bounds, count), Part(other, bounds, count), level)
    return full, _widened(full, (float(low), float(high)), noise, level, least)


def credits_of(
    session: Session,
    worth: Callable[[int], Tensor],
    bounds: Bounds,
    count: float | None = None,
    noise: float = 0.0,
) -> list[Credit]:
    """Compute the Shapley credit of every modality with its interval.

    Args:
        session: for its modalities, level and sampled orders.
        worth: of a coalition by bitmask, over all examples and without each jackknife group, (1+G,).
        bounds: the least and the most that a worth can be.
        count: where worths are means of hits, of how many independent examples; None: unknown.
        noise: standard error of a difference of worths, of a model that samples.

    Returns:
        The credits, in the order of the modalities.
    """
    values, errors = session.shapley_values(worth)
    found = []
    for i in range(len(values)):
        held, _ = session.shapley_values(partial(_worth_with, worth, i))
        _, ends = difference(held[i], held[i] - values[i], session.level, bounds, count)
        error = math.hypot(float(errors[i, 0]), noise)
        ends = _widened(float(values[i, 0]), ends, error, session.level, bounds.of_differences)
        part = 1 / len(values)  # of the orders, in which the modality comes last
        whole = Part(worth((1 << len(values)) - 1) * part, bounds.times(part), count)
        found.append(Credit(values[i], Part(held[i], bounds, count), whole, error, ends))
    return found


def _worth_with(worth: Callable[[int], Tensor], i: int, mask: int) -> Tensor:
    """The worth of coalitions with modality ``i``, and 0 for those without."""
    return worth(mask) if mask >> i & 1 else torch.zeros_like(worth(mask))


def sum_of(credits: Sequence[Credit]) -> Tensor:
    """Add up credits, over all examples, then without each jackknife group, (1+G,)."""
    return torch.stack([c.values for c in credits]).sum(0)


def _widened(
    full: float, ends: tuple[float, float], sampling_error: float, level: float, bounds: Bounds
) -> tuple[float, float]:
    low, high = ends
    if sampling_error > 0:
        z = normal(0.5 + level / 2) * sampling_error
        low, high = full - ((full - low) ** 2 + z**2) ** 0.5, full + ((high - full) ** 2 + z**2) ** 0.5
    return min(full, max(bounds.low, low)), max(full, min(bounds.high, high))


def banded_curve(
    x: tuple[float, ...] | tuple[str, ...],
    values: Tensor,
    x_label: str,
    y_label: str,
    level: float,
    bounds: Bounds = UNBOUNDED,
    count: float | None = None,
) -> Curve:
    """Make a curve with its jackknife intervals.

    Args:
        x: k places.
        values: at each place, over all examples, then without each jackknife group, (k, 1+G).
        x_label: what x is.
        y_label: what the values are.
        level: coverage, such as 0.95.
        bounds: the least and the most that each value can be.
        count: of the independent examples behind means of hits; None: unknown.

    Returns:
        The curve with its lower and upper ends.
    """
    low, high = bounded_interval(values[:, 0], values[:, 1:].T, level, bounds, count)
    return Curve(
        x=x,
        y=tuple(values[:, 0].tolist()),
        lower=tuple(low.tolist()),
        upper=tuple(high.tolist()),
        x_label=x_label,
        y_label=y_label,
        bounds=bounds.ends,
    )
