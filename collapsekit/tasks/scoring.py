"""The task's metric over all examples, and without each group."""

from __future__ import annotations

import torch
from torch import Tensor

from collapsekit.stats.inference.leave_out import leave_out_means
from collapsekit.tasks.base import Classification, Task


def leave_out_metric(task: Task, expected: Tensor, targets: Tensor, groups: Tensor) -> Tensor:
    """The task metric over all examples, then without each group: (1 + G,), float64."""
    if isinstance(task, Classification) and task.metric_name == "accuracy":  # whole numbers, so that sums are exact
        return leave_out_means((expected.argmax(1) == targets).double(), groups)
    values = [task.metric(expected, targets)]
    for g in range(int(groups.max()) + 1):
        keep = groups != g
        values.append(task.metric(expected[keep], targets[keep]))
    return torch.tensor(values, dtype=torch.float64)
