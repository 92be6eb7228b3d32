"""A second build of a model that has no weights of its own: the first one's stand in it, and nothing may be written to them.

To see whether a checkpoint holds all of a model, the model is built once more. What the file holds is in both builds the
same, so it need not lie in memory twice: what the second build makes for it is let go of as it is registered.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from collapsekit.adapters.live.unwrap import wait_for_weights
from collapsekit.checkpoint.read import Checkpoint

SMALL = 1 << 16  # bytes; below that a weight is made as its constructor makes it, which may want to look at it
_MOVES = {Tensor.to, Tensor.cpu, Tensor.cuda}
# What initialisation is made of. On meta tensors it does nothing, but torch imports a second's worth of code to do it.
_FILLED_BY = "uniform normal zero fill copy add sub mul div clamp erfinv exponential log_normal bernoulli random"
_FILLS = frozenset(getattr(Tensor, f"{name}_") for name in _FILLED_BY.split())


class NotLentError(Exception):
    """Why a model cannot be built without memory for its weights: it has to be built as a whole."""


@dataclass
class LentWeights:
    """The weights of a model, for a second build of it.

    Attributes:
        tensors: of the first build, of any shape, by name.
        moving: names of those that a forward changes, of which the second build gets copies.
        written: whether the second build was about to write into one.
    """

    tensors: Mapping[str, Tensor]
    moving: frozenset[str] = frozenset()
    written: bool = False
    _made: dict[int, tuple[Callable[[], Tensor | None], nn.Parameter]] = field(default_factory=dict)

    def lend_to(self, model: nn.Module) -> None:
        """Put the weights into a second build, in the place of those that have no memory.

        Raises NotLentError where it is not built as the first one was.
        """
        there = model.state_dict()
        if list(there) != list(self.tensors):
            raise NotLentError("it has other weights the second time")
        placed: dict[int, Tensor] = {}  # so that what is tied stays so
        with torch.no_grad():
            for name, value in there.items():
                ours = self.tensors[name]
                if not isinstance(value, Tensor) or value.shape != ours.shape or value.dtype != ours.dtype:
                    raise NotLentError(f"its {name!r} is another one the second time")
                if value.is_meta or value.device != ours.device:  # from a device nothing is copied back
                    self._place(model, name, ours, placed)
                elif value.data_ptr() != ours.data_ptr():
                    value.copy_(ours)
        empty = next((n for n, p in [*model.named_parameters(), *model.named_buffers()] if p.is_meta), None)
        if empty is not None:
            raise NotLentError(f"{empty!r} follows from weights, or is not in its state_dict")

    def _place(self, model: nn.Module, name: str, ours: Tensor, placed: dict[int, Tensor]) -> None:
        path, _, key = name.rpartition(".")
        try:
            module = model.get_submodule(path)
        except AttributeError:
            raise NotLentError(f"{name!r} is in no module of it") from None
        old = module._parameters.get(key)
        if old is not None:
            if id(old) not in placed:
                value = ours.detach().clone() if name in self.moving else ours.detach()
                placed[id(old)] = nn.Parameter(value, requires_grad=old.requires_grad)
            module._parameters[key] = cast("nn.Parameter", placed[id(old)])
        elif module._buffers.get(key) is not None:
            module._buffers[key] = ours.detach().clone()  # few, and often written to
        else:
            raise NotLentError(f"{name!r} is no parameter and no buffer of it")

    @contextmanager
    def built(self) -> Iterator[None]:
        """Give parameters that are registered no memory, and refuse to write into the weights that were lent.

        What is made that is no parameter is made as ever. Inside, what would write into a weight of the first build, or
        look at one that has no memory, raises.
        """
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            # load_state_dict of a constructor's own, from a file that both builds read
            warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter")
            hook: Any = self._let_go  # may return a parameter, by torch's documentation, not by its annotation
            stack.callback(register_module_parameter_registration_hook(hook).remove)
            stack.enter_context(_StayWithoutMemory())
            stack.enter_context(self.guarded())
            yield

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Raise NotLentError where something is about to write into a weight that was lent."""
        places = {t.untyped_storage().data_ptr() for t in self.tensors.values()} - {0}
        with _WriteGuard(self, places):
            yield

    def _let_go(self, module: nn.Module, name: str, parameter: Any) -> nn.Parameter | None:
        """Stand a parameter without memory in the place of one that is about to be registered; of one that is registered
        again, the same."""
        del module, name
        if type(parameter) is not nn.Parameter or is_lazy(parameter) or parameter.is_meta:
            return None
        if parameter.nbytes < SMALL:
            return None
        known = self._made.get(id(parameter))
        if known is None or known[0]() is not parameter:
            empty = torch.empty_like(parameter, device="meta")
            made = nn.Parameter(empty, requires_grad=parameter.requires_grad)
            wait_for_weights(made)
            known = self._made[id(parameter)] = (weakref.ref(parameter), made)
        return known[1]


@dataclass(frozen=True)
class LentCheckpoint(Checkpoint):
    """A checkpoint whose tensors a second build takes from the first, which has loaded them."""

    lent: LentWeights = field(default_factory=lambda: LentWeights({}))

    @classmethod
    def of(cls, checkpoint: Checkpoint, lent: LentWeights) -> LentCheckpoint:
        """Stand ``lent`` in the place of what ``checkpoint`` holds."""
        return cls(**{f.name: getattr(checkpoint, f.name) for f in fields(Checkpoint)}, lent=lent)


class _StayWithoutMemory(TorchFunctionMode):
    """Leaves what has no memory as it is, where a constructor fills it or moves its model to a device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (func not in _MOVES and func not in _FILLS) or not args[0].is_meta:
            return func(*args, **kwargs)
        if func is not Tensor.to:
            return args[0]
        _, dtype, _, _ = torch._C._nn._parse_to(*args[1:], **kwargs)
        return args[0] if dtype is None else func(args[0], dtype)


class _WriteGuard(TorchDispatchMode):
    """Sees every operation before it runs, and raises where it would write to one of ``places``."""

    def __init__(self, lent: LentWeights, places: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lent, self.places = lent, places
        self.writing: dict[Any, tuple[list[int], list[str]] | None] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, which takes a second

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in self.writing:
            self.writing[func] = _written_arguments(func)
        written = self.writing[func]
        if written is not None:
            numbers, names = written
            asked = [args[i] for i in numbers if i < len(args)], [kwargs[n] for n in names if n in kwargs]
            for tensor in tree_leaves(asked):
                if isinstance(tensor, Tensor) and self._is_lent(tensor):
                    self.lent.written = True
                    raise NotLentError("it writes into its weights")
        return func(*args, **kwargs)

    def _is_lent(self, tensor: Tensor) -> bool:
        if tensor.layout is not torch.strided or tensor.is_meta:
            return False
        return tensor.untyped_storage().data_ptr() in self.places


def _written_arguments(func: Any) -> tuple[list[int], list[str]] | None:
    """Places and names of the arguments an operation writes to; None where it writes to none."""
    listed = [(i, a.name) for i, a in enumerate(func._schema.arguments) if a.alias_info and a.alias_info.is_write]
    return ([i for i, _ in listed], [name for _, name in listed]) if listed else None
