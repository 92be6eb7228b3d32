"""What can be taken apart as a live model: a plain nn.Module, whose submodules run when it runs, and can be heard."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from collapsekit.adapters.weights.offloaded import find_offloaded
from collapsekit.config.schema import Config
from collapsekit.errors import ConfigError

# Wrappers that hold the model under this name, and pass everything on to it.
_WRAPPED = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
}
_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")
_AWAITS = "awaits_weights"  # attribute of a parameter without numbers that get some before the model runs


def wait_for_weights(parameter: nn.Parameter) -> None:
    """Let a parameter (any shape) without numbers pass ``check_live``: it is given some before the model runs."""
    setattr(parameter, _AWAITS, True)


def check_live(model: Any, what: str = "model") -> None:
    """Raise ConfigError, with what to give instead, unless ``model`` is a module that can be heard, and trained."""
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{what} is {_mistaken(model)}.")
    for path, module in model.named_modules():
        unheard = _unheard(module)
        if unheard is not None:
            kind, instead = unheard
            where = f"{what} is" if not path else f"{what} has the submodule {path!r}, which is"
            raise ConfigError(f"{where} {kind}: {instead}.")
    waiting = find_offloaded(model)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        reason = None if name in waiting else _no_weight(tensor)
        if reason is not None:
            raise ConfigError(f"{what} has the weight {name!r}, which {reason}.")


def unwrapped(model: nn.Module) -> nn.Module:
    """Find the model inside what torch.compile, DataParallel and their like put around it."""
    while (name := _WRAPPED.get(f"{type(model).__module__}.{type(model).__qualname__}")) is not None:
        model = getattr(model, name)
    return model


def unprefixed(config: Config, model: nn.Module) -> Config:
    """Return the config with submodule paths as they are in the unwrapped ``model``, less a wrapper's name."""
    known = dict(model.named_modules(remove_duplicate=False))

    def plain(path: str | None) -> str | None:
        left = path
        while left is not None and left.removesuffix(":input") not in known:
            first, dot, rest = left.partition(".")
            if not dot or first not in _WRAPPED.values():
                return path
            left = rest
        return left

    sections = {m: s.model_copy(update={"encoder": plain(s.encoder)}) for m, s in config.modalities.items()}
    paths = {"fusion": plain(config.fusion), "head": plain(config.head)}
    return config.model_copy(update={"modalities": sections, **paths})


@contextmanager
def run_plainly() -> Iterator[None]:
    """Run compiled parts of a model as they were written: hooks on their submodules are not heard otherwise."""
    if "torch._dynamo" not in sys.modules:  # nothing was compiled; to import it takes a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _mistaken(value: Any) -> str:
    """What was given in a module's place, and what to do."""
    if isinstance(value, type):
        return f"the class {value.__name__}: give an instance of it"
    if isinstance(value, torch.export.ExportedProgram):
        how = "give the nn.Module that went into `torch.export.export(net)`, net"
        return f"an exported program, whose submodules are gone: {how}"
    if isinstance(value, torch.optim.Optimizer):
        return f"an optimizer ({type(value).__name__}): give the nn.Module whose weights it changes"
    if isinstance(value, str | PathLike):
        return f"a path ({str(value)!r}): give it as checkpoint, with model.factory in the config"
    if isinstance(value, Mapping):
        return (
            f"a mapping of names ({type(value).__name__}): load a state_dict into your nn.Module, or give its file as "
            "checkpoint"
        )
    if callable(value):
        return f"a {type(value).__name__}, expected a torch.nn.Module: give the module, not what calls it"
    return f"{type(value).__name__}, expected a torch.nn.Module"


def _unheard(module: nn.Module) -> tuple[str, str] | None:
    """Why a module cannot be heard or trained, and what to give instead."""
    source = "give the nn.Module that went into"
    if isinstance(module, torch.jit.ScriptModule):
        kind, how = ("traced", "trace") if "Traced" in type(module).__name__ else ("scripted", "script")
        return f"a {kind} module", f"its submodules run without hooks; {source} `torch.jit.{how}(net)`, net"
    if isinstance(module, torch.fx.GraphModule) and any(name in vars(module) for name in ("train", "eval")):
        return (
            "a module made of an exported program",
            f"its submodules are gone; {source} `torch.export.export(net)`, net",
        )
    if "make_graphed_forward" in getattr(vars(module).get("forward"), "__qualname__", ""):
        how = f"{source} `torch.cuda.make_graphed_callables(net)`, net"
        return "a module that runs as a CUDA graph", f"its submodules run without hooks; {how}"
    if type(module).__module__.startswith(_QUANTISED):
        return f"quantised ({type(module).__name__})", "it has no gradient; give the model before it was quantised"
    if type(module).__name__ == "FullyShardedDataParallel":
        return "sharded by FSDP", "its weights are in pieces; give the unsharded model, or a checkpoint of it"
    return None


def _no_weight(tensor: torch.Tensor) -> str | None:
    """Why a parameter or buffer is none that can be used."""
    if is_lazy(tensor):
        return "has no shape yet: run a batch through the model first"
    if tensor.is_meta and not hasattr(tensor, _AWAITS):
        return "is on the meta device, without numbers: give the model with its weights"
    if tensor.is_quantized:
        return "is quantised, and has no gradient: give the model before it was quantised"
    if tensor.is_inference():
        return "was made under torch.inference_mode, and can have no gradient: build the model outside of it"
    if type(tensor).__name__ == "DTensor" or type(getattr(tensor, "data", None)).__name__ == "DTensor":
        return "is a share of a sharded one (DTensor): give the unsharded model, or a checkpoint of it"
    return None
