"""One optimiser step by several processes: each takes a share of every batch, and gradients are averaged as over the whole.

As torch's DistributedDataParallel does, but after the backward pass instead of during it, since what a method runs is no
single module's forward; sums are taken once a step, whatever is accumulated.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from collapsekit.world import World


def share(rows: Tensor, world: World) -> tuple[Tensor, float]:
    """This process's rows of a batch, and what their mean loss counts in the sum over processes. Batches of fewer than two
    rows a process, which batch norm cannot take, are run whole by all."""
    if world.size == 1 or len(rows) < 2 * world.size:
        return rows, 1.0 / world.size
    mine = rows.tensor_split(world.size)[world.rank]
    return mine, len(mine) / len(rows)


def summed(parameters: Sequence[nn.Parameter], numbers: Sequence[float], world: World) -> list[float]:
    """Sums over processes of ``numbers``, returned, and of the gradients, in place; a parameter that no process has a
    gradient of keeps none."""
    if world.size == 1:
        return list(numbers)
    import torch.distributed as dist

    had = [float(p.grad is not None) for p in parameters]
    told = torch.tensor([*numbers, *had], dtype=torch.float64)
    dist.all_reduce(told)
    own, reached = told[: len(numbers)].tolist(), told[len(numbers) :].tolist()
    some = [p for p, any_ in zip(parameters, reached, strict=True) if any_]
    for p in some:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    for dtype in dict.fromkeys(p.dtype for p in some):
        grads = [p.grad for p in some if p.dtype == dtype and p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in grads]).cpu()
        dist.all_reduce(flat)
        for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            g.copy_(part.reshape(g.shape))
    return own


def same_buffers(module: nn.Module, world: World) -> None:
    """Give all processes the first one's buffers: running statistics, memories of negatives."""
    if world.size == 1:
        return
    import torch.distributed as dist

    for buffer in module.buffers():
        held = buffer.detach().cpu().contiguous()
        dist.broadcast(held, 0)
        buffer.copy_(held)
