"""Generative: what a model makes of a hidden code, as VAEs and their mixtures of experts do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor

from collapsekit.errors import ConfigError, DataError
from collapsekit.registry import task
from collapsekit.stats.linear import Linear, fit_ridge, fit_sigmoid
from collapsekit.tasks.base import FLOOR, Metric, Task, choose_metric

LIKELIHOODS = ("gaussian", "bernoulli")
SAME = 32  # examples by which a column of an input is found among the targets


@task("generative", summary="what is generated, beside a code; negative log-likelihood; ELBO or log-likelihood")
class Generative(Task):
    """Means (or logits) of what is generated, (n, D), of each of M experts (n, M, D); behind them mean and log-variance of a
    Gaussian code of L numbers, (n, ..., D + 2 L), or the divergence itself, (n, ..., D + 1).

    The loss is the mean over experts of minus the log-likelihood, in nats, without what depends on the targets alone. The
    ELBO takes the code's divergence from the standard normal off as well (Kingma & Welling 2014; experts as strata: Shi et
    al. 2019); it is a metric, and what is trained by, but no part of the loss: no reference sends a code.
    """

    needs_targets = mean_over_examples = True

    def __init__(
        self,
        metric: str | None = None,
        likelihood: Literal["gaussian", "bernoulli"] = "gaussian",
        deviation: float = 1.0,
    ) -> None:
        metrics: dict[str, Metric] = {"elbo": self._elbo, "log_likelihood": self._likelihood}
        self._metric, self.metric_name = choose_metric(metric, metrics), metric or "elbo"
        self.likelihood, self.deviation = likelihood, deviation
        of = f"normal of deviation {deviation:g}, up to a constant" if likelihood == "gaussian" else "0 to 1"
        self.loss_name = f"negative log-likelihood of what is generated ({of}; nats)"
        self.size = 1  # numbers of a target, D
        self.coded = False  # whether a divergence stands behind what is generated

    @classmethod
    def create(
        cls,
        *,
        metric: str | None,
        temperature: float,
        likelihood: Literal["gaussian", "bernoulli"] = "gaussian",
        deviation: float = 1.0,
    ) -> Self:
        del temperature
        if likelihood not in LIKELIHOODS:
            raise ConfigError(f"task_options likelihood is {likelihood!r}, expected {' or '.join(LIKELIHOODS)}.")
        if isinstance(deviation, bool) or not isinstance(deviation, int | float) or not 0 < deviation < float("inf"):
            raise ConfigError(f"task_options deviation is {deviation!r}, expected a number above 0.")
        return cls(metric, likelihood, float(deviation))

    def pick(self, output: Any, rows: int) -> Tensor | None:
        """Lay a tuple (what is generated, mean, log-variance) side by side, as VAEs return it."""
        del rows
        if not isinstance(output, tuple | list) or len(output) < 2:
            return None
        return self.join(output)

    def join(self, parts: Sequence[Any]) -> Tensor | None:
        """Lay parts (n, ...), or of M experts (n, M, ...), side by side; the axes of the last tell which."""
        if not all(isinstance(part, Tensor) and part.ndim > 1 for part in parts):
            return None
        start = parts[-1].ndim - 1
        flat = [part.flatten(min(start, part.ndim - 1)) for part in parts]
        return torch.cat(flat, -1) if len({part.shape[:-1] for part in flat}) == 1 else None

    def read(self, prediction: Tensor, targets: Tensor | None) -> Tensor:
        assert targets is not None
        size = targets[0].numel()
        parts = prediction
        if prediction.shape[1:] == targets.shape[1:] or prediction.ndim == 1:
            parts = prediction.reshape(len(prediction), -1)
        width = parts.shape[-1]
        if parts.ndim not in (2, 3) or width < size or ((width - size) % 2 and width - size != 1):
            raise ConfigError(
                f"the model's output has shape {tuple(prediction.shape)}, its labels {tuple(targets.shape)}: task "
                f"'generative' reads {size} numbers that are generated, then mean and log-variance of the code (as many of "
                "each) or its divergence alone, of one expert (n, numbers) or of several (n, experts, numbers); name the "
                "parts with `output`."
            )
        generated, code = parts[..., :size].float(), parts[..., size:].float()
        self.size, self.coded = size, width > size
        if self.likelihood == "bernoulli":
            generated = generated.sigmoid()
        if code.shape[-1] > 1:
            mean, log_variance = code.chunk(2, -1)
            code = ((mean.square() + log_variance.exp() - 1 - log_variance) / 2).sum(-1, keepdim=True)
        return torch.cat([generated, code], -1).flatten(1)

    def expect(self, outputs: Tensor) -> Tensor:
        return outputs.double().reshape(len(outputs), -1)

    def loss(self, expected: Tensor, targets: Tensor) -> Tensor:
        return self._of_targets(expected, targets)

    def metric(self, expected: Tensor, targets: Tensor) -> float:
        return self._metric(expected, targets)

    def metric_parts(self, expected: Tensor, targets: Tensor) -> Tensor | None:
        code = self._code(expected) if self.metric_name == "elbo" else 0.0
        return -self._of_targets(expected, targets) - code

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the mean negative ELBO, code included."""
        return (self._of_targets(outputs, targets.to(outputs.dtype)) + self._code(outputs)).mean()

    def prior(self, targets: Tensor, width: int) -> Tensor:
        """Generate the mean of all targets, without a code: (1, width)."""
        return self._wide(targets.double().mean(0, keepdim=True), width)

    def fit_linear(self, x: Tensor, targets: Tensor, width: int, l2: float) -> Linear:
        fit = fit_sigmoid if self.likelihood == "bernoulli" else fit_ridge
        one = fit(x, targets, l2)
        bias = self._wide(one.bias[None], width)[0]
        return Linear(self._wide(one.weight, width), bias, one.mean, one.scale, one.gradient)

    def to_natural(self, expected: Tensor) -> Tensor:
        if self.likelihood == "gaussian":
            return expected
        p = self._generated(expected)
        return self._with(expected, p.clamp_min(FLOOR).log() - (1 - p).clamp_min(FLOOR).log())

    def from_natural(self, natural: Tensor) -> Tensor:
        return natural if self.likelihood == "gaussian" else self._with(natural, self._generated(natural).sigmoid())

    def answers_in(self, inputs: Mapping[str, Tensor], labels: Tensor) -> tuple[str, ...]:
        """Name the inputs of which any number that varies is, in all of ``SAME`` examples, a number of the target."""
        known = _columns(labels)
        return tuple(key for key, value in inputs.items() if _columns(value) & known)

    def check(self, targets: Tensor, outputs: Tensor, split: str) -> Tensor:
        super().check(targets, outputs, split)
        flat = targets.double().reshape(len(targets), -1)
        if flat.shape[1] != self.size:
            raise DataError(
                f"labels of split {split!r} have {flat.shape[1]} numbers an example, those of another split {self.size}: "
                "what is generated has one size."
            )
        if not bool(flat.isfinite().all()):
            raise DataError(f"labels of split {split!r} are not all finite: drop or fill such examples.")
        if self.likelihood == "bernoulli" and not bool(((flat >= 0) & (flat <= 1)).all()):
            raise DataError(
                f"labels of split {split!r} are not all from 0 to 1, as likelihood 'bernoulli' needs them: scale them, or "
                "set `task_options: {likelihood: gaussian}`."
            )
        return flat

    def _experts(self, values: Tensor) -> Tensor:
        """Values (n, M · (D + 1)), or D without a code, as (n, M, ...)."""
        return values.reshape(len(values), -1, self.size + self.coded)

    def _generated(self, values: Tensor) -> Tensor:
        return self._experts(values)[..., : self.size]

    def _with(self, values: Tensor, generated: Tensor) -> Tensor:
        """Values with something else generated, (n, M, D)."""
        return torch.cat([generated, self._experts(values)[..., self.size :]], 2).flatten(1)

    def _wide(self, rows: Tensor, width: int) -> Tensor:
        """Rows (k, D) for every expert, with a divergence of 0 where there are any: (k, width)."""
        one = torch.cat([rows, rows.new_zeros(len(rows), int(self.coded))], 1)
        return one.repeat(1, width // one.shape[1])

    def _of_targets(self, expected: Tensor, targets: Tensor) -> Tensor:
        generated, truth = self._generated(expected), targets[:, None]
        if self.likelihood == "gaussian":
            each = ((generated - truth) / self.deviation).square() / 2
        else:
            p, q = generated.clamp_min(FLOOR).log(), (1 - generated).clamp_min(FLOOR).log()
            each = -(truth * p + (1 - truth) * q)
        return each.sum(2).mean(1)

    def _code(self, values: Tensor) -> Tensor:
        """The code's divergence, mean over experts, (n,); 0 where the model gives none."""
        return self._experts(values)[..., self.size :].sum(2).mean(1)

    def _elbo(self, expected: Tensor, targets: Tensor) -> float:
        return -float((self._of_targets(expected, targets) + self._code(expected)).mean())

    def _likelihood(self, expected: Tensor, targets: Tensor) -> float:
        return -float(self._of_targets(expected, targets).mean())


def _columns(values: Tensor) -> set[bytes]:
    """What each column of values (n, ...) that varies holds in the first examples."""
    flat = values[:SAME].double().reshape(min(SAME, len(values)), -1)
    return {column.numpy().tobytes() for column in flat.T.contiguous() if bool((column != column[0]).any())}
