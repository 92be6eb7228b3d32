"""What the model is for: the loss and the metric every probe speaks in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from collapsekit.config.imports import import_object, one_line
from collapsekit.errors import ConfigError, DataError, NumericsError, did_you_mean
from collapsekit.stats import metrics
from collapsekit.stats.linear import Linear, fit_ridge, fit_sigmoid, fit_softmax
from collapsekit.user_code.process_state import user_code

# Below this a probability counts as zero; keeps the loss of a confidently wrong model finite.
FLOOR = 1e-30
Metric = Callable[[Tensor, Tensor], float]


class Task(ABC):
    """Loss and metric over *expectations*: outputs mapped to a space where averaging over resampled
    inputs is meaningful (probabilities, or the prediction itself; SAGE, Covert et al. 2020, eq. 2)."""

    name: str
    loss_name: str
    metric_name: str
    has_labels = True

    @abstractmethod
    def expect(self, outputs: Tensor) -> Tensor:
        """Model outputs (n, ...) as float64 values that may be averaged over draws."""

    @abstractmethod
    def loss(self, expected: Tensor, targets: Tensor) -> Tensor:
        """Loss of each example, float64 (n,), lower is better."""

    @abstractmethod
    def metric(self, expected: Tensor, targets: Tensor) -> float:
        """The task metric over a set of examples, higher is better."""

    @abstractmethod
    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss with gradient, for the baselines' training; a scalar in the outputs' dtype."""

    def prior(self, targets: Tensor, width: int) -> Tensor:
        """The best constant expectation for these (training) targets, (1, width). Raises NumericsError."""
        raise NumericsError(f"task {self.name!r} does not say what the best constant prediction is")

    def fit_linear(self, x: Tensor, targets: Tensor, width: int, l2: float) -> Linear:
        """Linear evaluation: the readout of features x (n, d) fitted to ``targets``. Raises NumericsError."""
        raise NumericsError(f"task {self.name!r} does not say how features are read out linearly")

    def to_natural(self, expected: Tensor) -> Tensor:
        """Expectations in the space where evidence adds up (log-probabilities, logits, values)."""
        return expected

    def from_natural(self, natural: Tensor) -> Tensor:
        """The way back from ``to_natural``."""
        return natural

    def unvarying(self, targets: Tensor) -> str | None:
        """What every target is, where all are the same, so that nothing can be learned or scored; else None."""
        if not self.has_labels or not len(targets) or bool((targets != targets[:1]).any()):
            return None
        return str(targets[0].item()) if targets[0].numel() == 1 else "the same"

    def check(self, targets: Tensor, outputs: Tensor, split: str) -> Tensor:
        """Targets as the loss wants them. Raises DataError where they do not fit the outputs."""
        if len(targets) != len(outputs):
            raise DataError(
                f"split {split!r} has {len(targets)} labels for {len(outputs)} predictions: they must match."
            )
        return targets


class Classification(Task):
    """Exclusive classes: cross-entropy in nats; accuracy, or balanced accuracy."""

    name, loss_name = "classification", "cross-entropy (nats)"

    def __init__(self, metric: str | None = None) -> None:
        self._metric = _pick(metric, {"accuracy": metrics.accuracy, "balanced_accuracy": metrics.balanced_accuracy})
        self.metric_name = metric or "accuracy"

    def expect(self, outputs: Tensor) -> Tensor:
        logits = outputs.double().reshape(len(outputs), -1)
        if logits.shape[1] == 1:  # one logit: the second class against the first
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        return logits.softmax(1)

    def loss(self, expected: Tensor, targets: Tensor) -> Tensor:
        return -expected.gather(1, targets[:, None])[:, 0].clamp_min(FLOOR).log()

    def metric(self, expected: Tensor, targets: Tensor) -> float:
        return self._metric(expected, targets)

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        logits = outputs.reshape(len(outputs), -1)
        if logits.shape[1] == 1:
            return F.binary_cross_entropy_with_logits(logits[:, 0], targets.to(logits.dtype))
        return F.cross_entropy(logits, targets)

    def prior(self, targets: Tensor, width: int) -> Tensor:
        counts = torch.bincount(targets, minlength=width).double() + 1.0
        return (counts / counts.sum())[None]

    def fit_linear(self, x: Tensor, targets: Tensor, width: int, l2: float) -> Linear:
        return fit_softmax(x, targets, width, l2)

    def to_natural(self, expected: Tensor) -> Tensor:
        return expected.clamp_min(FLOOR).log()

    def from_natural(self, natural: Tensor) -> Tensor:
        return natural.softmax(1)

    def check(self, targets: Tensor, outputs: Tensor, split: str) -> Tensor:
        super().check(targets, outputs, split)
        width = outputs.reshape(len(outputs), -1).shape[1]
        classes = 2 if width == 1 else width
        if targets.is_floating_point():
            if not bool((targets == targets.round()).all()):
                raise DataError(
                    f"labels of split {split!r} are fractional: classification needs class numbers; "
                    "for real-valued targets set `task: regression`."
                )
            targets = targets.long()
        targets = targets[:, 0] if targets.ndim == 2 and targets.shape[1] == 1 else targets
        if targets.ndim != 1:
            raise DataError(
                f"labels of split {split!r} have shape {tuple(targets.shape)}: classification needs one class number "
                "an example; for several labels at once set `task: multilabel`."
            )
        targets = targets.long()
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= classes:
            bad = low if low < 0 else high
            raise DataError(
                f"label {bad} of split {split!r} is out of range: the model has {classes} outputs, so labels must be "
                f"0 to {classes - 1}; check data.label and the model's number of classes."
            )
        return targets


class Multilabel(Task):
    """Independent labels: mean binary cross-entropy in nats; macro AUROC."""

    name, loss_name = "multilabel", "binary cross-entropy, mean over labels (nats)"

    def __init__(self, metric: str | None = None) -> None:
        self._metric = _pick(metric, {"macro_auroc": lambda p, y: metrics.macro_auroc(p, y > 0.5)})
        self.metric_name = metric or "macro_auroc"

    def expect(self, outputs: Tensor) -> Tensor:
        return outputs.double().reshape(len(outputs), -1).sigmoid()

    def loss(self, expected: Tensor, targets: Tensor) -> Tensor:
        p, q = expected.clamp_min(FLOOR).log(), (1 - expected).clamp_min(FLOOR).log()
        return -(targets * p + (1 - targets) * q).mean(1)

    def metric(self, expected: Tensor, targets: Tensor) -> float:
        return self._metric(expected, targets)

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs.reshape(targets.shape), targets.to(outputs.dtype))

    def prior(self, targets: Tensor, width: int) -> Tensor:
        return ((targets.double().sum(0) + 1.0) / (len(targets) + 2.0))[None]

    def fit_linear(self, x: Tensor, targets: Tensor, width: int, l2: float) -> Linear:
        return fit_sigmoid(x, targets, l2)

    def to_natural(self, expected: Tensor) -> Tensor:
        return expected.clamp_min(FLOOR).log() - (1 - expected).clamp_min(FLOOR).log()

    def from_natural(self, natural: Tensor) -> Tensor:
        return natural.sigmoid()

    def check(self, targets: Tensor, outputs: Tensor, split: str) -> Tensor:
        super().check(targets, outputs, split)
        given, targets = targets, targets.reshape(len(targets), -1)
        if targets.shape != outputs.reshape(len(outputs), -1).shape:
            raise DataError(
                f"labels of split {split!r} have shape {tuple(given.shape)}, the model's outputs "
                f"{tuple(outputs.shape)}: multilabel needs one 0/1 label an output."
            )
        targets = targets.double()
        if not bool(((targets == 0) | (targets == 1)).all()):
            raise DataError(f"labels of split {split!r} are not all 0 or 1: multilabel needs 0/1 labels.")
        return targets


class Regression(Task):
    """Real targets: squared error; R²."""

    name, loss_name = "regression", "squared error, mean over outputs"

    def __init__(self, metric: str | None = None) -> None:
        self._metric = _pick(metric, {"r2": metrics.r2})
        self.metric_name = metric or "r2"

    def expect(self, outputs: Tensor) -> Tensor:
        return outputs.double().reshape(len(outputs), -1)

    def loss(self, expected: Tensor, targets: Tensor) -> Tensor:
        return (expected - targets).square().mean(1)

    def metric(self, expected: Tensor, targets: Tensor) -> float:
        return self._metric(expected, targets)

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs.reshape(targets.shape), targets.to(outputs.dtype))

    def prior(self, targets: Tensor, width: int) -> Tensor:
        return targets.double().mean(0, keepdim=True)

    def fit_linear(self, x: Tensor, targets: Tensor, width: int, l2: float) -> Linear:
        return fit_ridge(x, targets, l2)

    def check(self, targets: Tensor, outputs: Tensor, split: str) -> Tensor:
        super().check(targets, outputs, split)
        flat = targets.double().reshape(len(targets), -1)
        width = outputs.reshape(len(outputs), -1).shape[1]
        if flat.shape[1] != width:
            raise DataError(
                f"labels of split {split!r} have {flat.shape[1]} values an example, the model predicts {width}: "
                "they must match; check data.label and `output`."
            )
        if not bool(torch.isfinite(flat).all()):
            row = int((~torch.isfinite(flat)).any(1).nonzero()[0])
            raise DataError(f"label of example {row} of split {split!r} is NaN or infinite: drop or fill it.")
        return flat


class Contrastive(Task):
    """Paired embeddings: symmetric InfoNCE within fixed blocks of examples; retrieval at rank 1."""

    name, metric_name, has_labels = "contrastive", "recall@1", False

    def __init__(self, temperature: float, block: int = 64) -> None:
        self.temperature, self.block = temperature, block
        self.loss_name = f"symmetric InfoNCE within blocks of {block} (nats)"

    def expect(self, outputs: Tensor) -> Tensor:
        return torch.cat([F.normalize(x, dim=1) for x in outputs.double().chunk(2, dim=1)], 1)

    def _logits(self, expected: Tensor) -> Iterator[Tensor]:
        a, b = expected.chunk(2, dim=1)
        # Equal blocks, so that no example is judged against fewer negatives than the rest.
        count = max(1, round(len(a) / self.block))
        for x, y in zip(a.tensor_split(count), b.tensor_split(count), strict=True):
            yield x @ y.T / self.temperature

    def loss(self, expected: Tensor, targets: Tensor) -> Tensor:
        both = [-(s.log_softmax(1).diagonal() + s.log_softmax(0).diagonal()) / 2 for s in self._logits(expected)]
        return torch.cat(both)

    def metric(self, expected: Tensor, targets: Tensor) -> float:
        hits = [(s.argmax(1) == torch.arange(len(s))).double() for s in self._logits(expected)]
        return float(torch.cat(hits).mean())

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        a, b = (F.normalize(x, dim=1) for x in outputs.chunk(2, dim=1))
        s = a @ b.T / self.temperature
        index = torch.arange(len(s), device=s.device)
        return (F.cross_entropy(s, index) + F.cross_entropy(s.T, index)) / 2

    def check(self, targets: Tensor, outputs: Tensor, split: str) -> Tensor:
        if outputs.ndim != 2 or outputs.shape[1] % 2:
            raise DataError(
                f"the model's output has shape {tuple(outputs.shape)}: a contrastive task needs two embeddings of "
                "equal width; name them with `output: [image_embeds, text_embeds]`."
            )
        return targets


class CustomLoss(Task):
    """The user's ``module:callable``: ``(outputs, targets) -> loss of each example (n,)``; metric is minus its mean."""

    def __init__(self, spec: str, call: Callable[[Tensor, Tensor], Any]) -> None:
        self.name, self.loss_name, self.metric_name, self._call = spec, spec, "negative loss", call

    def expect(self, outputs: Tensor) -> Tensor:
        return outputs.double()

    def loss(self, expected: Tensor, targets: Tensor) -> Tensor:
        value = self._guarded(expected, targets)
        if not isinstance(value, Tensor) or value.shape != (len(expected),):
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(
                f"task {self.name!r} returned {found} for {len(expected)} examples: "
                "return one loss an example, shape (n,), as reduction='none' gives."
            )
        return value.double()

    def metric(self, expected: Tensor, targets: Tensor) -> float:
        return -float(self.loss(expected, targets).mean())

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cast(Tensor, self._guarded(outputs, targets)).mean()

    def _guarded(self, outputs: Tensor, targets: Tensor) -> Any:
        try:
            with user_code(f"task {self.name!r}"):
                return self._call(outputs, targets)
        except Exception as e:
            given = f"outputs {tuple(outputs.shape)} {outputs.dtype}, targets {tuple(targets.shape)} {targets.dtype}"
            raise ConfigError(f"task {self.name!r} failed, called with ({given}): {one_line(e)}.") from e


def _pick(name: str | None, known: dict[str, Metric]) -> Metric:
    if name is None:
        return next(iter(known.values()))
    if name not in known:
        raise ConfigError(f"metric {name!r} is not one of {', '.join(known)}{did_you_mean(name, known)} for this task.")
    return known[name]


TASKS: dict[str, str] = {
    "classification": "one class an example; cross-entropy, accuracy or balanced_accuracy",
    "multilabel": "independent 0/1 labels; binary cross-entropy, macro AUROC",
    "regression": "real targets; squared error, R²",
    "contrastive": "paired embeddings; InfoNCE within fixed blocks, recall@1",
}


def make_task(name: str, *, metric: str | None, temperature: float, base: Path) -> Task:
    """The task of that name, or the user's ``module:callable`` loss. Raises ConfigError."""
    plain: tuple[type[Classification | Multilabel | Regression], ...] = (Classification, Multilabel, Regression)
    for kind in plain:
        if kind.name == name:
            return kind(metric)
    if name != "contrastive" and ":" not in name:
        raise ConfigError(
            f"task {name!r} is not one of {', '.join(TASKS)}{did_you_mean(name, TASKS)}, nor a 'module:callable' loss."
        )
    if metric is not None:
        raise ConfigError(f"metric {metric!r} cannot be chosen for task {name!r}: remove the `metric` line.")
    if name == "contrastive":
        return Contrastive(temperature)
    call = import_object(name, base, "task")
    if not callable(call):
        raise ConfigError(f"task {name!r} is {type(call).__name__}, expected a function (outputs, targets) -> losses.")
    return CustomLoss(name, call)
