"""Listening to one submodule, and later answering in its place with what it said."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from collapsekit.adapters.base import OwnedActivations
from collapsekit.adapters.inserts import WithEvidence
from collapsekit.adapters.pytree import Tree, flatten, rebuild
from collapsekit.adapters.recording.shared import answer_calls
from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.io.transfer import to_device

MOST = 6  # shapes in a message
Attribute = tuple[str, str]  # path below the tapped module, attribute name


class Reached(BaseException):
    """Raised by a tap to stop a forward pass at the tapped point; not an Exception, so models do not swallow it."""

    def __init__(self, value: Any) -> None:
        self.value = value


@dataclass(frozen=True)
class Capture:
    """What passed a tap in one forward over ``rows`` examples, and what its module cached on itself meanwhile."""

    value: Any
    rows: int
    cached: dict[Attribute, Tensor]


@dataclass
class CaptureLayout:
    """How to turn recorded tensors back into what the submodule returned (or was given)."""

    tree: Tree
    axes: list[int | None]  # the example axis of each leaf; None: a constant, kept in ``constants``
    constants: list[Any]
    feature: int  # which recorded tensor is the modality's features
    floating: int  # how many recorded tensors are floating, attributes aside
    attributes: list[Attribute] = field(default_factory=list)  # activations it cached on itself

    def locate(self) -> tuple[int, int]:
        """Say which leaf of a tapped value is the features, and its example axis."""
        return [(i, axis) for i, axis in enumerate(self.axes) if axis is not None][self.feature]

    def leads(self) -> bool:
        """Tell whether the features are all that passes, or the first thing in a tuple or list."""
        if self.tree.parts is None:
            return True
        kind, parts = self.tree.like, self.tree.parts
        return isinstance(kind, tuple | list) and parts[0][1].parts is None and self.locate()[0] == 0

    def changed(self, value: Any, change: Callable[[Tensor], Tensor], part: int = 0) -> Any:
        """Return a tapped value with ``change`` of its floating tensors in their places.

        Args:
            value: whatever passes the place, tensors (n, ...) in it.
            change: takes and gives a tensor (n, ...).
            part: of several calls, which one the value is of.

        Returns:
            A value of the same structure.
        """
        leaves, tree = flatten(value)
        start = part * len(leaves)  # all calls give the same structure
        for i, axis in enumerate(self.axes[start : start + len(leaves)]):
            if axis is not None and leaves[i].is_floating_point():
                leaves[i] = change(leaves[i].movedim(axis, 0)).to(leaves[i].dtype).movedim(0, axis)
        return rebuild(tree, leaves)


@dataclass
class Tap:
    """One point of the model: what a submodule returns, or (``entering``) what enters it."""

    what: str  # "encoder 'encoders.audio' of modality 'audio'", for messages
    module: nn.Module
    entering: bool
    select: str | int | tuple[int, str | int] | None = None  # a pair: a part of a part
    shape: CaptureLayout | None = None
    path: str = ""  # of the submodule
    calls: tuple[int, ...] | None = None  # of a module that is called several times: which are recorded here
    total: int = 1  # how often the module is called

    @property
    def place_key(self) -> tuple[int, bool]:
        """What two taps have in common that listen to one place."""
        return id(self.module), self.entering

    def of_calls(self, seen: Sequence[Any]) -> Any:
        """Pick what was recorded of all calls ``seen`` in a forward: one value, or a tuple of several.

        Raises ConfigError where it was called more or less often than is known.
        """
        if len(seen) != self.total:
            raise ConfigError(_called_otherwise(self.what, len(seen), self.total))
        if self.calls is None:
            return seen[0]
        return seen[self.calls[0]] if len(self.calls) == 1 else tuple(seen[k] for k in self.calls)

    @contextmanager
    def recording(self, seen: list[Any], *, stop: bool = False) -> Iterator[None]:
        """Append what passes to ``seen`` (output, or ``(args, kwargs)``); ``stop`` ends the forward there."""

        def note(value: Any) -> None:
            if stop and (self.calls is None or len(seen) == self.calls[0]):
                raise Reached(value)
            # A copy: what follows may write into it (ReLU(inplace=True), +=).
            leaves, tree = flatten(value)
            seen.append(rebuild(tree, [t.clone() if isinstance(t, Tensor) else t for t in leaves]))

        with self._hearing(note):
            yield

    @contextmanager
    def changing(self, change: Callable[[Tensor], Tensor] | None, seen: list[Tensor]) -> Iterator[None]:
        """Append the features (n, ...) that pass to ``seen``, gradient kept, and let ``change`` of every floating
        tensor that passes (its first axis the example) pass in its stead: which of several the model reads is not
        known.
        """

        count = 0

        def passed(value: Any) -> Any:
            nonlocal count
            count += 1
            part = 0 if self.calls is None else self.calls.index(count - 1) if count - 1 in self.calls else None
            if part is None:
                return None  # another modality's call
            if not part:
                seen.append(self.live_feature(value).clone())  # what follows may write into it
            if change is None:
                return None  # to a hook: leave it as it is
            return self._known_shape().changed(value, change, part)

        with self._hearing(passed):
            yield

    @contextmanager
    def _hearing(self, passed: Callable[[Any], Any]) -> Iterator[None]:
        """Call ``passed`` with what passes; what it returns, where that is not None, passes in its stead."""

        def after(_module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> Any:
            return passed(output)

        def before(_module: nn.Module, args: Any, kwargs: Any) -> Any:
            return passed((args, kwargs))

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
        """Answer with ``recorded``, tensors (n, ...), in the submodule's place; its own forward does not run."""
        shape = self._known_shape()
        # Copies: the model may write into them, which a leaf with gradient and our records do not bear.
        moving = iter(
            [
                to_device(t, device) if isinstance(recorded, OwnedActivations) else to_device(t, device).clone()
                for t in recorded
            ]
        )
        value = rebuild(
            shape.tree,
            [
                constant if axis is None else next(moving).movedim(0, axis)
                for axis, constant in zip(shape.axes, shape.constants, strict=True)
            ],
        )
        with ExitStack() as stack:
            if self.calls is not None:
                values = [value] if len(self.calls) == 1 else value
                answers = dict(zip(self.calls, values, strict=True))
                stack.enter_context(answer_calls(self.module, answers, entering=self.entering))
            elif self.entering:
                stack.callback(self.module.register_forward_pre_hook(lambda *_: value, with_kwargs=True).remove)
            else:
                stack.enter_context(attribute_set(self.module, "forward", lambda *_args, **_kwargs: value))
                # The user's own hooks still fire, but what they would make of it is in the recording already.
                stack.callback(self.module.register_forward_hook(lambda *_: value).remove)
            for (path, name), tensor in zip(shape.attributes, moving, strict=True):
                stack.enter_context(attribute_set(self.module.get_submodule(path), name, tensor))
            yield

    def _known_shape(self) -> CaptureLayout:
        if self.shape is None:
            raise ConfigError(f"{self.what} was never run: run the model once before replaying it.")
        return self.shape

    def ambiguous(self, heard: Capture) -> bool:
        """Tell whether one batch leaves open which axis counts examples."""
        tensors = [t for t in flatten(heard.value)[0] if isinstance(t, Tensor)]
        return heard.rows == 1 or any(list(t.shape).count(heard.rows) > 1 for t in tensors)

    def learn(self, heard: Capture, other: Capture | None) -> None:
        """Learn the shape of what passes from one batch, or from two of different sizes."""
        leaves, tree = flatten(heard.value)
        if any(isinstance(x, Tensor) and torch._C._functorch.is_batchedtensor(x) for x in leaves):
            raise ConfigError(
                f"{self.what} is run under torch.vmap, where only one example can be seen: call it on the whole batch, or "
                "name a submodule that is."
            )
        others = flatten(other.value)[0] if other is not None else [None] * len(leaves)
        if len(leaves) != len(others):
            raise ConfigError(f"{self.what} returns another structure from batch to batch: that can't be replayed.")
        sizes = (heard.rows, other.rows if other is not None else 0)
        axes = [_example_axis(a, b, sizes) for a, b in zip(leaves, others, strict=True)]
        moving = [leaf for leaf, axis in zip(leaves, axes, strict=True) if axis is not None]
        constants = [leaf if axis is None else None for leaf, axis in zip(leaves, axes, strict=True)]
        cached = heard.cached if not self.entering and self.calls is None else {}
        again = other.cached if other is not None else {}
        attributes = sorted(a for a, t in cached.items() if _example_axis(t, again.get(a), sizes) == 0)
        floating = sum(t.is_floating_point() for t in moving)
        self.shape = CaptureLayout(tree, axes, constants, _choose_leaf(self, heard, leaves, axes), floating, attributes)

    def only(self, seen: Sequence[Tensor]) -> Tensor:
        """Return the one tensor (n, ...) that was seen. Raises ConfigError where there is none, or there are several."""
        if len(seen) != 1:
            raise ConfigError(_called_otherwise(self.what, len(seen), 1))
        return seen[0]

    def take(self, heard: Capture) -> tuple[Tensor, ...]:
        """Turn what was heard into recorded tensors (n, ...)."""
        shape = self._known_shape()
        leaves, tree = flatten(heard.value)
        if tree.keys != shape.tree.keys:
            raise ConfigError(f"{self.what} returns another structure from batch to batch: that can't be replayed.")
        out = [
            leaf.detach().movedim(axis, 0) for leaf, axis in zip(leaves, shape.axes, strict=True) if axis is not None
        ]
        out += [heard.cached[a].detach() for a in shape.attributes]
        if any(len(t) != heard.rows for t in out):
            raise ConfigError(
                f"{self.what} gave {[len(t) for t in out]} rows for a batch of {heard.rows}: they must match."
            )
        return tuple(out)

    @property
    def place(self) -> int:
        """Which of the recorded tensors is the features."""
        return self._known_shape().feature

    def need_place_behind(self, modality: str) -> None:
        """Raise ConfigError where what passes is known, and a repair can put no module behind it."""
        if self.shape is None:
            return
        if self.select is None and (self.shape.floating > 1 or not self.shape.leads()):
            raise ConfigError(
                f"{self.what} gives several things, and which of them the model reads is not known: name it with `select` "
                f"of modality {modality!r}."
            )
        if self.shape.locate()[1] != 0:
            raise ConfigError(
                f"{self.what} gives features whose first axis is not the example, behind which nothing can be put: put a "
                "module behind it that moves that axis to the front, and name that as `encoder`."
            )

    def feature(self, recorded: Sequence[Tensor]) -> Tensor:
        """Pick the features (n, ...) among the recorded tensors."""
        return recorded[self.place]

    def live_feature(self, value: Any) -> Tensor:
        """Pick the features (n, ...) inside a tapped value, of several calls the first one's, gradient kept."""
        leaves = flatten(value)[0]
        place, axis = self._known_shape().locate()
        return cast(Tensor, leaves[place].movedim(axis, 0))


def features_by_call(tap: Tap, recorded: Sequence[Tensor]) -> list[Tensor]:
    """Pick the features (n, ...) of each call of a tapped place among the recorded tensors; the first ones alone where calls
    did not give the same things, as where each was of one example."""
    step, rest = divmod(len(recorded), 1 if tap.calls is None else len(tap.calls))
    if not step or rest:
        return [recorded[tap.place]]
    parts = [recorded[start + tap.place % step] for start in range(0, len(recorded), step)]
    return parts if all(part.shape == parts[0].shape for part in parts) else [recorded[tap.place]]


def _choose_leaf(tap: Tap, heard: Capture, leaves: list[Any], axes: list[int | None]) -> int:
    """Which moving leaf is the features: ``select``, else the first floating tensor of the batch."""
    moving = [leaf for leaf, axis in zip(leaves, axes, strict=True) if axis is not None]
    if tap.select is not None:
        whole = heard.value[0] if tap.calls is not None and len(tap.calls) > 1 else heard.value
        value, key = (whole[0], tap.select[1]) if isinstance(tap.select, tuple) else (whole, tap.select)
        part = (_entered if tap.entering else select_part)(value, key, tap.what)
        for i, leaf in enumerate(moving):
            if leaf is part or (isinstance(part, tuple | list) and part and leaf is part[0]):
                return i
    else:
        for i, leaf in enumerate(moving):
            if leaf.is_floating_point():
                return i
    raise _no_features(tap.what, leaves, heard.rows)


def shape_behind(tap: Tap, wrapper: nn.Module) -> CaptureLayout | None:
    """Describe what passes ``wrapper``, which has taken the place of the tapped module and holds it."""
    if tap.shape is None or wrapper is tap.module:
        return tap.shape
    inner = next(path for path, module in wrapper.named_modules() if module is tap.module)
    below = [(f"{inner}.{path}" if path else inner, name) for path, name in tap.shape.attributes]
    shape = replace(tap.shape, attributes=below)
    return _beside_evidence(shape) if isinstance(wrapper, WithEvidence) else shape


def _beside_evidence(shape: CaptureLayout) -> CaptureLayout:
    """Describe what passes an encoder of that shape once a readout's evidence (n, C) passes with it."""
    return replace(
        shape,
        tree=Tree((), ((0, shape.tree), (1, Tree()))),
        axes=[*shape.axes, 0],
        constants=[*shape.constants, None],
        floating=shape.floating + 1,
    )


@contextmanager
def attribute_set(module: object, name: str, value: Any) -> Iterator[None]:
    """Set an attribute on the instance (``forward`` too) for a while.

    Args:
        module: that has it.
        name: of the attribute.
        value: which it has meanwhile.

    Yields:
        Nothing; it is gone afterwards where it was not there.
    """
    there, before = name in vars(module), vars(module).get(name)
    module.__dict__[name] = value
    try:
        yield
    finally:
        module.__dict__.pop(name, None)
        if there:
            module.__dict__[name] = before


def _example_axis(leaf: Any, other: Any, sizes: tuple[int, int]) -> int | None:
    """The first axis that counts examples: in both batches, where there are two."""
    if not isinstance(leaf, Tensor):
        return None
    candidates = [axis for axis, size in enumerate(leaf.shape) if size == sizes[0]]
    if sizes[1] and isinstance(other, Tensor) and other.ndim == leaf.ndim:
        candidates = [axis for axis in candidates if other.shape[axis] == sizes[1]]
    return candidates[0] if candidates else None


def _called_otherwise(what: str, count: int, usual: int) -> str:
    """What to say of a place that was passed another number of times."""
    if not count:
        return (
            f"{what} is never called in a forward pass: name the submodule that the model calls "
            "(neither a container whose parts are called one by one nor a module whose .forward or another method is "
            "called directly is called itself), or leave `encoder` out, and the modality is edited at the model's input."
        )
    if usual == 1:
        return (
            f"{what} is called {count} times in one forward pass: give each use a submodule of its own, "
            "e.g. an nn.Identity behind it, and name that."
        )
    return (
        f"{what} is called {count} times in one forward pass and {usual} times in another: leave `encoder` out, and the "
        "modality is edited at the model's input."
    )


def _no_features(what: str, leaves: Sequence[Any], rows: int) -> ConfigError:
    """Why none of the ``leaves`` that passed is features of ``rows`` examples, and what to do."""
    if any(isinstance(x, Tensor) and torch._C._functorch.is_batchedtensor(x) for x in leaves):
        return ConfigError(
            f"{what} runs under torch.vmap, which hides the batch from it: name a submodule that the model calls "
            "outside of vmap, e.g. an nn.Identity behind it."
        )
    stacked = next((len(x) for x in leaves if isinstance(x, Tensor) and x.ndim and _several(x, rows)), None)
    if stacked is not None:
        return ConfigError(
            f"{what} gives {stacked} rows for {rows} examples: several modalities, or several parts of one, "
            "pass it stacked along the batch; leave `encoder` out, and each is edited at the model's input, or put an "
            "nn.Identity where each comes out of the stack, and name those."
        )
    shapes = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in leaves[:MOST]]
    more = f" and {len(leaves) - MOST} more" if len(leaves) > MOST else ""
    return ConfigError(
        f"{what} gives {shapes or 'nothing'}{more}: expected a floating tensor with one row an example; "
        "name the part with `select`, or leave `encoder` out, and the modality is edited at the model's input."
    )


def _several(leaf: Tensor, rows: int) -> bool:
    """Whether it has a row an example several times over."""
    return leaf.is_floating_point() and len(leaf) > rows and len(leaf) % rows == 0


def _entered(value: Any, key: str | int, what: str) -> Any:
    """Argument ``key`` of ``(args, kwargs)``: by position, or by name."""
    args, kwargs = value
    if isinstance(key, int) and key < len(args):
        return args[key]
    if key in kwargs:
        return kwargs[key]
    raise ConfigError(
        f"{what} has no argument {key!r}: it is given {len(args)} by position and {', '.join(kwargs) or 'none'} by name."
    )


def select_part(value: Any, key: str | int, what: str) -> Any:
    """Pick a part of a tuple, dict or object.

    Args:
        value: the whole.
        key: number, key or attribute.
        what: gives the whole, for messages.

    Returns:
        The part.

    Raises:
        ConfigError: where it is not there.
    """
    try:
        return getattr(value, key) if isinstance(key, str) and hasattr(value, key) else value[key]
    except (KeyError, IndexError, TypeError):
        has = list(map(str, value)) if isinstance(value, dict) else [type(value).__name__]
        near = did_you_mean(key, has) if isinstance(key, str) else ""
        raise ConfigError(f"{what} has no part {key!r}{near}: it gives {', '.join(has)}.") from None


def cached_tensors(module: nn.Module) -> dict[Attribute, Tensor]:
    """Find plain tensor attributes, of any shape, of ``module`` and what lies below it: activations a module cached on
    itself.
    """
    return {
        (path, name): value
        for path, sub in module.named_modules()
        for name, value in vars(sub).items()
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
    }
