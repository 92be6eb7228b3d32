"""Survival: Cox's partial likelihood as a loss of each subject, Harrell's concordance, and a linear Cox model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from collapsekit.errors import NumericsError

LOWEST = -50.0  # log-risks under the highest of all by more than this count as so much under it
_ROWS = 512  # of pairs at once


@dataclass(frozen=True)
class RiskSets:
    """Who is at risk when, of n subjects: those whose time is at least as long; ties as Breslow 1974 has them.

    ``order``: subjects by time, the longest first, int64 (n,); ``first`` and ``last``: of each in that order, where those of
    its very time begin and end; ``event``: 1 where it was seen to happen, 0 where the subject was censored, in that order.
    """

    order: Tensor
    first: Tensor
    last: Tensor
    event: Tensor

    @classmethod
    def of(cls, time: Tensor, event: Tensor) -> RiskSets:
        """Sort subjects by their ``time`` (n,), ``event`` being 0 or 1, (n,)."""
        order = time.argsort(descending=True, stable=True)
        _, which, counts = time[order].unique_consecutive(return_inverse=True, return_counts=True)
        ends = counts.cumsum(0) - 1
        return cls(order, (ends - counts + 1)[which], ends[which], event[order])

    def losses(self, log_risk: Tensor) -> Tensor:
        """Compute each subject's part of the loss, (n,), in the order of the subjects; see ``cox_losses``."""
        eta = log_risk[self.order]
        eta = (eta - eta.detach().max()).clamp_min(LOWEST)
        event = self.event.to(eta.dtype)
        share = eta.exp()
        at_risk = share.cumsum(0)[self.last]
        count = (self.last + 1).to(eta.dtype)
        hazard, plain = self._until(event / at_risk), self._until(event / count)
        each = event * (1 + (at_risk / count).log() - eta) + share * hazard - plain
        return torch.zeros_like(each).index_copy(0, self.order, each)

    def _until(self, steps: Tensor) -> Tensor:
        """Sums of steps at times up to each subject's own."""
        return steps.flip(0).cumsum(0).flip(0)[self.first]


def cox_losses(log_risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """Compute a loss of each subject whose sum is minus the log partial likelihood, less that of equal risks, plus events.

    Cox 1972, ties by Breslow 1974: -sum over events of [log-risk - log of the mean risk of those at risk], plus 1 nat an
    event, so that equal risks cost 1 where an event was seen, else 0. Each subject's part is that of the full likelihood
    with Breslow's estimate of the baseline hazard, less the same for equal risks. That does not change the sum, and as the
    estimate is the best there is, leaving a subject's part out is leaving the subject out, to first order. A constant added
    to all log-risks changes nothing.

    Args:
        log_risk: (n,).
        time: until the event or until the subject was lost, (n,).
        event: 1 where it was seen to happen, 0 where not, (n,).

    Returns:
        (n,), nats, in the dtype of ``log_risk``.
    """
    return RiskSets.of(time, event).losses(log_risk)


def concordance_tables(log_risk: Tensor, time: Tensor, event: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Count comparable pairs, and those in the right order, by the groups of both.

    A pair is comparable where the one's event was seen before the other's time, or at a time at which the other was
    censored; it is in the right order where the one's risk is higher, and half where risks are equal (Harrell et al. 1982).

    Args:
        log_risk: (n,).
        time: (n,).
        event: 0 or 1, (n,).
        groups: int64 (n,), 0 to G - 1.

    Returns:
        Right and comparable pairs, float64 (G, G) each: the first axis is the group of the one whose event was seen.
    """
    size = int(groups.max()) + 1
    member = torch.nn.functional.one_hot(groups, size).double()
    right, comparable = torch.zeros(2, size, size, dtype=torch.float64)
    for rows in torch.arange(len(time)).split(_ROWS):
        rows = rows[event[rows] > 0]
        mine, risk = time[rows, None], log_risk[rows, None]
        pair = ((mine < time) | ((mine == time) & (event == 0))).double()
        ahead = (risk > log_risk).double() + 0.5 * (risk == log_risk)
        comparable += member[rows].T @ pair @ member
        right += member[rows].T @ (pair * ahead) @ member
    return right, comparable


def concordance_index(right: Tensor, comparable: Tensor) -> float:
    """Divide right by comparable pairs, of tables (G, G); 0.5 is chance. Raises NumericsError where none is comparable."""
    total = float(comparable.sum())
    if total == 0:
        raise NumericsError("a concordance index needs two comparable subjects, found none: use more examples.")
    return float(right.sum()) / total


def concordance_left_out(right: Tensor, comparable: Tensor) -> Tensor:
    """Compute the concordance index of all, then without each group of both tables, (G, G): float64 (1 + G,)."""

    def without(table: Tensor) -> Tensor:
        return table.sum() - table.sum(0) - table.sum(1) + table.diagonal()

    if not bool((without(comparable) > 0).all()):
        raise NumericsError("a concordance index without a group needs two comparable subjects: use more examples.")
    whole = torch.tensor([concordance_index(right, comparable)], dtype=torch.float64)
    return torch.cat([whole, without(right) / without(comparable)])
