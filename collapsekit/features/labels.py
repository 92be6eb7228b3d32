"""Labels of sequences, (n, t) whole numbers below 0 where a position is no target, brought to one length."""

from __future__ import annotations

import torch
from torch import Tensor

NO_TARGET = -100


def close_up(labels: Tensor) -> Tensor:
    """Take off what a batch was padded with: positions before the first target but one, and behind the last.

    For labels that are made anew for every forward, so that it does not matter how long a batch's longest prompt was.

    Args:
        labels: (n, t); others than sequences with positions that are no target stay as they are.

    Returns:
        (n, s), as long as the longest; a target in the very first position stays there.
    """
    if not _are_sequences(labels) or not bool((labels < 0).any()):
        return labels
    rows = []
    for row in labels:
        there = (row >= 0).nonzero()[:, 0]
        first, last = (int(there[0]), int(there[-1]) + 1) if len(there) else (0, 0)
        rows.append(row[max(0, first - 1) : last])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=NO_TARGET)


def reach_alike(shape: tuple[int, ...], labels: Tensor) -> bool:
    """Tell whether labels (n, t) are sequences as those of shape (s,), of which one kind is longer than the other."""
    return _are_sequences(labels) and len(shape) == 1 and shape != labels.shape[1:]


def pad_labels(labels: Tensor, width: int) -> Tensor:
    """Fill labels (n, t) up to (n, width) with positions that are no target."""
    return torch.nn.functional.pad(labels, (0, width - labels.shape[1]), value=NO_TARGET)


def _are_sequences(labels: Tensor) -> bool:
    return labels.ndim == 2 and labels.dtype in (torch.int64, torch.int32, torch.int16)
