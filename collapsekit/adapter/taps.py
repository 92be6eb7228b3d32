"""Listening to one submodule, and later answering in its place with what it said."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from collapsekit.errors import ConfigError

Attribute = tuple[str, str]  # path below the tapped module, attribute name


class Reached(BaseException):
    """Raised by a tap to stop a forward pass at the tapped point; not an Exception, so models do not swallow it."""

    def __init__(self, value: Any) -> None:
        self.value = value


@dataclass
class Shape:
    """How to turn recorded tensors back into what the submodule returned (or was given)."""

    spec: TreeSpec
    axes: list[int | None]  # the example axis of each leaf; None: a constant, kept in ``constants``
    constants: list[Any]
    feature: int  # which recorded tensor is the modality's features
    attributes: list[Attribute] = field(default_factory=list)  # activations it cached on itself


@dataclass
class Tap:
    """One point of the model: what a submodule returns, or (``entering``) what enters it."""

    what: str  # "encoder 'encoders.audio' of modality 'audio'", for messages
    module: nn.Module
    entering: bool
    select: str | int | None = None
    shape: Shape | None = None

    @contextmanager
    def recording(self, seen: list[Any], *, stop: bool = False) -> Iterator[None]:
        """Append what passes to ``seen`` (output, or ``(args, kwargs)``); ``stop`` ends the forward there."""

        def note(value: Any) -> None:
            if stop:
                raise Reached(value)
            seen.append(value)

        def after(_module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
            note(output)

        def before(_module: nn.Module, args: Any, kwargs: Any) -> None:
            note((args, kwargs))

        if self.entering:
            handle = self.module.register_forward_pre_hook(before, with_kwargs=True)
        else:
            handle = self.module.register_forward_hook(after, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def replaying(self, recorded: Sequence[Tensor], device: torch.device) -> Iterator[None]:
        """Answer with ``recorded`` in the submodule's place; its own forward does not run."""
        shape = self._known_shape()
        leaves = [t.to(device) for t in recorded]
        value = self._rebuild(shape, leaves)
        attributes = leaves[len(leaves) - len(shape.attributes) :] if shape.attributes else []
        if self.entering:
            handle = self.module.register_forward_pre_hook(lambda *_: value, with_kwargs=True)
            undo: Callable[[], None] = handle.remove
        else:
            undo = _answer_with(self.module, value)
        put_back = [(m, n, getattr(m, n)) for m, n in self._cached_on(shape)]
        for (module, name), tensor in zip(self._cached_on(shape), attributes, strict=True):
            setattr(module, name, tensor)
        try:
            yield
        finally:
            undo()
            for module, name, old in put_back:
                setattr(module, name, old)

    def _known_shape(self) -> Shape:
        if self.shape is None:
            raise ConfigError(f"{self.what} was never run: run the model once before replaying it.")
        return self.shape

    def _cached_on(self, shape: Shape) -> list[tuple[nn.Module, str]]:
        return [(self.module.get_submodule(path), name) for path, name in shape.attributes]

    @staticmethod
    def _rebuild(shape: Shape, recorded: Sequence[Tensor]) -> Any:
        moving = iter(recorded)
        leaves = [
            constant if axis is None else next(moving).movedim(0, axis)
            for axis, constant in zip(shape.axes, shape.constants, strict=True)
        ]
        return tree_unflatten(leaves, shape.spec)

    def take(self, value: Any, rows: int, cached: dict[Attribute, Tensor]) -> tuple[Tensor, ...]:
        """``value`` as recorded tensors, example axis first; learns the shape on the first batch."""
        leaves, spec = tree_flatten(value)
        if self.shape is None:
            self.shape = self._learn(value, leaves, spec, rows, cached)
        shape = self.shape
        if len(leaves) != len(shape.axes):
            raise ConfigError(f"{self.what} returns a different structure from batch to batch: that can't be replayed.")
        out = [
            leaf.detach().movedim(axis, 0) for leaf, axis in zip(leaves, shape.axes, strict=True) if axis is not None
        ]
        out += [cached[a].detach() for a in shape.attributes]
        if any(len(t) != rows for t in out):
            raise ConfigError(f"{self.what} gave {[len(t) for t in out]} rows for a batch of {rows}: they must match.")
        return tuple(out)

    def _learn(
        self, value: Any, leaves: list[Any], spec: TreeSpec, rows: int, cached: dict[Attribute, Tensor]
    ) -> Shape:
        axes = [_example_axis(leaf, rows) for leaf in leaves]
        chosen = self._chosen(value, leaves, axes)
        kept = [i for i, axis in enumerate(axes) if axis is not None]
        constants = [leaf if axis is None else None for leaf, axis in zip(leaves, axes, strict=True)]
        attributes = [] if self.entering else sorted(a for a, t in cached.items() if _example_axis(t, rows) == 0)
        return Shape(spec, axes, constants, kept.index(chosen), attributes)

    def _chosen(self, value: Any, leaves: list[Any], axes: list[int | None]) -> int:
        """Index of the leaf that is the features: ``select``, else the first floating tensor of the batch."""
        if self.select is not None:
            part = select_part(value[0] if self.entering else value, self.select, self.what)
            for i, leaf in enumerate(leaves):
                if leaf is part and axes[i] is not None:
                    return i
        else:
            for i, leaf in enumerate(leaves):
                if isinstance(leaf, Tensor) and leaf.is_floating_point() and axes[i] is not None:
                    return i
        found = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in leaves]
        raise ConfigError(
            f"{self.what} gives {found or 'nothing'}: expected a floating tensor with one row an example; "
            "name the part with `select`, or write a Python adapter."
        )

    def feature(self, recorded: Sequence[Tensor]) -> Tensor:
        """The features among the recorded tensors."""
        return recorded[self._known_shape().feature]


def _answer_with(module: nn.Module, value: Any) -> Callable[[], None]:
    """Shadow ``module.forward`` on the instance; hooks of the user's own still fire."""
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = lambda *_args, **_kwargs: value

    def undo() -> None:
        if before is None:
            module.__dict__.pop("forward", None)
        else:
            module.__dict__["forward"] = before

    return undo


def _example_axis(leaf: Any, rows: int) -> int | None:
    if not isinstance(leaf, Tensor):
        return None
    return next((axis for axis, size in enumerate(leaf.shape) if size == rows), None)


def select_part(value: Any, key: str | int, what: str) -> Any:
    """Part ``key`` of a tuple, dict or object. Raises ConfigError where it is not there."""
    try:
        return getattr(value, key) if isinstance(key, str) and hasattr(value, key) else value[key]
    except (KeyError, IndexError, TypeError):
        has = list(value) if isinstance(value, dict) else type(value).__name__
        raise ConfigError(f"{what} has no part {key!r}: it gives {has}.") from None


def cached_tensors(module: nn.Module) -> dict[Attribute, Tensor]:
    """Plain tensor attributes of ``module`` and what lies below it: activations a module cached on itself."""
    return {
        (path, name): value
        for path, sub in module.named_modules()
        for name, value in vars(sub).items()
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
    }
