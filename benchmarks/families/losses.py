"""Losses that several families train by."""

from __future__ import annotations

from torch import Tensor


def cox_loss(risk: Tensor, label: Tensor) -> Tensor:
    """Compute the mean negative log partial likelihood an event of log-risks (n,) and labels (n, 2), time and event."""
    time, event = label.T
    order = time.argsort(descending=True)
    return -((risk[order] - risk[order].logcumsumexp(0)) * event[order]).sum() / event.sum()
