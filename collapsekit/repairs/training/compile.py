"""torch.compile of a model's parts while a stage trains, and only then: afterwards the model is what it was."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import torch
from torch import nn

from collapsekit.adapters.base import Adapter
from collapsekit.adapters.inserts import WrappedEncoder
from collapsekit.errors import ConfigError
from collapsekit.readouts.cache import cache_folder, private_folder
from collapsekit.user_code.frames import one_line

# Random numbers as without compilation, so that what dropout drops follows from the seed alike.
HOW: dict[str, Any] = {"backend": "inductor", "options": {"fallback_random": True}}


@dataclass
class Compiled:
    """The names of the modules that ran compiled, and whether they do now."""

    used: set[str] = field(default_factory=set)
    on: bool = True


@contextmanager
def compiled(adapter: Adapter) -> Iterator[Compiled]:
    """Run the model's outermost modules that can be compiled so, where gradient is wanted.

    Hooks inside compiled code are fixed when it is compiled, while those that listen to encoders change from step to step:
    what holds one runs as it is, and its submodules compiled. It is ``forward`` that is replaced, on the instance, so that
    a module's own hooks run as ever and no name in the state_dict changes. Raises ConfigError from a forward that fails
    compiled only.
    """
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = _code_folder()
    all_ = Compiled()
    parts = [(module, "forward" in vars(module), module.forward) for _, module in _parts(adapter.model)]
    for name, module in _parts(adapter.model):
        module.__dict__["forward"] = _forward(name, module, all_)
    try:
        yield all_
    finally:
        for module, own, forward in parts:
            module.__dict__.pop("forward", None)
            if own:
                module.__dict__["forward"] = forward


def _code_folder() -> str:
    """Where torch keeps compiled code, and takes it from again: the user's own cache, or a folder for this process where
    that is not the user's alone. torch's own choice has a name under /tmp that anybody can take first."""
    folder = private_folder(cache_folder())[0]
    if folder is not None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            folder = None
    if folder is not None:
        return str(folder / "compiled")
    made = tempfile.TemporaryDirectory(prefix="collapsekit-")
    _KEPT.append(made)
    return made.name


_KEPT: list[tempfile.TemporaryDirectory[str]] = []  # each vanishes with the process


@contextmanager
def backward_blamed() -> Iterator[None]:
    """Raise ConfigError from a backward pass of compiled parts that fails: torch compiles it when it first runs."""
    try:
        yield
    except Exception as e:
        raise ConfigError(f"the backward pass of the compiled model failed ({_why(e)}): leave out --compile.") from e


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules with weights, their names; none that holds a repair's insert, which stops and begins a forward pass anew."""
    for name, module in model.named_modules():
        inserted = any(isinstance(sub, WrappedEncoder) for sub in module.modules())
        if not inserted and any(True for _ in module.parameters()):
            yield name or "the model", module


def _forward(name: str, module: nn.Module, all_: Compiled) -> Callable[..., Any]:
    """What stands in for ``module.forward``: itself, compiled."""
    plain, below = module.forward, [sub for sub in module.modules() if sub is not module]
    hooks = _hooks(below)
    fast: list[Callable[..., Any]] = []

    def forward(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():  # inside a larger part
            return plain(*args, **kwargs)
        if not all_.on or not torch.is_grad_enabled() or _hooks(below) != hooks:  # it would not see hooks that are new
            return plain(*args, **kwargs)
        try:
            if not fast:
                fast.append(torch.compile(_of_its_own(plain), **HOW))
            out = fast[0](*args, **kwargs)
        except Exception as e:
            all_.on = False
            plain(*args, **kwargs)  # a fault of the model's own shows itself
            raise ConfigError(f"--compile: torch could not compile {name} ({_why(e)}): leave out --compile.") from e
        all_.used.add(name)
        return out

    return forward


def _of_its_own(plain: Callable[..., Any]) -> Callable[..., Any]:
    """``plain`` behind a function with a code object of its own: torch counts recompilations by code object, eight at
    most, and submodules of one class share theirs."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return plain(*args, **kwargs)

    return FunctionType(call.__code__.replace(co_name="compiled"), call.__globals__, "call", None, call.__closure__)


def _why(error: Exception) -> str:
    """An error in one line, without torch's advice on how to see more of it."""
    return one_line(error).split(" Set TORCH")[0]


def _hooks(modules: list[nn.Module]) -> list[tuple[int, ...]]:
    return [(*m._forward_hooks, *m._forward_pre_hooks, *m._backward_hooks, *m._backward_pre_hooks) for m in modules]
