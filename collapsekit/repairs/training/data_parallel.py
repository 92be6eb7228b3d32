"""One optimiser step by several processes: each takes a share of every batch, and gradients are averaged as over the whole.

As torch's DistributedDataParallel does, but after the backward pass instead of during it, since what a method runs is no
single module's forward; sums are taken once a step, whatever is accumulated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from collapsekit.distributed.process_group import ProcessGroup
from collapsekit.repairs.training.job import Stage, Step
from collapsekit.repairs.training.snapshots import Snapshots


class Whole:
    """How a stage's weights lie on the processes: whole on each."""

    def __init__(self, stage: Stage, world: ProcessGroup) -> None:
        self.stage, self.world = stage, world
        self.parameters = stage.parameters  # as the optimiser has them

    def loss(self, step: Step) -> Tensor:
        """Compute the stage's loss of this process's rows, a scalar."""
        return self.stage.loss(step)

    def anywhere(self, failed: bool) -> bool:
        """Tell whether to give a batch up: where it failed here or, where all are needed for what follows, anywhere."""
        return failed

    def backward(self, loss: Tensor) -> None:
        """Add to the gradients of ``parameters``, from the scalar ``loss``."""
        torch.autograd.backward([loss], inputs=self.parameters)

    def summed(self, numbers: Sequence[float]) -> list[float]:
        """Sum ``numbers`` and the gradients over processes, as ``summed``."""
        return summed(self.parameters, numbers, self.world)

    def clip(self, most: float) -> Tensor:
        """Scale the gradients to a norm of at most ``most``; the norm they had, a scalar where they lie."""
        return torch.nn.utils.clip_grad_norm_(self.parameters, most)

    def held(self) -> float:
        """Compute the stage's held-out loss."""
        return self.stage.held()

    def save(self, kept: Snapshots, number: int, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Keep the snapshot of a stage.

        Args:
            kept: The snapshots.
            number: The number of the stage.
            tensors: Tensors of any shape as they lie here, by name.
            about: What else is kept, as JSON can hold it.
        """
        kept.save(number, tensors, about)

    def load(self, kept: Snapshots, number: int) -> tuple[Mapping[str, Tensor], dict[str, Any]] | None:
        """Load the tensors of a stage's snapshot, of any shape, as they lie here; None where nothing was kept."""
        return kept.load(number)

    def finish(self) -> None:
        """Leave the stage's module as whole as it was before, in eval mode."""
        self.stage.module.eval()


def share(rows: Tensor, world: ProcessGroup) -> tuple[Tensor, float]:
    """Return this process's rows of a batch (n,), and what their mean loss counts in the sum over processes.

    Batches of fewer than two rows a process, which batch norm cannot take, are run whole by all.
    """
    if world.size == 1 or len(rows) < 2 * world.size:
        return rows, 1.0 / world.size
    mine = rows.tensor_split(world.size)[world.rank]
    return mine, len(mine) / len(rows)


def summed(parameters: Sequence[nn.Parameter], numbers: Sequence[float], world: ProcessGroup) -> list[float]:
    """Sum numbers and gradients over processes; gradients in place.

    Args:
        parameters: Whose gradients are summed; one that no process has a gradient of keeps none.
        numbers: This process's numbers, as many on each.
        world: The processes.

    Returns:
        The sums of the numbers.
    """
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


def same_buffers(module: nn.Module, world: ProcessGroup) -> None:
    """Give all processes the first one's buffers: running statistics, memories of negatives."""
    if world.size == 1:
        return
    import torch.distributed as dist

    for buffer in module.buffers():
        held = buffer.detach().cpu().contiguous()
        dist.broadcast(held, 0)
        buffer.copy_(held)
