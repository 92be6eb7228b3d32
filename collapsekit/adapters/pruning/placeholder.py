"""What a module returns that is left out: of the structure, shapes and kinds it would have, without its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from collapsekit.adapters.hooks import attribute_set
from collapsekit.adapters.pytree import Tree, flatten, rebuild

_PLAIN = (type(None), bool, int, float, str)


@dataclass(frozen=True)
class Fill:
    """What a placeholder is full of. ``thin``: one number shown at every place, which cannot be written into."""

    value: float = 0.0
    thin: bool = True


THIN = Fill()


@dataclass(frozen=True)
class Blank:
    """One tensor for any number of rows."""

    sizes: tuple[tuple[int, bool], ...]  # of each axis, and whether it is to be multiplied by the rows
    order: tuple[int, ...]  # axes as they lie in memory, the widest step first
    dtype: torch.dtype
    device: torch.device

    def make(self, rows: int, fill: Fill) -> Tensor:
        """A tensor of so many rows."""
        shape = [size * rows if by_row else size for size, by_row in self.sizes]
        value = fill.value if self.dtype.is_floating_point else 0
        if fill.thin:
            return torch.full((), value, dtype=self.dtype, device=self.device).expand(shape)
        dense = torch.full([shape[axis] for axis in self.order], value, dtype=self.dtype, device=self.device)
        return dense.permute([self.order.index(axis) for axis in range(len(shape))])


@dataclass(frozen=True)
class Skip:
    """A module that is left out of replays, and what it returns there."""

    path: str
    module: nn.Module
    tree: Tree
    leaves: tuple[Any, ...]  # a Blank for each tensor; anything else as it is

    @contextmanager
    def applied(self, rows: int, fill: Fill) -> Iterator[None]:
        """Leave the module out for a while."""

        def forward(*_args: Any, **_kwargs: Any) -> Any:
            return rebuild(self.tree, [x.make(rows, fill) if isinstance(x, Blank) else x for x in self.leaves])

        with attribute_set(self.module, "forward", forward):
            yield


def make_skip(path: str, module: nn.Module, outputs: Sequence[tuple[int, Any]]) -> Skip | None:
    """Learn how to leave a module out.

    Args:
        path: of the module, for messages.
        module: that is left out.
        outputs: what it returned, each with the number of rows it was for.

    Returns:
        None where that does not tell what it would return for another number of rows.
    """
    flat = [(rows, *flatten(value)) for rows, value in outputs]
    _, leaves, tree = flat[0]
    if not any(isinstance(leaf, Tensor) for leaf in leaves):
        return None
    if any(other.keys != tree.keys for _, _, other in flat):
        return None
    columns = [[(n, others[i]) for n, others, _ in flat] for i in range(len(leaves))]
    if not all(map(_agree, columns)):
        return None
    blanks = [
        _blank(column) if isinstance(leaf, Tensor) else leaf for leaf, column in zip(leaves, columns, strict=True)
    ]
    if any(isinstance(leaf, Tensor) and blank is None for leaf, blank in zip(leaves, blanks, strict=True)):
        return None
    return Skip(path, module, tree, tuple(blanks))


def _agree(column: Sequence[tuple[int, Any]]) -> bool:
    """Whether one leaf is of the same kind in all calls, and can be given again."""
    first = column[0][1]
    if not isinstance(first, Tensor):
        return isinstance(first, _PLAIN) and all(type(x) is type(first) and x == first for _, x in column)
    return all(
        type(x) is Tensor
        and x.layout is torch.strided
        and (x.dtype, x.device, x.ndim) == (first.dtype, first.device, first.ndim)
        for _, x in column
    )


def _blank(column: Sequence[tuple[int, Tensor]]) -> Blank | None:
    """How one tensor grows with the rows; None where it does not do so in proportion."""
    rows, first = column[0]
    sizes = []
    for axis, size in enumerate(first.shape):
        if all(x.shape[axis] == size for _, x in column):
            sizes.append((size, False))
        elif size % rows == 0 and all(x.shape[axis] * rows == size * n for n, x in column):
            sizes.append((size // rows, True))
        else:
            return None
    steps = first.stride()
    order = sorted(range(first.ndim), key=lambda axis: -steps[axis])
    return Blank(tuple(sizes), tuple(order), first.dtype, first.device)
