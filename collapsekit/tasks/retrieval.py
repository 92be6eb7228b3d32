"""Retrieval: paired embeddings, each of which is to find its partner."""

from __future__ import annotations

from math import log
from typing import Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.registry import task
from collapsekit.stats.inference.bounds import NOT_NEGATIVE, SHARE
from collapsekit.tasks.base import FLOOR, Task

LOSSES = ("infonce", "siglip")
NOTHING = -1e4  # in natural space, of what is no pair of a block
FIRST = (1, 5, 10)  # ranks that count as found
METRICS = {f"{way}recall_at_{k}": f"{way.replace('_', ' ')}recall@{k}" for way in ("", "back_", "mean_") for k in FIRST}


@task("retrieval", summary="paired embeddings; InfoNCE or SigLIP within fixed blocks; recall@1, 5 or 10, either way")
class Retrieval(Task):
    """Paired embeddings: symmetric InfoNCE, or SigLIP's sigmoid loss, in fixed blocks of examples; the share of those whose
    partner is among the k nearest of its block, from the first embedding, back from the second, or the mean of both.

    What is expected are probabilities of pairs, and not embeddings: the mean of embeddings is an embedding of its own, more
    alike to some than to others, so that a side that is absent would seem to say something wrong."""

    has_labels, embeddings, expects_sets = False, 2, True
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
        return self.match(torch.cat([F.normalize(x, dim=1) for x in outputs.double().chunk(2, dim=1)], 1))

    def match(self, embeddings: Tensor) -> Tensor:
        """Tell how likely each pair of a block is, of embeddings side by side (n, 2 d) as they are.

        Returns:
            Probabilities (n, 2*width): that the first embedding of an example belongs to the second one of itself, then of
            the example after it in its block, and so on around; then the same of its second one. 0 beyond the block.
        """
        a, b = embeddings.chunk(2, dim=1)
        # Equal blocks, so that no example is judged against fewer negatives than the rest.
        count = max(1, round(len(a) / self.block))
        rows = [self._of_block(x @ y.T) for x, y in zip(a.tensor_split(count), b.tensor_split(count), strict=True)]
        return torch.cat(rows)

    def _of_block(self, likeness: Tensor) -> Tensor:
        s, size = likeness / self.temperature, len(likeness)
        ways = [(x + self.bias).sigmoid() if self.kind == "siglip" else x.softmax(1) for x in (s, s.T)]
        index = torch.arange(size, device=s.device)
        around = (index[:, None] + index) % size
        return torch.cat([F.pad(way.gather(1, around), (0, self.width - size)) for way in ways], 1)

    @property
    def width(self) -> int:
        """Examples that a block has at most."""
        return self.block * 3 // 2

    def choices_of(self, outputs: Tensor) -> int:
        """Partners to choose from in a block: absent modalities are to meet one that fits, among the draws."""
        return min(self.block, len(outputs))

    def to_natural(self, expected: Tensor) -> Tensor:
        known = expected.clamp(FLOOR, 1 - FLOOR if self.kind == "infonce" else 1 - 1e-16)
        natural = known.logit() if self.kind == "siglip" else known.log()
        return torch.where(expected > 0, natural, NOTHING)

    def from_natural(self, natural: Tensor) -> Tensor:
        if self.kind == "siglip":
            return natural.sigmoid()
        return torch.cat([way.softmax(1) for way in natural.chunk(2, 1)], 1)

    def chance(self) -> Tensor:
        """Return what is to be expected of a pair of which nothing is known, in natural space, (1, 2*width)."""
        known = -log(self.block - 1) if self.kind == "siglip" else 0.0
        return torch.full((1, 2 * self.width), known, dtype=torch.float64)

    @property
    def likeness(self) -> float:
        """How alike any two embeddings are if nothing is known of them and all are alike."""
        return self.temperature * (float(self.chance()[0, 0]) - self.bias) if self.kind == "siglip" else 0.0

    def nothing_known(self, count: int) -> Tensor:
        """Return in natural space what is to be expected of ``count`` examples in their blocks, (n, 2*width)."""
        there = self.match(torch.zeros(count, 2, dtype=torch.float64)) > 0
        return torch.where(there, self.chance(), NOTHING)

    def loss(self, expected: Tensor, targets: Tensor) -> Tensor:
        right, wrong = torch.zeros(len(expected)).double(), torch.zeros(len(expected)).double()
        for way in expected.chunk(2, 1):
            right = right - way[:, 0].clamp_min(FLOOR).log()
            if self.kind == "siglip":
                wrong = wrong - (1 - way[:, 1:]).clamp_min(FLOOR).log().sum(1)
        return (right + wrong) / 2

    def metric(self, expected: Tensor, targets: Tensor) -> float:
        parts = self.metric_parts(expected, targets)
        assert parts is not None
        return float(parts.mean())

    def metric_parts(self, expected: Tensor, targets: Tensor) -> Tensor:
        ways = expected.chunk(2, 1)
        chosen = {"": ways[:1], "back_": ways[1:], "mean_": ways}[self._way]
        return torch.stack([self._among_first(way) for way in chosen]).mean(0)

    def _among_first(self, way: Tensor) -> Tensor:
        """How surely each partner is among the first, (n,), where those that are as likely come in any order."""
        own, others = way[:, :1], way[:, 1:]
        before, alike = (others > own).sum(1), (others == own).sum(1)
        return ((self._first - before) / (1 + alike)).clamp(0.0, 1.0).double()

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        a, b = (F.normalize(x, dim=1) for x in outputs.chunk(2, dim=1))
        s = a @ b.T / self.temperature
        if self.kind == "infonce":
            return -(s.log_softmax(1).diagonal() + s.log_softmax(0).diagonal()).mean() / 2
        sign = 2 * torch.eye(len(s), dtype=s.dtype, device=s.device) - 1
        return F.softplus(-sign * (s + self.bias)).sum() / len(s)

    def need_shape(self, outputs: Tensor, targets: Tensor) -> None:
        del targets
        if outputs.ndim != 2 or outputs.shape[1] % 2:
            raise ConfigError(
                f"the model's output has shape {tuple(outputs.shape)}: task {self.name!r} needs two embeddings of "
                "equal width, (n, d) each; name them with `output: [image_embeds, text_embeds]`."
            )
