"""Retrieval: paired embeddings, each of which is to find its partner."""

from __future__ import annotations

from collections.abc import Iterator
from math import log, sqrt
from typing import Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.registry import task
from collapsekit.stats.inference.bounds import NOT_NEGATIVE, SHARE
from collapsekit.tasks.base import Task

LOSSES = ("infonce", "siglip")
FIRST = (1, 5, 10)  # ranks that count as found
METRICS = {f"{way}recall_at_{k}": f"{way.replace('_', ' ')}recall@{k}" for way in ("", "back_", "mean_") for k in FIRST}


@task("retrieval", summary="paired embeddings; InfoNCE or SigLIP within fixed blocks; recall@1, 5 or 10, either way")
class Retrieval(Task):
    """Paired embeddings: symmetric InfoNCE, or SigLIP's sigmoid loss, in fixed blocks of examples; the share of those whose
    partner is among the k nearest of its block, from the first embedding, back from the second, or the mean of both."""

    has_labels, embeddings, scores_sets = False, 2, True
    loss_bounds, metric_bounds = NOT_NEGATIVE, SHARE

    def __init__(
        self,
        temperature: float,
        block: int = 64,
        metric: str | None = None,
        loss: Literal["infonce", "siglip"] = "infonce",
        bias: float = -10.0,
    ) -> None:
        self.temperature, self.block, self.kind, self.bias = temperature, block, loss, bias
        chosen = metric or "recall_at_1"
        if chosen not in METRICS:
            raise ConfigError(
                f"metric {metric!r} is not one of {', '.join(METRICS)}{did_you_mean(chosen, METRICS)} for this task."
            )
        self.metric_name, (self._way, _, k) = METRICS[chosen], chosen.rpartition("recall_at_")
        self._first = int(k)
        name = "symmetric InfoNCE" if loss == "infonce" else "sigmoid loss of pairs (SigLIP)"
        self.loss_name = f"{name} within blocks of {block} (nats)"

    @classmethod
    def create(
        cls,
        *,
        metric: str | None,
        temperature: float,
        loss: Literal["infonce", "siglip"] = "infonce",
        bias: float = -10.0,
    ) -> Self:
        if loss not in LOSSES:
            raise ConfigError(f"task_options loss is {loss!r}, expected {' or '.join(LOSSES)}.")
        if isinstance(bias, bool) or not isinstance(bias, int | float):
            raise ConfigError(f"task_options bias is {bias!r}, expected a number, which is added to similarities.")
        return cls(temperature, metric=metric, loss=loss, bias=float(bias))

    def expect(self, outputs: Tensor) -> Tensor:
        return torch.cat([F.normalize(x, dim=1) for x in outputs.double().chunk(2, dim=1)], 1)

    def _blocks(self, expected: Tensor) -> Iterator[Tensor]:
        """Similarities over the temperature within each block, (b, b)."""
        a, b = expected.chunk(2, dim=1)
        # Equal blocks, so that no example is judged against fewer negatives than the rest.
        count = max(1, round(len(a) / self.block))
        for x, y in zip(a.tensor_split(count), b.tensor_split(count), strict=True):
            yield x @ y.T / self.temperature

    def loss(self, expected: Tensor, targets: Tensor) -> Tensor:
        return torch.cat([self._each(s) for s in self._blocks(expected)])

    def _each(self, s: Tensor) -> Tensor:
        """Losses (b,) of the pairs of one block."""
        if self.kind == "infonce":
            return -(s.log_softmax(1).diagonal() + s.log_softmax(0).diagonal()) / 2
        sign = 2 * torch.eye(len(s), dtype=s.dtype, device=s.device) - 1
        wrong = F.softplus(-sign * (s + self.bias))
        return (wrong.sum(0) + wrong.sum(1)) / 2

    def metric(self, expected: Tensor, targets: Tensor) -> float:
        return float(torch.cat([self._recalled(s) for s in self._blocks(expected)]).mean())

    def _recalled(self, s: Tensor) -> Tensor:
        """How far each example's partner is found, (b,), 0 to 1."""
        ways = {"": [s], "back_": [s.T], "mean_": [s, s.T]}[self._way]
        return torch.stack([self._among_first(way) for way in ways]).mean(0)

    def _among_first(self, s: Tensor) -> Tensor:
        index = torch.arange(len(s), device=s.device)
        if self._first == 1:
            return (s.argmax(1) == index).double()
        nearest = s.topk(min(self._first, len(s)), dim=1).indices
        return (nearest == index[:, None]).any(1).double()

    def prior(self, targets: Tensor, width: int) -> Tensor:
        """Find the best embeddings that are the same for every example, (1, width): InfoNCE asks nothing of their likeness,
        the sigmoid loss as much of it as there are pairs that belong together."""
        del targets
        found = torch.zeros(1, width, dtype=torch.float64)
        if self.kind == "siglip":
            likeness = -log(max(2, self.block) - 1) - self.bias
            found[0, [0, width // 2]] = sqrt(max(0.0, likeness * self.temperature))
        return found

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        a, b = (F.normalize(x, dim=1) for x in outputs.chunk(2, dim=1))
        return self._each(a @ b.T / self.temperature).mean()

    def need_shape(self, outputs: Tensor, targets: Tensor) -> None:
        del targets
        if outputs.ndim != 2 or outputs.shape[1] % 2:
            raise ConfigError(
                f"the model's output has shape {tuple(outputs.shape)}: task {self.name!r} needs two embeddings of "
                "equal width, (n, d) each; name them with `output: [image_embeds, text_embeds]`."
            )
