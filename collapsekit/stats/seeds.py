"""Random numbers that follow what a modality holds, not what it is called or where it is listed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from collapsekit.errors import NumericsError


def content_seeds(contents: Sequence[Sequence[Tensor]], ties: Sequence[float], seed: int) -> list[int]:
    """Make a seed for each modality from the bytes of its tensors and ``seed``.

    Listing modalities in another order lists their seeds in that order. Modalities of the very same bytes are told
    apart by rank in ``ties``, and only where that too is equal by their place, so that no two seeds are alike.

    Args:
        contents: the tensors of each modality, of any shape and dtype, in any order.
        ties: a number a modality.
        seed: what all seeds follow from.

    Returns:
        A whole number of 63 bits a modality.

    Raises:
        NumericsError: unless there is one number for each modality.
    """
    if len(contents) != len(ties):
        raise NumericsError(f"there must be one tie number for each of {len(contents)} contents, found {len(ties)}.")
    digests = [b"".join(sorted(_digest(t) for t in tensors)) for tensors in contents]
    ranks = [0] * len(digests)
    seen: dict[bytes, int] = {}
    for i in sorted(range(len(digests)), key=lambda i: ties[i]):
        ranks[i] = seen.get(digests[i], 0)
        seen[digests[i]] = ranks[i] + 1
    return [_number(f"{seed} {rank} ".encode() + digest) for rank, digest in zip(ranks, digests, strict=True)]


def _digest(value: Tensor) -> bytes:
    raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(raw.data).digest()


def _number(key: bytes) -> int:
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "little") >> 1  # torch takes 63 bits
