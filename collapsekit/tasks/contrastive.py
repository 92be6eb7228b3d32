"""Contrastive: paired embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from collapsekit.errors import ConfigError
from collapsekit.registry import task
from collapsekit.stats.inference.bounds import NOT_NEGATIVE, SHARE
from collapsekit.tasks.base import Task, need_one_metric


@task("contrastive", summary="paired embeddings; InfoNCE within fixed blocks, recall@1")
class Contrastive(Task):
    """Paired embeddings: symmetric InfoNCE within fixed blocks of examples; retrieval at rank 1."""

    metric_name, has_labels, embeddings = "recall@1", False, 2
    loss_bounds, metric_bounds = NOT_NEGATIVE, SHARE

    def __init__(self, temperature: float, block: int = 64) -> None:
        self.temperature, self.block = temperature, block
        self.loss_name = f"symmetric InfoNCE within blocks of {block} (nats)"

    @classmethod
    def create(cls, *, metric: str | None, temperature: float) -> Self:
        need_one_metric(metric, cls.name)
        return cls(temperature)

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

    def need_shape(self, outputs: Tensor, targets: Tensor) -> None:
        del targets
        if outputs.ndim != 2 or outputs.shape[1] % 2:
            raise ConfigError(
                f"the model's output has shape {tuple(outputs.shape)}: a contrastive task needs two embeddings of "
                "equal width, (n, d) each; name them with `output: [image_embeds, text_embeds]`."
            )
