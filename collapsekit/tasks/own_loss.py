"""Own loss: what the model itself returns as its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from collapsekit.errors import ConfigError
from collapsekit.registry import task
from collapsekit.tasks.base import Task


@task("own_loss", summary="what the model returns as its loss, or the sum of a dictionary of losses")
class OwnLoss(Task):
    """One loss an example, (n,) or (n, 1), or a mapping of such: its part ``loss``, else the sum of all whose names have
    "loss" in them. A model that returns one number for a whole batch is run on one example at a time. Labels, where it takes
    them, are among ``data.also``, so that they stay with their examples."""

    has_labels, mean_over_examples = False, True
    loss_name, metric_name = "the model's own loss", "negative loss"

    def pick(self, output: Any, rows: int) -> Tensor | None:
        if not isinstance(output, Mapping):
            return None
        names = ["loss"] if "loss" in output else [name for name in output if "loss" in str(name)]
        parts = [output[name] for name in names if isinstance(output[name], Tensor)]
        if not parts:
            raise ConfigError(
                f"the model returns parts {', '.join(map(str, output))}, none called a loss: name the one that is with "
                "`output`, or let the model return its losses, in training form if need be."
            )
        return torch.stack([self._each(part, rows) for part in parts]).sum(0)

    def join(self, parts: Sequence[Any]) -> Tensor | None:
        """Add losses up that ``output`` names."""
        return torch.stack(list(parts)).sum(0) if len({part.shape for part in parts}) == 1 else None

    def read(self, prediction: Tensor, targets: Tensor | None) -> Tensor:
        del targets
        return self._each(prediction, len(prediction))[:, None]

    def expect(self, outputs: Tensor) -> Tensor:
        return outputs.double()

    def loss(self, expected: Tensor, targets: Tensor) -> Tensor:
        return expected[:, 0]

    def metric(self, expected: Tensor, targets: Tensor) -> float:
        return -float(expected.mean())

    def metric_parts(self, expected: Tensor, targets: Tensor) -> Tensor | None:
        return -expected[:, 0]

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.mean()

    def _each(self, part: Tensor, rows: int) -> Tensor:
        """A loss of each example, (n,)."""
        if part.numel() == rows:
            return part.reshape(rows)
        if part.ndim == 0:
            raise ConfigError(
                f"the model returns one loss for {rows} examples: return one of each (reduction='none'), or set "
                "`model: {one_by_one: true}`, and each example is run by itself."
            )
        raise ConfigError(
            f"the model returns losses of shape {tuple(part.shape)} for {rows} examples, expected one an example: average "
            "them over what is no example."
        )
