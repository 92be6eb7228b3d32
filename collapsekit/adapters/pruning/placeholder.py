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
_UNKNOWN = object()


@dataclass(frozen=True)
class Fill:
    """What a placeholder is full of. ``thin``: one number shown at every place, which cannot be written into."""

    value: float = 0.0
    thin: bool = True


THIN = Fill()


@dataclass(frozen=True)
class Shape:
    """What is known of a tensor without its numbers."""

    sizes: tuple[int, ...]
    steps: tuple[int, ...]  # strides
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class Form:
    """What a module returned: a Shape for each plain tensor, and anything else as it is; no tensor's numbers are kept."""

    tree: Tree
    leaves: tuple[Any, ...]


def form_of(value: Any) -> Form:
    """Note the form of what a module returned."""
    leaves, tree = flatten(value)
    small = [x.new_zeros(()) if isinstance(x, Tensor) else x for x in leaves]  # the tree keeps what it was learned from
    shapes = [
        Shape(tuple(x.shape), x.stride(), x.dtype, x.device) if type(x) is Tensor and x.layout is torch.strided else x
        for x in leaves
    ]
    return Form(flatten(rebuild(tree, small))[1] if tree.parts is not None else tree, tuple(shapes))


@dataclass(frozen=True)
class Blank:
    """One tensor for any number of rows."""

    sizes: tuple[tuple[int, bool], ...]  # of each axis, and whether it is to be multiplied by the rows
    order: tuple[int, ...]  # axes as they lie in memory, the widest step first
    dtype: torch.dtype
    device: torch.device

    def make(self, rows: int, fill: Fill) -> Tensor:
        """Make a tensor of this shape for so many rows."""
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
    late: bool = False  # whether it would run on what encoders gave, and nobody reads what it makes of that

    @contextmanager
    def applied(self, rows: int, fill: Fill) -> Iterator[None]:
        """Leave the module out for a while."""

        def forward(*_args: Any, **_kwargs: Any) -> Any:
            return rebuild(self.tree, [x.make(rows, fill) if isinstance(x, Blank) else x for x in self.leaves])

        with attribute_set(self.module, "forward", forward):
            yield


def make_skip(path: str, module: nn.Module, forms: Sequence[tuple[int, Form]], *, late: bool = False) -> Skip | None:
    """Learn how to leave a module out.

    Args:
        path: of the module, for messages.
        module: that is left out.
        forms: of what it returned, each with the number of rows it was for.
        late: whether it runs on what encoders gave.

    Returns:
        None where that does not tell what it would return for another number of rows.
    """
    first = forms[0][1]
    if not any(isinstance(x, Shape) for x in first.leaves) or any(f.tree.keys != first.tree.keys for _, f in forms):
        return None
    leaves = [_leaf([(rows, form.leaves[i]) for rows, form in forms]) for i in range(len(first.leaves))]
    return None if _UNKNOWN in leaves else Skip(path, module, first.tree, tuple(leaves), late)


def _leaf(column: Sequence[tuple[int, Any]]) -> Any:
    """What to give for one leaf, seen in several calls: a Blank, or the plain value that it always is."""
    first = column[0][1]
    if isinstance(first, Shape) and all(isinstance(x, Shape) and _alike(x, first) for _, x in column):
        return _blank(column)
    plain = isinstance(first, _PLAIN) and all(type(x) is type(first) and x == first for _, x in column)
    return first if plain else _UNKNOWN


def _alike(a: Shape, b: Shape) -> bool:
    return (a.dtype, a.device, len(a.sizes)) == (b.dtype, b.device, len(b.sizes))


def _blank(column: Sequence[tuple[int, Shape]]) -> Any:
    """How one tensor grows with the rows; unknown where it does not do so in proportion."""
    rows, first = column[0]
    sizes = []
    for axis, size in enumerate(first.sizes):
        if all(x.sizes[axis] == size for _, x in column):
            sizes.append((size, False))
        elif size % rows == 0 and all(x.sizes[axis] * rows == size * n for n, x in column):
            sizes.append((size // rows, True))
        else:
            return _UNKNOWN
    order = sorted(range(len(first.sizes)), key=lambda axis: -first.steps[axis])
    return Blank(tuple(sizes), tuple(order), first.dtype, first.device)
