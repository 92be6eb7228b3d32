"""What several probes say or do alike: caveats, definitions, options and curves. No probe imports another."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field, field_validator
from torch import Tensor

from collapsekit.context import Options
from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.report.diagnosis import Curve
from collapsekit.session.costs.cost import Cost
from collapsekit.session.costs.preview import Preview
from collapsekit.session.session import Session
from collapsekit.stats.inference.bounded import bounded_interval
from collapsekit.stats.inference.bounds import UNBOUNDED, Bounds
from collapsekit.stats.inference.quantiles import normal

CONCATENATED = (
    "the fusion point only concatenates the modalities' features, so this reads the same for a healthy and a collapsed "
    "model: set `fusion` to the first submodule that mixes them"
)
READ_OUT = "linear evaluation fitted on train, its penalty chosen on held-out examples"
PREFIX_SOURCE = "Chaudhuri et al. 2025, Section 4.1 and Figure 4"
VIF = "diagonal of the inverse correlation matrix of the fused representation's non-constant columns"
SCALED = "the modality's features multiplied by β before fusion, β = 1 being the model as it is"
CKA_SOURCE = "Kornblith et al. 2019; unbiased HSIC of Song et al. 2012; Figure 5 (b, d) of Chaudhuri et al. 2025"


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
    full, (low, high) = estimate(credit, level, bounds, count)
    if sampling_error == 0:
        return low, high
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
