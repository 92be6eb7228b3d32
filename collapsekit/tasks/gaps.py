"""Labels that an example has several of, and of which some are not known: NaN, and left out of everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from collapsekit.errors import DataError
from collapsekit.stats.linear import Linear, fit_ridge, side_by_side
from collapsekit.tasks.base import Task

Fit = Callable[[Tensor, Tensor, float], Linear]  # features (n, d), one column of labels (n, 1), l2


class TaskOfColumns(Task):
    """A task whose labels are columns, one an output, of which some may not be known."""

    mean_over_examples = gaps = True

    def caveat(self, targets: Tensor) -> str | None:
        return say_gaps(targets)

    def unvarying(self, targets: Tensor) -> str | None:
        if not has_gaps(targets):
            return super().unvarying(targets)
        return "the same" if same_but_for_gaps(targets) else None


def has_gaps(targets: Tensor) -> bool:
    """Tell whether a target of (n, ...) is not known."""
    return bool(targets.isnan().any())


def mean_of_known(values: Tensor, targets: Tensor) -> Tensor:
    """Average values (n, C) over the targets (n, C) of each example that are known, (n,)."""
    known = ~targets.isnan()
    return torch.where(known, values, 0.0).sum(1) / known.sum(1)


def weigh_known(targets: Tensor) -> Tensor:
    """Weigh targets (n, C) so that an example's known ones share its weight, (n, C); 0 where one is not known."""
    known = ~targets.isnan()
    return known.double() / known.sum(1, keepdim=True)


def fit_columns(fits: Sequence[Fit], x: Tensor, targets: Tensor, l2: float) -> Linear:
    """Fit a readout a column, each on the examples whose target is known.

    Args:
        fits: each column's fit, C of them.
        x: features (n, d).
        targets: (n, C), NaN where not known.
        l2: weight of the squared weights.

    Returns:
        The readouts side by side; of a column with fewer than two known targets one that answers 0.
    """
    columns = []
    for fit, values in zip(fits, targets.T, strict=True):
        known = ~values.isnan()
        if int(known.sum()) > 1:
            columns.append(fit(x[known], values[known, None], l2))
        else:  # nothing to learn from
            columns.append(fit_ridge(x, torch.zeros(len(x), 1, dtype=torch.float64), l2))
    return side_by_side(columns)


def say_gaps(targets: Tensor) -> str | None:
    """Say in a sentence how many targets (n, ...) are not known; None: all are."""
    missing, count = int(targets.isnan().sum()), targets.numel()
    if not missing:
        return None
    return f"{missing} of {count} target values are NaN: they are left out of losses, metrics, priors and readouts."


def same_but_for_gaps(targets: Tensor) -> bool:
    """Tell whether each column of targets (n, C) says the same wherever it is known."""
    known = [values[~values.isnan()] for values in targets.T]
    return all(not len(v) or bool((v == v[0]).all()) for v in known)


def need_some_known(targets: Tensor, split: str) -> None:
    """Raise DataError where an example of targets (n, C) has none that is known."""
    empty = int(targets.isnan().all(1).sum())
    if empty:
        raise DataError(
            f"{empty} of {len(targets)} examples of split {split!r} have no label but NaN: drop them, as nothing in "
            "them can be scored."
        )
