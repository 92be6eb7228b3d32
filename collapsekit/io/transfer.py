"""Tensors that come from a device, many in one copy: each copy waits for the device, whatever its size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key")
PACK = 1 << 26  # bytes that share a copy; side by side they lie on the device twice for as long


def to_cpu(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Copy tensors of any shape to the CPU, detached, as many as fit in 64 MiB in one copy; what is there stays as it is.

    Tensors that share a copy share their memory on the CPU, too.
    """
    return list(stream_to_cpu(tensors))


def named_to_cpu(tensors: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
    """Copy tensors of any shape to the CPU as ``to_cpu`` does, by name."""
    return dict(zip(tensors, to_cpu(tensors.values()), strict=True))


def stream_to_cpu(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield tensors of any shape as ``to_cpu`` copies them, in order, with one copy's worth of them on the CPU at a time."""
    pack: list[Tensor] = []
    size = 0
    for tensor in tensors:
        own = 0 if tensor.device.type == "cpu" else tensor.numel() * tensor.element_size()
        if own and size + own > PACK:
            yield from _unpacked(pack)
            pack, size = [], 0
        pack.append(tensor.detach())
        size += own
    yield from _unpacked(pack)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of any shape to a device, without waiting for what the device is at.

    To CUDA it goes from pinned memory, which torch gives out again once the copy is done.
    """
    if tensor.device == device or "mps" in (device.type, tensor.device.type):  # Apple's copies are only safe waited for
        return tensor.to(device)
    pinned = device.type == "cuda" and tensor.device.type == "cpu" and not tensor.requires_grad and tensor.numel()
    return (tensor.pin_memory() if pinned else tensor).to(device, non_blocking=device.type != "cpu")


def all_equal(pairs: Sequence[tuple[Tensor, Tensor]]) -> bool:
    """Tell whether both tensors of every pair have one shape and the same values, as ``torch.equal`` does, with one wait."""
    if any(a.shape != b.shape for a, b in pairs):
        return False
    return not pairs or not bool(torch.stack([(a != b).any() for a, b in pairs]).any())


def _unpacked(pack: list[Tensor]) -> list[Tensor]:
    """What is in a pack, on the CPU: of each device by one copy."""
    groups: dict[torch.device, list[int]] = {}
    for i, x in enumerate(pack):
        if x.device.type != "cpu" and x.layout == torch.strided:
            groups.setdefault(x.device, []).append(i)
    found: dict[int, Tensor] = {}
    for group in (g for g in groups.values() if len(g) > 1):
        # The widest numbers first: then each begins where numbers of its width may.
        order = sorted(group, key=lambda i: -pack[i].element_size())
        parts = [pack[i].contiguous().reshape(-1).view(torch.uint8) for i in order]
        copies = torch.cat(parts).cpu().split([p.numel() for p in parts])
        found |= {i: c.view(pack[i].dtype).reshape(pack[i].shape) for i, c in zip(order, copies, strict=True)}
    return [found[i] if i in found else x.cpu() for i, x in enumerate(pack)]
