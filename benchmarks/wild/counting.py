"""Work of a model's leaf modules, counted: multiplications with weights, of every example that really runs through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


@dataclass
class Work:
    """What ran, by the path of its leaf module."""

    calls: dict[str, int] = field(default_factory=dict)  # examples x calls
    products: dict[str, int] = field(default_factory=dict)  # multiplications with weights; of others, numbers put out

    @property
    def total(self) -> int:
        """Of all leaves."""
        return sum(self.products.values())


def count_products(module: nn.Module, given: tuple[Any, ...], answer: Any) -> int:
    """Count what one call of a leaf costs: multiplications with its weights, or the numbers that it puts out."""
    out = sum(t.numel() for t in torch.utils._pytree.tree_leaves(answer) if isinstance(t, Tensor))
    if isinstance(module, nn.Linear):
        return out * module.in_features
    if isinstance(module, _ConvNd):
        return out * module.weight[0].numel()
    del given
    return out


@contextmanager
def counted_work(model: nn.Module) -> Iterator[Work]:
    """Count what leaves of ``model`` run within. A module whose ``forward`` something else stands for does not run.

    The classes' own ``forward`` is watched, not hooks, which are called for what is left out as well. Copies of the model,
    and builds of it for a second time, are of other modules and not counted; forwards alone are, not passes back.
    """
    paths = {id(m): path for path, m in model.named_modules() if not any(True for _ in m.children())}
    work = Work()

    def counting(own: Callable[..., Any]) -> Callable[..., Any]:
        def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            answer = own(self, *args, **kwargs)
            path = paths.get(id(self))
            if path is not None:
                rows = next((len(t) for t in (*args, *kwargs.values()) if isinstance(t, Tensor) and t.ndim), 0)
                work.calls[path] = work.calls.get(path, 0) + rows
                work.products[path] = work.products.get(path, 0) + count_products(self, args, answer)
            return answer

        return forward

    classes = {type(m) for m in model.modules() if id(m) in paths}
    with ExitStack() as stack:
        for kind in sorted(classes, key=lambda c: c.__qualname__):
            stack.enter_context(patch.object(kind, "forward", counting(kind.forward)))
        yield work
