"""Means over draws of other examples, and their scores with and without each group of examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.features.categories import Category
from collapsekit.features.features import Features
from collapsekit.stats.inference.leave_out import leave_out_means
from collapsekit.tasks.base import Task
from collapsekit.tasks.scoring import leave_out_metric

KEPT = 1 << 22  # numbers at most that are kept to leave groups out of a mean over draws


@dataclass(frozen=True)
class CoalitionValue:
    """Loss and metric of one coalition: over all examples, then without each jackknife group."""

    loss: Tensor  # (1 + G,)
    metric: Tensor  # (1 + G,)
    expected: Tensor  # (n, ...)
    # By name of each category that has enough examples, of these alone; or why they have no such score.
    within: Mapping[str, CoalitionValue | NumericsError] = field(default_factory=dict)


class MeanOverDraws:
    """The mean of what the model expects over draws of other examples.

    Draws are kept apart by the group of the example that was drawn, so that a group can be left out whole: as examples that
    are scored and as examples that modalities are taken from. Left out as the former only, the jackknife would miss that
    other examples to take from would have given another loss. That is done for as many examples as fit in memory, the
    first of them; their order is by a hash.

    A draw and its inverse are added up before they are added to the rest: of two coalitions that share their draws one
    meets each such pair the other way round, and what is equal has to come out equal.
    """

    def __init__(self, features: Features, donors: Sequence[Tensor], inverse: Mapping[int, int] | None = None) -> None:
        """``donors``: by draw, the example (n,) that each takes from; ``inverse``: by draw, the one that undoes it."""
        self.groups, self.donors, self.inverse = features.groups, donors, inverse or {}
        self.count, self.size = 0, int(self.groups.max()) + 1
        self.total = torch.zeros((), dtype=torch.float64)
        self.parts = torch.zeros((), dtype=torch.float64)  # (rows, G, ...), sums by the group of the example drawn
        self.counts = torch.zeros((), dtype=torch.float64)  # (rows, G), of how many draws
        self.waiting: dict[int, Tensor] = {}

    def add(self, k: int, expected: Tensor) -> None:
        """Add what is expected (n, ...) under draw ``k``; its inverse comes before or after it."""
        self._keep(self.groups[self.donors[k]], expected)
        back = self.inverse.get(k, k)
        self.count += 1
        if back != k and back not in self.waiting:
            self.waiting[k] = expected
        else:
            self.total = self.total + (expected if back == k else self.waiting.pop(back) + expected)

    def _keep(self, lent: Tensor, expected: Tensor) -> None:
        """Add to the sums by group; ``lent`` (n,): the group of the example each takes from."""
        if self.count == 0:
            rows = min(len(expected), max(1, KEPT // (self.size * expected[0].numel())))
            self.parts = torch.zeros(rows, self.size, *expected.shape[1:], dtype=torch.float64)
            self.counts = torch.zeros(rows, self.size, dtype=torch.float64)
        first = torch.arange(len(self.parts))
        self.parts[first, lent[first]] += expected[first].double()
        self.counts[first, lent[first]] += 1

    @property
    def value(self) -> Tensor:
        """Over all draws, (n, ...)."""
        return self.total / self.count

    def without_groups(self) -> tuple[Tensor, Tensor, Tensor]:
        """Leave out the draws from each group.

        Returns:
            Examples, int64 (r,); the group that is left out, not their own, int64 (r,); and their means over the other
            draws, (r, ...), over all draws where there is no other.
        """
        rows, groups = (self.groups[: len(self.parts), None] != torch.arange(self.size)).nonzero().T
        left = self.count - self.counts[rows, groups]
        kept = self.value[rows].double()
        shape = (-1,) + (1,) * (kept.ndim - 1)
        others = (kept * self.count - self.parts[rows, groups]) / left.clamp_min(1).reshape(shape)
        return rows, groups, torch.where((left > 0).reshape(shape), others, kept)


def score(task: Task, features: Features, expected: Tensor) -> CoalitionValue:
    """Score expectations that no other example had a part in.

    Args:
        task: whose loss and metric.
        features: the n examples.
        expected: expectations (n, ...).

    Returns:
        Loss and metric, in their units.
    """
    each = task.loss(expected, features.targets)
    loss = leave_out_means(each, features.groups)
    whole = CoalitionValue(loss, leave_out_metric(task, expected, features.targets, features.groups), expected)

    def of(category: Category) -> CoalitionValue:
        rows, groups = category.rows, category.groups
        metric = leave_out_metric(task, expected[rows], features.targets[rows], groups)
        return CoalitionValue(leave_out_means(each[rows], groups), metric, expected[rows])

    return replace(whole, within=_by_category(task, features, of))


def _by_category(
    task: Task, features: Features, of: Callable[[Category], CoalitionValue]
) -> dict[str, CoalitionValue | NumericsError]:
    """Scores of each category that has enough examples; none where examples are scored beside one another."""
    found = dict[str, CoalitionValue | NumericsError]()
    for category in features.categories if not (task.scores_sets or task.expects_sets) else ():
        if category.why_not is None:
            try:
                found[category.name] = of(category)
            except NumericsError as e:  # such as an area under a curve of one class
                found[category.name] = e
    return found


def score_draws(task: Task, features: Features, mean: MeanOverDraws) -> CoalitionValue:
    """Score a mean over draws; without a group, no example of it is scored nor taken from.

    Args:
        task: whose loss and metric.
        features: the n examples.
        mean: of what is expected of them.

    Returns:
        Loss and metric, in their units.
    """
    plain, size = score(task, features, mean.value), mean.size
    rows, groups, others = mean.without_groups()
    y, before, after = features.targets[rows], plain.expected[rows], others.to(plain.expected.dtype)
    each = task.loss(plain.expected, features.targets).double()
    if task.scores_sets:
        moved = _losses_in_sets(task, features.targets, plain.expected, after, rows, groups)
    else:
        moved = task.loss(after, y).double()
    moved = moved - each[rows]
    hits = task.hits(plain.expected, features.targets), task.hits(after, y)

    def moves(of: Tensor) -> tuple[Tensor, Tensor]:
        """How loss and metric move with the examples drawn from, (1 + G,), of the rows ``of``, bool (r,)."""
        loss = _moved(moved[of], groups[of], size)
        if hits[0] is not None and hits[1] is not None:
            return loss, _moved((hits[1].double() - hits[0].double()[rows])[of], groups[of], size)
        metric = torch.zeros(1 + size, dtype=torch.float64)
        for g in groups[of].unique().tolist():
            these = of & (groups == g)
            metric[1 + g] = task.metric(after[these], y[these]) - task.metric(before[these], y[these])
        return loss, metric

    def of(category: Category) -> CoalitionValue:
        known = plain.within[category.name]
        if isinstance(known, NumericsError):
            raise known
        loss, metric = (x[category.places] for x in moves(torch.isin(rows, category.rows)))
        return CoalitionValue(known.loss + loss, known.metric + metric, known.expected)

    loss, metric = moves(torch.ones_like(rows, dtype=torch.bool))
    within = _by_category(task, features, of)
    return CoalitionValue(plain.loss + loss, plain.metric + metric, plain.expected, within)


def _losses_in_sets(
    task: Task, targets: Tensor, expected: Tensor, after: Tensor, rows: Tensor, groups: Tensor
) -> Tensor:
    """Losses (r,) of ``after`` (r, ...), what is expected of examples ``rows`` without a group, each beside all other
    examples, which are without that group too where there is such an answer."""
    found = torch.zeros(len(rows), dtype=torch.float64)
    for g in groups.unique().tolist():
        of = groups == g
        together = expected.index_copy(0, rows[of], after[of])
        found[of] = task.loss(together, targets).double()[rows[of]]
    return found


def score_means(features: Features, mean: MeanOverDraws) -> dict[str | None, Tensor]:
    """Average a mean over draws over the examples; without a group, no example of it counts nor is taken from.

    Args:
        features: the examples.
        mean: of numbers (n,), in any unit.

    Returns:
        float64 (1 + G,), in that unit: of all examples under None, and by name of each category that has enough.
    """
    rows, groups, others = mean.without_groups()
    moved = others - mean.value[rows]
    found: dict[str | None, Tensor] = {
        None: leave_out_means(mean.value, features.groups) + _moved(moved, groups, mean.size)
    }
    for category in features.categories:
        if category.why_not is None:
            of = torch.isin(rows, category.rows)
            values = leave_out_means(mean.value[category.rows], category.groups)
            found[category.name] = values + _moved(moved[of], groups[of], mean.size)[category.places]
    return found


def _moved(each: Tensor, groups: Tensor, size: int) -> Tensor:
    """Say how scores move with the examples that were drawn from, (1 + G,): 0 for all, then without each group, around 0.

    Examples move apart as well, each by who it met; that does not grow less with more examples to take from, and the
    jackknife over scored examples has it already. So the spread over groups is brought down to what is above it.

    Args:
        each: by how much an example's score moves without the draws from a group, (r,).
        groups: that group, (r,).
        size: how many groups there are.
    """
    zero = torch.zeros(size, dtype=torch.float64)
    counts = zero.index_add(0, groups, torch.ones_like(each)).clamp_min(1.0)
    means = zero.index_add(0, groups, each) / counts
    squares = zero.index_add(0, groups, (each - means[groups]).square())
    noise = (squares / (counts - 1).clamp_min(1.0) / counts).mean()
    moved = means - means.mean()
    spread = moved.square().sum() / max(1, size - 1)
    share = (1 - noise / spread).clamp_min(0.0).sqrt() if float(spread) > 0 else spread
    return torch.cat([torch.zeros(1, dtype=torch.float64), share * moved])
