"""The weights and buffers a model holds: a copy, which of them a forward changed, and how they are put back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from collapsekit.checkpoint.mmap import forget


@dataclass(frozen=True)
class Slot:
    """One parameter or buffer: where a module keeps it, the tensor, and a copy of what that held; of one that lies in a
    file with the same values, in whatever precision, the copy is that."""

    name: str
    registry: dict[str, Any]
    key: str
    tensor: Tensor
    copy: Tensor
    dtype: torch.dtype

    @property
    def before(self) -> Tensor:
        """What the tensor held, in its shape."""
        return self.copy.to(self.dtype)

    @property
    def in_place(self) -> bool:
        """Whether the tensor is where it was, of the shape and kind it had."""
        there = self.registry.get(self.key) is self.tensor
        return there and self.tensor.shape == self.copy.shape and self.tensor.dtype == self.dtype

    def put_back(self) -> None:
        """Put the tensor in its place, with the values it had."""
        self.registry[self.key] = self.tensor
        # Elsewhere than on the CPU a comparison would wait for the device.
        if self.tensor.device.type != "cpu" or not same_bits(self.tensor.detach(), self.before):
            with torch.no_grad():
                self.tensor.copy_(self.copy)


@dataclass(frozen=True)
class State:
    """Parameters and buffers of a model, as they were."""

    slots: tuple[Slot, ...]

    @classmethod
    def of(cls, model: nn.Module, in_file: Mapping[str, Tensor] | None = None) -> State:
        """Copy every parameter and buffer there is, persistent or not; lazy ones that have no shape yet are left out.

        Of those that are ``in_file``, by name and mapped from there, no copy is made where their values are the same.
        """
        files = in_file or {}
        return cls(
            tuple(
                _slot(registry, key, tensor, f"{path}.{key}" if path else key, files)
                for path, module in model.named_modules()
                for registry in (module._parameters, module._buffers)
                if isinstance(registry, dict)  # a scripted module has something else there
                for key, tensor in registry.items()
                if tensor is not None and not is_lazy(tensor) and not tensor.is_meta  # which waits elsewhere
            )
        )

    @property
    def changed(self) -> State:
        """Those that a forward has changed since; a device is asked once for all that lie on it."""
        found = {id(s) for s in self.slots if not s.in_place}
        asked: dict[torch.device, list[tuple[Slot, Tensor]]] = {}
        for slot in self.slots:
            now = slot.tensor.detach()
            if slot.in_place and now.device.type == "cpu":
                found |= set() if same_bits(now, slot.before) else {id(slot)}
                forget(slot.copy)
            elif slot.in_place:
                before = slot.copy
                apart = ((now != before) & ~((now != now) & (before != before))).any()
                asked.setdefault(now.device, []).append((slot, apart))
        for flags in asked.values():
            told = torch.stack([flag for _, flag in flags]).tolist()
            found |= {id(slot) for (slot, _), apart in zip(flags, told, strict=True) if apart}
        # They are asked again at every forward, so that they are better off in memory.
        return State(tuple(replace(s, copy=s.before.clone()) for s in self.slots if id(s) in found))

    @property
    def floating(self) -> list[str]:
        """Names of those that are no counts or flags."""
        return [s.name for s in self.slots if s.dtype.is_floating_point or s.dtype.is_complex]

    def put_back(self) -> None:
        """Put every tensor in its place, with the values it had."""
        for slot in self.slots:
            slot.put_back()

    def renewed(self) -> State:
        """Copy what is in the same places now."""
        now = [(s, s.registry.get(s.key)) for s in self.slots]
        return State(tuple(_slot(s.registry, s.key, t, s.name, {}) for s, t in now if isinstance(t, Tensor)))


def _slot(registry: dict[str, Any], key: str, tensor: Tensor, name: str, files: Mapping[str, Tensor]) -> Slot:
    there = files.get(name) if tensor.device.type == "cpu" else None
    if there is not None and same_bits(tensor.detach(), there.to(tensor.dtype)):
        forget(there)
        return Slot(name, registry, key, tensor, there, tensor.dtype)
    return Slot(name, registry, key, tensor, tensor.detach().clone(), tensor.dtype)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors have one shape and type and hold the same, NaN and NaN alike."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if torch.equal(a, b):
        return True
    floating = a.is_floating_point()
    return floating and torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())
