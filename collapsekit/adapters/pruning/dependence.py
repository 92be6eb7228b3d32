"""Which modules an answer depends on: each tensor carries a mark of every module it was computed in, or from."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from collapsekit.adapters.pruning.placeholder import Form, form_of
from collapsekit.adapters.pytree import flatten

# Methods by which Python gets at numbers without an operation of torch's.
_READS = frozenset({"numpy", "tolist", "__array__", "__dlpack__"})
_BY_VALUE = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
_MASKS = (torch.bool, torch.uint8)
_LIKE = frozenset(f"{kind}_like" for kind in ("empty", "zeros", "ones", "full", "rand", "randn"))
_NEW = frozenset(f"new_{kind}" for kind in ("empty", "zeros", "ones", "full"))


@dataclass(frozen=True)
class Call:
    """One call of a module: the modules it was called within, outermost first, and the form of what it returned."""

    module: nn.Module
    within: tuple[nn.Module, ...]
    form: Form


class Calls:
    """The modules under way in one forward, and every call that ended."""

    def __init__(self) -> None:
        self.open: list[nn.Module] = []
        self.ended: list[Call] = []
        self.elsewhere = False  # whether a module ran in another thread, whose operations are not seen
        self._thread = threading.get_ident()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note calls for a while."""
        with ExitStack() as stack:
            stack.callback(register_module_forward_pre_hook(self._begin).remove)
            stack.callback(register_module_forward_hook(self._end, always_call=True).remove)
            yield

    def _begin(self, module: nn.Module, _args: Any) -> None:
        self.elsewhere |= threading.get_ident() != self._thread
        self.open.append(module)

    def _end(self, module: nn.Module, _args: Any, output: Any) -> None:
        if self.open and self.open[-1] is module:
            self.open.pop()
            self.ended.append(Call(module, tuple(self.open), form_of(output)))
            self.returned(module, output)

    def returned(self, module: nn.Module, output: Any) -> None:
        """Note what a module returned; a subclass says what of it."""


class Dependence(Calls):
    """What the tensors of one forward depend on. A tensor has its marks by its storage: views share them, and what is
    written in place adds to them. That is never too few, but may be too many."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.bits = {id(m): 1 << i for i, m in enumerate(modules)}
        self.marks: dict[int, int] = {}
        # Of what random draws depend on: how many are drawn may follow from numbers, and others come after them.
        self.drawn = 0
        self.values_read = False  # whether Python saw a number, or one decides a shape: what ran may depend on it
        self._alive: list[Any] = []  # storages, as another one would get the address of one that is gone

    @contextmanager
    def listening(self) -> Iterator[None]:
        with super().listening(), _Reads(self), _Operations(self):
            yield

    def returned(self, module: nn.Module, output: Any) -> None:
        bit = self.bits.get(id(module), 0)
        for leaf in flatten(output)[0]:
            if isinstance(leaf, Tensor):  # one that was only passed on was computed elsewhere
                self.add(leaf, bit)

    def of(self, tensors: Iterable[Tensor]) -> int:
        """Collect the marks of what ``tensors``, of any shape, depend on."""
        found = 0
        for tensor in tensors:
            found |= self.marks.get(_storage(tensor)._cdata, 0)
        return found

    def reaches(self, module: nn.Module, mask: int) -> bool:
        """Tell whether marks ``mask`` have that of ``module``."""
        return bool(self.bits[id(module)] & mask)

    def add(self, tensor: Tensor, mask: int) -> None:
        """Add marks to a tensor of any shape."""
        storage = _storage(tensor)
        self._alive.append(storage)
        self.marks[storage._cdata] = self.marks.get(storage._cdata, 0) | mask

    def note(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        """Note one operation.

        Args:
            func: the operation.
            args: what it took by position.
            kwargs: and by name.
            out: what it returned.

        Returns:
            Nothing.
        """
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = tree_leaves(out)
        self.values_read |= bool(read) and (_by_value(func, read) or any(isinstance(x, int | float) for x in made))
        by_shape = func.overloadpacket.__name__ in _LIKE | _NEW
        mask = 0 if by_shape else self.of(read)
        for module in self.open:
            mask |= self.bits.get(id(module), 0)
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.drawn |= mask
        for tensor in (*made, *_written(func, args, kwargs)):
            if isinstance(tensor, Tensor):
                self.add(tensor, mask)


class _Operations(TorchDispatchMode):
    def __init__(self, dependence: Dependence) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dependence = dependence

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled meanwhile, and torch would import its compiler, which takes a second

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.dependence.note(func, args, kwargs or {}, out)
        return out


class _Reads(TorchFunctionMode):
    def __init__(self, dependence: Dependence) -> None:
        super().__init__()
        self.dependence = dependence

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.dependence.values_read |= getattr(func, "__name__", "") in _READS
        return func(*args, **(kwargs or {}))


def _storage(tensor: Tensor) -> Any:
    return tensor.untyped_storage()


def _by_value(func: Any, read: Sequence[Tensor]) -> bool:
    """Whether an operation gives Python a number, or has a shape that numbers decide."""
    if func.overloadpacket is torch.ops.aten.index:  # by positions, unless one of them is a mask
        return any(t.dtype in _MASKS for t in read[1:])
    return any(tag in func.tags for tag in _BY_VALUE)


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
    """Arguments that an operation writes into."""
    found = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found.append(args[i] if i < len(args) else kwargs.get(argument.name))
    return [x for x in tree_leaves(found) if isinstance(x, Tensor)]
