"""What a diagnosis keeps of each example: losses, parts of the metric, credits. Of what probes computed already."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.errors import NumericsError
from collapsekit.features.features import Features
from collapsekit.games.coalitions import CoalitionGame, shapley_values
from collapsekit.report.per_example import PerExample
from collapsekit.tasks.scoring import parts_of_metric


def records_of(
    adapter: Adapter, features: Features, game: CoalitionGame | None, permutations: int | None, seed: int
) -> PerExample:
    """Make the records of the examples: losses, parts of the metric, and credits.

    Args:
        adapter: the model, for its task.
        features: the n examples.
        game: where subsets were evaluated: losses without each modality come from it; None: there are none, nor
            credits.
        permutations: how many orders are sampled for credits in the calibrated model; None: no credits.
        seed: of the orders.

    Returns:
        The records, columns (n,).
    """
    task, targets = adapter.task, features.targets
    expected = task.expect(features.outputs)
    columns: dict[str, Tensor | None] = {"loss": task.loss(expected, targets)}
    columns["metric"] = parts_of_metric(task, expected, targets)
    if game is not None:
        try:
            if permutations is not None:
                credit, _ = shapley_values(
                    lambda mask: -task.loss(game.calibrated(mask).expected, targets), game.size, permutations, seed
                )
                columns |= {f"credit.{m}": credit[i] for i, m in enumerate(features.modalities)}
            for i, m in enumerate(features.modalities):
                without = game.value(game.full & ~(1 << i)).expected
                columns[f"loss_without.{m}"] = task.loss(without, targets)
                columns[f"metric_without.{m}"] = parts_of_metric(task, without, targets)
        except NumericsError:
            pass  # the report says of each probe why it was skipped
    units = None if features.units is None else np.unique(features.units.numpy(), return_inverse=True)[1]
    return PerExample(
        ids=features.ids.numpy(),
        units=None if units is None else units.astype(np.int64),
        columns={k: v.float().numpy() for k, v in columns.items() if v is not None},
    )
