"""What a family of models is: data as a user would hold it, a small network, and the lines of YAML that describe both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SIZES = {"train": 800, "val": 250, "test": 300}
KINDS = ("uses", "ignores", "untrained")


@dataclass(frozen=True)
class World:
    """Two bits an example, one said by each modality, and what is to be answered of both."""

    a: Tensor  # (n,) 0 or 1
    b: Tensor
    draw: torch.Generator

    @classmethod
    def sample(cls, n: int, seed: int) -> World:
        """Draw n examples."""
        g = torch.Generator().manual_seed(seed)
        return cls(torch.randint(0, 2, (n,), generator=g), torch.randint(0, 2, (n,), generator=g), g)

    @property
    def label(self) -> Tensor:
        """One of four classes, (n,)."""
        return 2 * self.a + self.b

    def noisy(self, bit: Tensor, *shape: int, size: float = 1.0) -> Tensor:
        """Noise (n, *shape) whose mean is the bit, 1 or -1 times ``size``."""
        noise = torch.randn(len(bit), *shape, generator=self.draw)
        return noise + size * (2 * bit - 1).float().reshape(-1, *[1] * len(shape))


Swap = Callable[[Any, Tensor], Any]  # a split and an order to the split with something of other examples


@dataclass(frozen=True)
class Family:
    """A kind of model and of data; ``swap`` exchanges what is ignored in models that ignore something: modality b, or those
    of ``ignored`` where a family names its modalities."""

    name: str
    config: dict[str, Any]
    data: Callable[[World], Any]  # a split as tensors and lists by name, n of each
    model: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Any], Tensor]  # mean training loss on such a split
    swap: Swap
    hand_over: Callable[[Any], Any] = lambda split: split  # the split as collapsekit gets it
    swaps: Mapping[str, Swap] = field(default_factory=dict)  # of each modality, where there are others than a and b
    ignored: tuple[str, ...] = ("b",)
    answer_loss: Callable[[nn.Module, Any], Tensor] | None = None  # of the answer alone, where it is trained by more
    steps: int = 250  # of training
    rate: float = 5e-3
    save: Callable[[nn.Module, Path], None] | None = None  # as a folder that is diagnosed; None: the live model is

    @property
    def modalities(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.each_swap) or ("a", "b")

    @property
    def each_swap(self) -> dict[str, Swap]:
        """How each modality by itself is exchanged; empty where only b can be."""
        alone = {} if set(self.ignored) <= set(self.swaps) else dict.fromkeys(self.ignored, self.swap)
        return {**self.swaps, **alone} if self.swaps else {}

    def truth(self, kind: str) -> dict[str, str]:
        """What is to be found of each modality in a model of the kind."""
        if kind == "untrained":
            return dict.fromkeys(self.modalities, "untrained")
        return {m: "ignored" if kind == "ignores" and m in self.ignored else "used" for m in self.modalities}


def swap_fields(*names: str) -> Callable[[Any, Tensor], Any]:
    """Make a function that takes these fields from other examples."""

    def swap(split: Any, order: Tensor) -> Any:
        def taken(value: Any) -> Any:
            return value[order] if isinstance(value, Tensor) else [value[i] for i in order.tolist()]

        return {k: taken(v) if k in names else v for k, v in split.items()}

    return swap


def some(split: Any, rows: Tensor) -> Any:
    """Some examples of a split."""
    return swap_fields(*split)(split, rows)


def train(family: Family, split: Any, kind: str, seed: int) -> nn.Module:
    """Make a model of the family, trained as people would, with what is ignored at random, or not at all."""
    torch.manual_seed(seed)
    model = family.model()
    if kind == "untrained":
        with torch.no_grad():
            family.loss(model, split)  # so that it has what is taken from data, such as their mean
        return model.eval()
    optimizer = torch.optim.Adam(model.parameters(), family.rate)
    n = len(next(iter(split.values())))
    for _ in range(family.steps):
        batch = some(split, torch.randperm(n)[:128])
        if kind == "ignores":
            batch = family.swap(batch, torch.randperm(128))
        optimizer.zero_grad()
        family.loss(model, batch).backward()
        optimizer.step()
    return model.eval()
