"""A model given back as it was found, whatever ran in between."""

from __future__ import annotations

import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import is_
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_DEEP = 2  # objects behind one another, from a module: a cache, say, and the layers of that cache
# Of such objects nothing is put back: what they hold is their own affair, and part of it lies out of reach.
_FOREIGN = (frozenset(sys.stdlib_module_names) | {"torch", "numpy", "collapsekit"}) - {
    "types",
    "argparse",
    "collections",
}
_LIES_IN_THE_MODEL = "collapsekit.inserts"
_NO_STATE = (type, type(sys), str, bytes, int, float, bool, complex, type(None), torch.dtype, torch.device)
# Most of what a module holds is of these very types, or empty: told first, as a monitor comes by often.
_AT_A_GLANCE = frozenset(_NO_STATE)
_COLLECTIONS = frozenset({dict, OrderedDict, list, set, deque})

Undo = Callable[[], object]


@contextmanager
def model_kept(model: nn.Module) -> Iterator[None]:
    """Give ``model`` back as it was found.

    Of every module in it, and of every one in plain containers, that is: class, attributes, submodules, hooks and mode;
    weights (storage, gradient, requires_grad); buffers and other tensors with what they hold; lists, dicts, sets, deques
    and generators of random numbers; objects such as configs and caches, two deep; and what the modules' classes hold,
    torch's own aside. It is all or nothing: a model that makes hooks in its first forward, and notes in an attribute that
    they are there, needs both or neither.

    Not put back: numbers that are written into a weight in place, and what a forward leaves outside of the model.
    """
    found = _Found()
    found.walk(model, 0)
    try:
        yield
    finally:
        with torch.no_grad():
            found.put_back()


class _Found:
    """What was found, and how to put it back."""

    def __init__(self) -> None:
        self.undo: list[Undo] = []
        self.seen: dict[int, Any] = {}  # the objects as well, so that no other gets the id of one of them
        self.empty: list[Any] = []

    def put_back(self) -> None:
        """All of it as it was."""
        for put_back in reversed(self.undo):
            put_back()
        for collection in self.empty:
            if collection:
                collection.clear()

    def walk(self, value: Any, deep: int) -> None:
        """Note what ``value`` holds; ``deep``: how many objects lie between it and a module."""
        kind = type(value)
        if id(value) in self.seen or isinstance(value, _NO_STATE):
            return
        self.seen[id(value)] = value
        if kind in _COLLECTIONS and not value:
            self.empty.append(value)
        elif isinstance(value, nn.Module):
            self._module(value)
        elif isinstance(value, Tensor):
            weight = isinstance(value, nn.Parameter) or is_lazy(value)
            self.undo.append(_weight(value) if weight else _tensor(value))
        elif isinstance(value, dict):
            self._each(value.values(), deep)
            self.undo.append(_mapping(value))
        elif isinstance(value, list | set | deque):
            self._each(value, deep)
            self.undo.append(_collection(value))
        elif isinstance(value, tuple | frozenset):
            self._each(value, deep)
        elif isinstance(value, torch.Generator | random.Random | np.random.Generator | np.random.RandomState):
            self.undo.append(_generator(value))
        elif isinstance(value, FunctionType) or (deep < _DEEP and _of_the_user(type(value))):
            self._object(value, deep + 1)

    def _each(self, values: Iterable[Any], deep: int) -> None:
        for value in values:
            if type(value) not in _AT_A_GLANCE:
                self.walk(value, deep)

    def _module(self, module: nn.Module) -> None:
        kind, mode = type(module), module.training
        self._each(vars(module).values(), 0)
        attributes = _mapping(vars(module))

        def put_back() -> None:
            if type(module) is not kind:
                module.__class__ = kind
            attributes()
            if module.training != mode:  # a scripted module has it elsewhere
                module.training = mode

        self.undo.append(put_back)
        for base in kind.__mro__:
            if base.__module__.partition(".")[0] not in _FOREIGN and id(base) not in self.seen:
                self.seen[id(base)] = base
                self._class(base)

    def _class(self, kind: type) -> None:
        held = _bindings(kind)
        self._each(held.values(), 1)

        def put_back() -> None:
            now = _bindings(kind)
            for name in now.keys() - held.keys():
                delattr(kind, name)
            for name, value in held.items():
                if now.get(name, held) is not value:
                    setattr(kind, name, value)

        self.undo.append(put_back)

    def _object(self, value: Any, deep: int) -> None:
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict):
            self._each(attributes.values(), deep)
            self.undo.append(_mapping(attributes))
        slots = _slots(value)
        self._each(slots.values(), deep)
        self.undo.extend(partial(object.__setattr__, value, name, held) for name, held in slots.items())


def _of_the_user(kind: type) -> bool:
    return kind.__module__ == _LIES_IN_THE_MODEL or kind.__module__.partition(".")[0] not in _FOREIGN


def _bindings(kind: type) -> dict[str, Any]:
    """A class's attributes, Python's own aside."""
    return {k: v for k, v in vars(kind).items() if not (k.startswith("__") or k == "_abc_impl")}


def _slots(value: Any) -> dict[str, Any]:
    names = [n for kind in type(value).__mro__ for n in _names(vars(kind).get("__slots__", ()))]
    return {n: getattr(value, n) for n in names if n not in {"__dict__", "__weakref__"} and hasattr(value, n)}


def _names(slots: Any) -> Iterable[str]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _weight(weight: Tensor) -> Undo:
    """Storage, class and gradient; nothing is added to the gradient meanwhile."""
    kind, data, grad, wanted = type(weight), weight.data, weight.grad, weight.requires_grad
    weight.grad = None

    def put_back() -> None:
        weight.grad = None  # of the shape the weight has had meanwhile
        weight.data = data
        if type(weight) is not kind:  # a lazy one got its shape
            weight.__class__ = kind
        weight.grad = grad
        if weight.requires_grad != wanted:
            weight.requires_grad_(wanted)

    return put_back


def _tensor(tensor: Tensor) -> Undo:
    """What it holds, and where."""
    data, held = tensor.data, tensor.detach().clone()
    grad = tensor.grad if tensor.is_leaf else None

    def put_back() -> None:
        if type(tensor) is Tensor and tensor.layout is torch.strided and tensor.data_ptr() != data.data_ptr():
            tensor.data = data
        # Elsewhere than on the CPU a comparison would wait for the device; expanded tensors cannot be written into.
        expanded = any(step == 0 and size > 1 for step, size in _layout(tensor))
        if not ((tensor.device.type == "cpu" or expanded) and _equal(tensor.detach(), held)):
            tensor.detach().copy_(held)
        if tensor.is_leaf:
            tensor.grad = grad

    return put_back


def _layout(tensor: Tensor) -> Iterable[tuple[int, int]]:
    return zip(tensor.stride(), tensor.shape, strict=True) if tensor.layout is torch.strided else ()


def _equal(a: Tensor, b: Tensor) -> bool:
    try:
        return torch.equal(a, b)
    except (RuntimeError, NotImplementedError):  # sparse, quantised, on no device
        return False


def _mapping(mapping: dict[Any, Any]) -> Undo:
    kind: Any = OrderedDict if isinstance(mapping, OrderedDict) else dict
    names, values = list(kind.keys(mapping)), list(kind.values(mapping))  # pairs would keep the garbage collector busy

    def put_back() -> None:
        if _alike(kind.keys(mapping), names) and _alike(kind.values(mapping), values):
            return
        kind.clear(mapping)
        kind.update(mapping, zip(names, values, strict=True))

    return put_back


def _alike(now: Collection[Any], held: Sequence[Any]) -> bool:
    """Whether it is the same objects, in order."""
    return len(now) == len(held) and all(map(is_, now, held))


def _collection(values: list[Any] | set[Any] | deque[Any]) -> Undo:
    held = list(values)

    def put_back() -> None:
        if _alike(values, held):
            return
        values.clear()
        if isinstance(values, set):
            values.update(held)
        else:
            values.extend(held)

    return put_back


def _generator(generator: Any) -> Undo:
    if isinstance(generator, torch.Generator):
        return partial(generator.set_state, generator.get_state())
    if isinstance(generator, random.Random):
        return partial(generator.setstate, generator.getstate())
    if isinstance(generator, np.random.RandomState):
        return partial(generator.set_state, generator.get_state())
    return partial(setattr, generator.bit_generator, "state", generator.bit_generator.state)
