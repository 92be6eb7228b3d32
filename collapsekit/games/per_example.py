"""What a diagnosis keeps of each example: losses, parts of the metric, credits. Of what probes computed already."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.errors import NumericsError
from collapsekit.features.features import Features
from collapsekit.games.coalitions import Coalitions, credits
from collapsekit.report.per_example import Records
from collapsekit.tasks.base import Task


def parts_of_metric(task: Task, expected: Tensor, targets: Tensor) -> Tensor | None:
    """Numbers (n,) whose mean is the task metric over these n examples; None for a metric that is no such mean.

    R²: 1 minus an example's squared error over the mean square deviation of the targets, mean over outputs that vary.
    """
    parts = None
    if task.metric_name in ("accuracy", "balanced_accuracy"):
        parts = (expected.argmax(1) == targets).double()
        if task.metric_name == "balanced_accuracy":
            counts = torch.bincount(targets).double()
            parts = parts * len(targets) / ((counts > 0).sum() * counts[targets])
    elif task.metric_name == "r2":
        centred = targets - targets.mean(0)
        varies = centred.square().mean(0) > 0
        parts = (1 - (targets - expected).square() / centred.square().mean(0))[:, varies].mean(1)
    elif task.metric_name == "negative loss":
        parts = -task.loss(expected, targets)
    if parts is None or not torch.isclose(parts.mean(), torch.tensor(task.metric(expected, targets)).double()):
        return None
    return parts


def records_of(
    adapter: Adapter, features: Features, game: Coalitions | None, permutations: int | None, seed: int
) -> Records:
    """The records of the examples; losses without a modality where subsets were evaluated (``game``), and credits in the
    calibrated model, over so many ``permutations`` where they are sampled (None: no credits)."""
    task, targets = adapter.task, features.targets
    expected = task.expect(features.outputs)
    columns: dict[str, Tensor | None] = {"loss": task.loss(expected, targets)}
    columns["metric"] = parts_of_metric(task, expected, targets)
    if game is not None:
        try:
            if permutations is not None:
                credit, _ = credits(
                    lambda mask: -task.loss(game.calibrated(mask).expected, targets), game.size, permutations, seed
                )
                columns |= {f"credit.{m}": credit[i] for i, m in enumerate(features.modalities)}
            for i, m in enumerate(features.modalities):
                without = game.worth(game.full & ~(1 << i)).expected
                columns[f"loss_without.{m}"] = task.loss(without, targets)
                columns[f"metric_without.{m}"] = parts_of_metric(task, without, targets)
        except NumericsError:
            pass  # the report says of each probe why it was skipped
    units = None if features.units is None else np.unique(features.units.numpy(), return_inverse=True)[1]
    return Records(
        ids=features.ids.numpy(),
        units=None if units is None else units.astype(np.int64),
        columns={k: v.float().numpy() for k, v in columns.items() if v is not None},
    )
