"""Examples by what they hold: an order, a digest, and hashes that tell the same example again."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from collapsekit.data.base import Batch


def canonical(inputs: Batch, alone: Collection[str] = ()) -> tuple[Tensor, str, Tensor, Tensor]:
    """Order rows by content: the order (n,), a digest of all of it, and a hash of each row (n,) in that order, of all it
    holds and of the tensors ``alone``.

    The sum over tensors (of 64-bit hashes, with its carry) makes names irrelevant; names only decide between rows that
    hold the same values under different ones.
    """
    n = len(next(iter(inputs.values())))
    total, some = _Sums(n), _Sums(n)
    named = []
    for key in sorted(inputs):
        value = inputs[key]
        if not value.numel():
            continue
        rows = value.reshape(n, -1).contiguous().view(torch.uint8).numpy()
        parts = b"".join(hashlib.blake2b(row.data, digest_size=8).digest() for row in rows)
        total.add(np.frombuffer(parts, "<u8"))
        if key in alone:
            some.add(np.frombuffer(parts, "<u8"))
        named.append(np.frombuffer(parts, ">u8"))
    order = np.lexsort([*reversed(named), total.sum, total.carry])
    sums = total.of(order)
    return torch.from_numpy(order), hashlib.sha256(sums.data).hexdigest(), _hashes(sums), _hashes(some.of(order))


class _Sums:
    """Sums of 64-bit numbers, a row each, with their carry."""

    def __init__(self, n: int) -> None:
        self.sum, self.carry = np.zeros(n, "<u8"), np.zeros(n, "<u8")

    def add(self, numbers: np.ndarray[Any, Any]) -> None:
        """Add one number to each."""
        self.sum += numbers
        self.carry += self.sum < numbers

    def of(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Sum and carry of ``rows``, side by side."""
        return np.stack([self.sum[rows], self.carry[rows]], 1)


def _hashes(sums: np.ndarray[Any, Any]) -> Tensor:
    return torch.tensor([int.from_bytes(hashlib.sha256(s.data).digest()[:8], "little") >> 1 for s in sums])
