"""Survival: the time until an event, which may not have been seen."""

from __future__ import annotations

import torch
from torch import Tensor

from collapsekit.errors import ConfigError, DataError
from collapsekit.registry import task
from collapsekit.stats.inference.bounds import SHARE
from collapsekit.stats.linear import Linear, fit_cox
from collapsekit.stats.scores.cox import concordance_index, concordance_left_out, concordance_tables, cox_losses
from collapsekit.tasks.base import Task
from collapsekit.tasks.shapes import squeezed


@task("survival", summary="time and event of a subject; Cox partial likelihood; concordance index")
class Survival(Task):
    """A log-risk (n,) or (n, 1) and labels (n, 2), a subject's time and whether its event was seen then (1) or not (0); the
    loss is that of Cox's partial likelihood, over all subjects that are scored together."""

    scores_sets = True
    metric_bounds = SHARE
    loss_name = "Cox partial likelihood, negative log, against equal risks, plus 1 an event (nats)"
    metric_name = "concordance index"

    def expect(self, outputs: Tensor) -> Tensor:
        return outputs.double().reshape(len(outputs), -1)

    def loss(self, expected: Tensor, targets: Tensor) -> Tensor:
        return cox_losses(expected[:, 0], targets[:, 0], targets[:, 1])

    def metric(self, expected: Tensor, targets: Tensor) -> float:
        return concordance_index(*self._tables(expected, targets, torch.zeros(len(targets), dtype=torch.int64)))

    def metric_left_out(self, expected: Tensor, targets: Tensor, groups: Tensor) -> Tensor | None:
        return concordance_left_out(*self._tables(expected, targets, groups))

    @staticmethod
    def _tables(expected: Tensor, targets: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        return concordance_tables(expected[:, 0], targets[:, 0], targets[:, 1], groups)

    def effective_count(self, targets: Tensor) -> float:
        """Count events: a subject that was lost is in pairs only with these."""
        return max(1.0, float(targets[:, 1].sum()))

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cox_losses(outputs.reshape(len(outputs)), targets[:, 0], targets[:, 1]).mean()

    def prior(self, targets: Tensor, width: int) -> Tensor:
        """Equal risks, (1, 1): any constant is as good."""
        return torch.zeros(1, 1, dtype=torch.float64)

    def fit_linear(self, x: Tensor, targets: Tensor, width: int, l2: float) -> Linear:
        return fit_cox(x, targets[:, 0], targets[:, 1], l2)

    def unvarying(self, targets: Tensor) -> str | None:
        if not bool(targets[:, 1].any()):
            return "of a subject whose event was not seen"
        return super().unvarying(targets)

    def need_shape(self, outputs: Tensor, targets: Tensor) -> None:
        if squeezed(outputs).ndim != 1:
            raise ConfigError(
                f"the model's output has shape {tuple(outputs.shape)}: task 'survival' reads one log-risk an example, "
                "(n,) or (n, 1); of hazards by interval return one risk, or name a part with `output`."
            )
        if targets.shape[1:] != (2,):
            raise DataError(
                f"labels have shape {tuple(targets.shape)}: task 'survival' needs (n, 2), a subject's time and whether its "
                "event was seen then (1) or not (0)."
            )

    def check(self, targets: Tensor, outputs: Tensor, split: str) -> Tensor:
        super().check(targets, outputs, split)
        targets = targets.double()
        time, event = targets.T
        if not bool(((event == 0) | (event == 1)).all()):
            swapped = bool(((time == 0) | (time == 1)).all())
            do = "time comes first: swap the columns" if swapped else "give 1 where the event was seen, else 0"
            raise DataError(f"the second column of labels of split {split!r} is not all 0 or 1: {do}.")
        if not bool(((time >= 0) & torch.isfinite(time)).all()):
            raise DataError(f"times of split {split!r} are not all finite and from 0 on: drop or mend such examples.")
        return targets
