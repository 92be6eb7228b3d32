"""The task's metric: over all examples, without each group, and as parts of each example."""

from __future__ import annotations

import torch
from torch import Tensor

from collapsekit.stats.inference.leave_out import leave_out_means
from collapsekit.tasks.base import Task


def leave_out_metric(task: Task, expected: Tensor, targets: Tensor, groups: Tensor) -> Tensor:
    """Score all examples with the task metric, then all without each group.

    Args:
        task: whose metric.
        expected: expectations (n, ...).
        targets: (n, ...).
        groups: int64 (n,), 0 to G - 1.

    Returns:
        float64 (1 + G,), in the unit of the metric.
    """
    right = task.hits(expected, targets)
    if right is not None:  # whole numbers, so that sums are exact
        return leave_out_means(right.double(), groups)
    at_once = task.metric_left_out(expected, targets, groups)
    if at_once is not None:
        return at_once
    values = [task.metric(expected, targets)]
    for g in range(int(groups.max()) + 1):
        keep = groups != g
        values.append(task.metric(expected[keep], targets[keep]))
    return torch.tensor(values, dtype=torch.float64)


def parts_of_metric(task: Task, expected: Tensor, targets: Tensor) -> Tensor | None:
    """Split the task metric over n examples into numbers (n,) whose mean it is.

    Args:
        task: whose metric.
        expected: expectations (n, ...).
        targets: (n, ...).

    Returns:
        float64 (n,); None where the metric is no such mean, of these examples too.
    """
    parts = task.metric_parts(expected, targets)
    if parts is None or not torch.isclose(parts.mean(), torch.tensor(task.metric(expected, targets)).double()):
        return None
    return parts
