"""Task: what an answer is worth, the loss and the metric that every probe speaks in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Self

from torch import Tensor

from collapsekit.errors import ConfigError, DataError, NumericsError, did_you_mean
from collapsekit.stats.inference.bounds import UNBOUNDED
from collapsekit.stats.linear import Linear, LinearAtPlaces
from collapsekit.tasks.choices import ChoiceReader
from collapsekit.tasks.grid import Grid
from collapsekit.tasks.reading import OutputReader

# Below this a probability counts as zero; keeps the loss of a confidently wrong model finite.
FLOOR = 1e-30
Metric = Callable[[Tensor, Tensor], float]


class Task(OutputReader, ChoiceReader, ABC):
    """Loss and metric over *expectations*: outputs mapped to a space where averaging over resampled
    inputs is meaningful (probabilities, or the prediction itself; SAGE, Covert et al. 2020, eq. 2).

    A subclass is one file and registers itself with ``@task("name", summary=...)``, which gives it its ``name``. Values are
    tensors whose first axis is the example; expectations and losses are float64. Outputs are what ``read`` makes of a
    model's prediction."""

    name: str  # as a config and a report name it
    loss_name: str
    metric_name: str
    loss_bounds = UNBOUNDED  # the least and the most that an example's loss can be
    metric_bounds = UNBOUNDED  # likewise of the metric
    has_labels = True  # whether it reads the data's label
    embeddings = 1  # parts of what a model returns that make its output, side by side
    grid: Grid | None = None  # the places of an example that are scored, where these lie along axes as inputs do
    mean_over_examples = False  # whether training_loss is a plain mean of each example's own loss
    scores_sets: ClassVar[bool] = False  # whether an example's loss depends on the others that are scored with it
    expects_sets: ClassVar[bool] = False  # whether what is expected of an example depends on the others beside it
    gaps: ClassVar[bool] = False  # whether a NaN among the labels is a value that is left out

    @classmethod
    def create(cls, *, metric: str | None, temperature: float) -> Self:
        """Make the task of what a config says.

        Args:
            metric: which of its metrics, for a task that has several; None: the first.
            temperature: for tasks that compare embeddings.

        Returns:
            The task.

        Raises:
            ConfigError: for a metric that it does not have.
        """
        del temperature
        need_one_metric(metric, cls.name)
        return cls()

    @abstractmethod
    def expect(self, outputs: Tensor) -> Tensor:
        """Turn outputs (n, ...), as ``read`` made them, into expectations (n, ...), float64, that may be averaged over
        draws."""

    @abstractmethod
    def loss(self, expected: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss of each example, float64 (n,), lower is better; ``expected`` (n, ...), ``targets`` (n, ...)."""

    @abstractmethod
    def metric(self, expected: Tensor, targets: Tensor) -> float:
        """Score a set of examples with the task metric, higher is better; ``expected`` (n, ...), ``targets`` (n, ...)."""

    @abstractmethod
    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the mean loss of outputs (n, ...) with gradient, for training; a scalar in the outputs' dtype."""

    def prior(self, targets: Tensor, width: int) -> Tensor:
        """Find the best constant expectation (1, width) for these (training) targets (n, ...). Raises NumericsError."""
        raise NumericsError(f"task {self.name!r} does not say what the best constant prediction is")

    def fit_linear(self, x: Tensor, targets: Tensor, width: int, l2: float) -> Linear:
        """Fit a linear readout of features, whose predictions lie in natural space.

        Args:
            x: features (n, d).
            targets: as ``check`` gives them, (n, ...).
            width: how many values an expectation has.
            l2: weight of the squared weights.

        Returns:
            The readout: features (n, d) to natural values, which ``expect`` takes as outputs.

        Raises:
            NumericsError: for a task that does not say how, and where the fit fails.
        """
        raise NumericsError(f"task {self.name!r} does not say how features are read out linearly")

    def fit_at_places(self, x: Tensor, targets: Tensor, l2: float) -> LinearAtPlaces:
        """Fit one linear readout for all places of a task that has a ``grid``.

        Args:
            x: features of each place, (n, P, d).
            targets: as ``check`` gives them, (n, P).
            l2: weight of the squared weights.

        Returns:
            The readout: features of places side by side (n, P · d) to natural values (n, P · C).

        Raises:
            NumericsError: for a task that does not say how, and where the fit fails.
        """
        raise NumericsError(f"task {self.name!r} does not say how features of places are read out linearly")

    def to_natural(self, expected: Tensor) -> Tensor:
        """Move expectations (n, C) to the space where evidence adds up: log-probabilities, logits, values (n, C)."""
        return expected

    def from_natural(self, natural: Tensor) -> Tensor:
        """Move natural values (n, C) back to expectations (n, C)."""
        return natural

    @classmethod
    def has_prior(cls) -> bool:
        """Tell whether it says what the best constant answer is: without one nothing can be due to a modality."""
        return cls.prior is not Task.prior

    def prior_loss(self, expected: Tensor, prior: Tensor) -> Tensor | None:
        """Compute the mean loss, a scalar, of expectations (n, C) over labels drawn from ``prior``, (1, C) as
        ``to_natural`` gives it; None where a prior is no distribution of labels.
        """
        del expected, prior
        return None

    def hits(self, expected: Tensor, targets: Tensor) -> Tensor | None:
        """Tell whether each answer is right, bool (n,), where the metric is the share of right answers in any set; else
        None.
        """
        del expected, targets
        return None

    def metric_parts(self, expected: Tensor, targets: Tensor) -> Tensor | None:
        """Return numbers (n,) whose mean is the metric over these n examples; None for a metric that is no such mean."""
        right = self.hits(expected, targets)
        return None if right is None else right.double()

    def metric_left_out(self, expected: Tensor, targets: Tensor, groups: Tensor) -> Tensor | None:
        """Score all examples with the metric, then all without each group, where that is faster than one set at a time.

        Args:
            expected: expectations (n, ...).
            targets: (n, ...).
            groups: int64 (n,), 0 to G - 1.

        Returns:
            float64 (1 + G,); None where there is no faster way.
        """
        del expected, targets, groups
        return None

    def effective_count(self, targets: Tensor) -> float:
        """Count the independent examples that a metric of hits over targets (n, ...) rests on, each at most once."""
        return float(len(targets))

    def unvarying(self, targets: Tensor) -> str | None:
        """Name what every target (n, ...) is, where all are the same and nothing can be learned or scored; else None."""
        if not self.has_labels or not len(targets) or bool((targets != targets[:1]).any()):
            return None
        return str(targets[0].item()) if targets[0].numel() == 1 else "the same"

    def caveat(self, targets: Tensor) -> str | None:
        """Say in a sentence what has to be known of targets (n, ...) to read the numbers; None: nothing."""
        del targets
        return None

    def need_shape(self, outputs: Tensor, targets: Tensor) -> None:
        """Check that the task can read outputs of this shape, as soon as there are some.

        Args:
            outputs: the model's, (n, ...).
            targets: labels (n, ...) as the data has them.

        Raises:
            ConfigError: where no labels would make it read them.
            DataError: where it reads them beside other labels.
        """
        del outputs, targets

    def check(self, targets: Tensor, outputs: Tensor, split: str) -> Tensor:
        """Bring targets into the form that the loss wants.

        Args:
            targets: labels (n, ...) as the data has them.
            outputs: the model's outputs (n, ...).
            split: of the data, for messages.

        Returns:
            The targets (n, ...).

        Raises:
            ConfigError: where the task cannot read outputs of that shape.
            DataError: where they do not fit the outputs.
        """
        if len(targets) != len(outputs):
            raise DataError(
                f"split {split!r} has {len(targets)} labels for {len(outputs)} predictions: they must match."
            )
        self.need_shape(outputs, targets)
        return targets


def need_one_metric(metric: str | None, task: str) -> None:
    """Raise ConfigError for a ``metric`` of a task that has one only."""
    if metric is not None:
        raise ConfigError(f"metric {metric!r} cannot be chosen for task {task!r}: remove the `metric` line.")


def choose_metric(name: str | None, known: Mapping[str, Metric]) -> Metric:
    """Return the metric of that name among those ``known``; None: the first. Raises ConfigError."""
    if name is None:
        return next(iter(known.values()))
    if name not in known:
        raise ConfigError(f"metric {name!r} is not one of {', '.join(known)}{did_you_mean(name, known)} for this task.")
    return known[name]
