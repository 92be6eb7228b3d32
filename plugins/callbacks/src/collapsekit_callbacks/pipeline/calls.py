"""A call of a model's forward in training, which can be asked again with a modality taken from other examples."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from collapsekit.ext import MISSING, Region, find_field, put_region, replace_field, take_region


@dataclass(frozen=True)
class WatchedModality:
    """A modality among the arguments of forward.

    ``paths``: its fields; ``region``: the part of the one field that it is, or None; ``mask``: the field that says which
    of its positions are real, or None.
    """

    name: str
    paths: tuple[str, ...]
    region: Region | None = None
    mask: str | None = None


@dataclass(frozen=True)
class Call:
    """Arguments of one forward, by name; of ``**kwargs`` each by its own."""

    bound: inspect.BoundArguments
    names: Mapping[str, Any]

    @staticmethod
    def of(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """Note a call. Raises TypeError as the call itself would."""
        bound = signature.bind(*args, **kwargs)
        return Call(bound, _flat(bound))

    def field(self, path: str) -> Any:
        """The argument, or the part of one, at a path; None where there is none."""
        found = find_field(self.names, path)
        return None if found is MISSING else found

    def take(self, modality: WatchedModality) -> list[Tensor]:
        """The modality's tensors; those that are None or no tensors are left out."""
        if modality.region is not None:
            if any(not isinstance(self.field(path), Tensor) for path in modality.region.fields):
                return []
            fields = {path: self.field(path) for path in modality.region.fields}
            return [take_region(modality.region, fields)]
        return [t for path in modality.paths for t in _tensors(self.field(path))]

    def exchanged(self, modality: WatchedModality, size: int, before: Call | None) -> Call | None:
        """The same call with the modality of each example taken from another one.

        Args:
            modality: Which.
            size: How many examples there are.
            before: The call before, from which a single example is served.

        Returns:
            The call; None where the modality is missing, nothing else is at hand, or it would be the same call again.
        """
        names: Any = dict(self.names)
        if modality.region is not None:
            parts = self.take(modality)
            old = before.take(modality) if before is not None else []
            part = exchange(parts[0], size, old[0] if old else None) if parts else None
            if part is None or torch.equal(part, parts[0]):
                return None
            fields = {path: self.field(path) for path in modality.region.fields}
            return self._again(replace_field(names, modality.region.key, put_region(modality.region, fields, part)))
        changed = False
        for path in modality.paths:
            value = self.field(path)
            new = exchange(value, size, before.field(path) if before is not None else None)
            if new is not None:
                changed = changed or not _alike(value, new)
                names = replace_field(names, path, new)
        return self._again(names) if changed else None

    def first(self, rows: int, size: int) -> Call:
        """The same call with the first ``rows`` of its ``size`` examples, where every tensor and list has that length; else
        as it is."""
        lengths = {len(value) for value in self._rowed()}
        if rows >= size or lengths != {size}:
            return self
        return self._again({k: _first(v, rows) for k, v in self.names.items()})

    def size(self) -> int:
        """How many examples it has: the commonest length of its tensors and lists."""
        counts = Counter(len(value) for value in self._rowed())
        return max(counts, key=lambda n: (counts[n], -n)) if counts else 0

    def run(self, model: Callable[..., Any]) -> Any:
        """What the model answers."""
        return model(*self.bound.args, **self.bound.kwargs)

    def _rowed(self) -> Iterator[Any]:
        for value in self.names.values():
            yield from _leaves(value)

    def _again(self, names: Mapping[str, Any]) -> Call:
        bound = inspect.BoundArguments(self.bound.signature, type(self.bound.arguments)())
        for name, parameter in self.bound.signature.parameters.items():
            if name not in self.bound.arguments:
                continue
            held = self.bound.arguments[name]
            if parameter.kind is parameter.VAR_KEYWORD:
                bound.arguments[name] = {k: names[k] for k in held}
            elif parameter.kind is parameter.VAR_POSITIONAL:
                bound.arguments[name] = tuple(names[f"{name}.{i}"] for i in range(len(held)))
            else:
                bound.arguments[name] = names[name]
        return Call(bound, names)


def exchange(value: Any, size: int, before: Any) -> Any:
    """Give each example what another one had.

    Args:
        value: A field of the call: a tensor or list over examples, or a tensor of several rows an example.
        size: How many examples there are.
        before: The same field in the call before, from which a single example is served.

    Returns:
        The field with its examples moved on by one. Where rows do not go by example: with its rows in reverse, which is
        another input all the same. None where nothing else is at hand.
    """
    if isinstance(value, list | tuple):
        return type(value)([*value[1:], value[0]]) if len(value) == size and size > 1 else None
    if isinstance(value, Mapping):
        changed = {
            k: exchange(v, size, before.get(k) if isinstance(before, Mapping) else None) for k, v in value.items()
        }
        return None if any(v is None for v in changed.values()) else type(value)(changed)  # type: ignore[call-arg]
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    rows = len(value)
    if size > 1 and rows % size == 0:
        return value.unflatten(0, (size, rows // size)).roll(1, 0).flatten(0, 1)
    if isinstance(before, Tensor) and before.shape == value.shape:
        return before
    return value.flip(0) if rows > 1 else None


def _alike(one: Any, other: Any) -> bool:
    mine, theirs = list(_leaves(one)), list(_leaves(other))
    return len(mine) == len(theirs) and all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b
        for a, b in zip(mine, theirs, strict=True)
    )


def _flat(bound: inspect.BoundArguments) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            names |= value
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            names |= {f"{name}.{i}": v for i, v in enumerate(value)}
        else:
            names[name] = value
    return names


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in _leaves(value) if isinstance(leaf, Tensor)]


def _leaves(value: Any) -> Iterator[Any]:
    """Tensors with an axis and lists of other things, at any depth."""
    if isinstance(value, Tensor):
        if value.dim() > 0:
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _leaves(part)
    elif isinstance(value, list | tuple):
        if any(isinstance(part, Tensor) for part in value):
            for part in value:
                yield from _leaves(part)
        else:
            yield value


def _first(value: Any, rows: int) -> Any:
    if isinstance(value, Tensor):
        return value[:rows] if value.dim() > 0 else value
    if isinstance(value, Mapping):
        return type(value)({k: _first(v, rows) for k, v in value.items()})  # type: ignore[call-arg]
    if isinstance(value, list | tuple):
        nested = any(isinstance(part, Tensor) for part in value)
        return type(value)([_first(part, rows) for part in value] if nested else value[:rows])
    return value
