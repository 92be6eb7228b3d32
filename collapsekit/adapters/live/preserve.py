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
_LIES_IN_THE_MODEL = "collapsekit.adapters.inserts"
_NO_STATE = (type, type(sys), str, bytes, int, float, bool, complex, type(None), torch.dtype, torch.device)
# Most of what a module holds is of these very types, or empty: told first, as a monitor comes by often.
_AT_A_GLANCE = frozenset(_NO_STATE)
_COLLECTIONS = frozenset({dict, OrderedDict, list, set, deque})

Undo = Callable[[], object]


@contextmanager
def preserve_model(model: nn.Module) -> Iterator[None]:
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
    """What was found, and how to put it back. Plain records, of which there are thousands, as closures would keep the
    garbage collector busy."""

    def __init__(self) -> None:
        self.seen: dict[int, Any] = {}  # the objects as well, so that no other gets the id of one of them
        self.empty: list[Any] = []
        self.mappings: list[tuple[dict[Any, Any], list[Any], list[Any]]] = []
        self.collections: list[tuple[list[Any] | set[Any] | deque[Any], list[Any]]] = []
        self.weights: list[tuple[Tensor, type, Tensor, Tensor | None, bool]] = []
        self.tensors: list[tuple[Tensor, Tensor, Tensor, Tensor | None]] = []
        self.modules: list[tuple[nn.Module, type, bool]] = []
        self.others: list[Undo] = []

    def walk(self, value: Any, deep: int) -> None:
        """Note what ``value`` holds; ``deep``: how many objects lie between it and a module."""
        if id(value) in self.seen or isinstance(value, _NO_STATE):
            return
        self.seen[id(value)] = value
        kind = type(value)
        if kind in _COLLECTIONS and not value:
            self.empty.append(value)
        elif isinstance(value, nn.Module):
            self._module(value)
        elif isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, dict):
            self._mapping(value, deep)
        elif isinstance(value, list | set | deque):
            self._each(value, deep)
            self.collections.append((value, list(value)))
        elif isinstance(value, tuple | frozenset):
            self._each(value, deep)
        elif isinstance(value, torch.Generator | random.Random | np.random.Generator | np.random.RandomState):
            self.others.append(_generator(value))
        elif isinstance(value, FunctionType) or (deep < _DEEP and _of_the_user(kind)):
            self._object(value, deep + 1)

    def _each(self, values: Iterable[Any], deep: int) -> None:
        for value in values:
            if type(value) not in _AT_A_GLANCE:
                self.walk(value, deep)

    def _mapping(self, mapping: dict[Any, Any], deep: int) -> None:
        plain = _plain(mapping)
        values = list(plain.values(mapping))
        self._each(values, deep)
        self.mappings.append((mapping, list(plain.keys(mapping)), values))

    def _tensor(self, tensor: Tensor) -> None:
        grad = tensor.grad if tensor.is_leaf else None
        if isinstance(tensor, nn.Parameter) or is_lazy(tensor):
            self.weights.append((tensor, type(tensor), tensor.data, grad, tensor.requires_grad))
            tensor.grad = None  # so that nothing is added to what it holds
        else:
            self.tensors.append((tensor, tensor.data, tensor.detach().clone(), grad))

    def _module(self, module: nn.Module) -> None:
        kind = type(module)
        self.modules.append((module, kind, module.training))
        self._mapping(vars(module), 0)
        if id(kind) in self.seen:
            return
        for base in kind.__mro__:
            if id(base) not in self.seen and base.__module__.partition(".")[0] not in _FOREIGN:
                self._class(base)
            self.seen[id(base)] = base

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

        self.others.append(put_back)

    def _object(self, value: Any, deep: int) -> None:
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict):
            self._mapping(attributes, deep)
        slots = _slots(value)
        self._each(slots.values(), deep)
        self.others.extend(partial(object.__setattr__, value, name, held) for name, held in slots.items())

    def put_back(self) -> None:
        """All of it as it was."""
        for module, kind, _ in self.modules:
            if type(module) is not kind:
                module.__class__ = kind
        self._put_collections_back()
        for weight in self.weights:
            _put_weight(*weight)
        for tensor in self.tensors:
            _put_tensor(*tensor)
        for module, _, mode in self.modules:
            if module.training != mode:  # a scripted one does not have it among its attributes
                module.training = mode
        for put_back in self.others:
            put_back()

    def _put_collections_back(self) -> None:
        for mapping, names, values in self.mappings:
            plain = _plain(mapping)
            if not (_alike(plain.keys(mapping), names) and _alike(plain.values(mapping), values)):
                plain.clear(mapping)
                plain.update(mapping, zip(names, values, strict=True))
        for collection, held in self.collections:
            if not _alike(collection, held):
                collection.clear()
                (collection.update if isinstance(collection, set) else collection.extend)(held)
        for collection in self.empty:
            if collection:
                collection.clear()


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


def _put_weight(weight: Tensor, kind: type, data: Tensor, grad: Tensor | None, wanted: bool) -> None:
    weight.grad = None  # of the shape the weight has had meanwhile
    weight.data = data
    if type(weight) is not kind:  # a lazy one got its shape
        weight.__class__ = kind
    weight.grad = grad
    if weight.requires_grad != wanted:
        weight.requires_grad_(wanted)


def _put_tensor(tensor: Tensor, data: Tensor, held: Tensor, grad: Tensor | None) -> None:
    if type(tensor) is Tensor and tensor.layout is torch.strided and tensor.data_ptr() != data.data_ptr():
        tensor.data = data
    # Elsewhere than on the CPU a comparison would wait for the device; expanded tensors cannot be written into.
    expanded = any(step == 0 and size > 1 for step, size in _layout(tensor))
    if not ((tensor.device.type == "cpu" or expanded) and _equal(tensor.detach(), held)):
        tensor.detach().copy_(held)
    if tensor.is_leaf:
        tensor.grad = grad


def _layout(tensor: Tensor) -> Iterable[tuple[int, int]]:
    return zip(tensor.stride(), tensor.shape, strict=True) if tensor.layout is torch.strided else ()


def _equal(a: Tensor, b: Tensor) -> bool:
    try:
        return torch.equal(a, b)
    except (RuntimeError, NotImplementedError):  # sparse, quantised, on no device
        return False


def _plain(mapping: dict[Any, Any]) -> Any:
    """The kind of dict whose methods change it without anything of a subclass's own."""
    return OrderedDict if isinstance(mapping, OrderedDict) else dict


def _alike(now: Collection[Any], held: Sequence[Any]) -> bool:
    """Whether it is the same objects, in order."""
    return len(now) == len(held) and all(map(is_, now, held))


def _generator(generator: Any) -> Undo:
    if isinstance(generator, torch.Generator):
        return partial(generator.set_state, generator.get_state())
    if isinstance(generator, random.Random):
        return partial(generator.setstate, generator.getstate())
    if isinstance(generator, np.random.RandomState):
        return partial(generator.set_state, generator.get_state())
    return partial(setattr, generator.bit_generator, "state", generator.bit_generator.state)
