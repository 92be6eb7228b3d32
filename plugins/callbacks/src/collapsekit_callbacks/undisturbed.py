"""Looking at a model in the middle of its training, and leaving no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from collapsekit.ext import ConfigError, preserve_model, preserve_rng_state


@contextmanager
def undisturbed(model: nn.Module, *, training: bool = False) -> Iterator[None]:
    """No gradient, eval mode (the mode it is in, where ``training``); afterwards all is as it was: modes of every
    submodule, weights, gradients, buffers, what forward writes on modules, and the random generators of Python, NumPy and
    torch (CPU and device).

    Submodules that ``.compile()`` compiled run uncompiled meanwhile: with hooks that come and go they would be compiled
    anew each time, until torch gives up and trains uncompiled.
    """
    with preserve_rng_state(), preserve_model(model), torch.no_grad():
        for module in model.modules():
            if module._compiled_call_impl is not None:
                module._compiled_call_impl = None
        if not training:
            model.eval()
        try:
            yield
        finally:
            # Under the caller's autocast, some versions of torch would train on weights that were cast without gradient.
            torch.clear_autocast_cache()


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module inside torch.compile's and data parallel's wrappers, whose submodule paths the config names.

    Raises ConfigError for what is no module.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model is a {type(model).__name__}, expected a torch.nn.Module: hand the model over first.")
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def device_of(model: nn.Module) -> torch.device:
    """The one device of all weights. Raises ConfigError where they are sharded, lie on several, or nowhere yet."""
    wrapped = [n for n, m in model.named_modules() if type(m).__name__ == "FullyShardedDataParallel"]
    held = [n for n, p in model.named_parameters() if type(p).__name__ == "DTensor" or hasattr(p, "ds_id")]
    for name in (*wrapped, *held):  # FSDP1; FSDP2 and the like, or DeepSpeed
        raise ConfigError(
            f"{name or 'the model'!r} is sharded over processes, and a monitor runs the whole model in one: train with data "
            "parallel instead, or diagnose the saved checkpoint with `collapsekit diagnose`."
        )
    devices = list(dict.fromkeys(p.device for p in model.parameters())) or [torch.device("cpu")]
    if len(devices) > 1 or devices[0].type == "meta":
        raise ConfigError(
            f"the model's weights are on {', '.join(map(str, devices))}, and a monitor needs all of them on one device: "
            "move the model before the monitor is made."
        )
    return devices[0]
