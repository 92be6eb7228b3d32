"""The user's factory called, the checkpoint's weights put in, and what neither of them holds found out."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from collapsekit.checkpoint import Checkpoint, match_state_dict
from collapsekit.config import Config
from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.imports import import_object


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (every device)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Give Python's, NumPy's and torch's generators back as they were."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


@contextmanager
def model_kept(model: nn.Module) -> Iterator[None]:
    """Give ``model`` back as it was found: modes, devices, buffers and requires_grad."""
    modes = [(m, m.training) for m in model.modules()]
    grads = [(p, p.requires_grad) for p in model.parameters()]
    devices = {p.device for p in model.parameters()}
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    # What forward may write on a module: cached activations, counters. Registered things live under "_...".
    plain = [(m, {k: v for k, v in vars(m).items() if not k.startswith("_")}) for m in model.modules()]
    try:
        yield
    finally:
        for module, attributes in plain:
            for name in [k for k in vars(module) if not k.startswith("_") and k not in attributes]:
                del module.__dict__[name]
            module.__dict__.update(attributes)
        for module, mode in modes:
            module.training = mode
        for parameter, wanted in grads:
            parameter.requires_grad_(wanted)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        if len(devices) == 1:
            model.to(devices.pop())


def build_model(config: Config, seed: int) -> nn.Module:
    """Call ``model.factory`` under ``seed``. Raises ConfigError where that does not give a module."""
    spec = config.model.factory
    if spec is None:
        raise ConfigError(
            f"{config.origin} has no model.factory: name the function that builds your model, "
            "e.g. `model: {factory: my_models:build}`."
        )
    factory = import_object(spec, config.base, "model.factory")
    if not callable(factory):
        raise ConfigError(f"model.factory {spec!r} is {type(factory).__name__}, expected a function or a class.")
    with random_state_kept():
        seed_everything(seed)
        try:
            model = factory(**config.model.kwargs)
        except Exception as e:
            raise ConfigError(
                f"model.factory {spec!r} failed with model.kwargs {config.model.kwargs}: {type(e).__name__}: {e}."
            ) from e
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model.factory {spec!r} returned {type(model).__name__}, expected a torch.nn.Module.")
    built: nn.Module = model
    return built


def load_weights(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy the checkpoint's tensors into the model. Raises ConfigError listing keys that do not fit."""
    own = model.state_dict()
    shapes = {k: tuple(v.shape) for k, v in own.items() if isinstance(v, Tensor)}
    matched = match_state_dict(shapes, checkpoint.tensors)
    with torch.no_grad():
        for key, value in matched.items():
            own[key].copy_(value)


def find_submodule(model: nn.Module, path: str, what: str) -> nn.Module:
    """The submodule at ``path``. Raises ConfigError with the nearest paths there are."""
    known = dict(model.named_modules(remove_duplicate=False))
    if path in known and path:
        return known[path]
    names = [n for n in known if n]
    tail = path.rsplit(".", 1)[-1]
    near = did_you_mean(path, names) or did_you_mean(tail, [n for n in names if n.count(".") <= 1])
    shown = ", ".join(n for n in names if "." not in n)
    raise ConfigError(f"{what} {path!r} is not a submodule of the model{near}: at the top it has {shown or 'none'}.")


def hidden_tensors(model: nn.Module) -> list[str]:
    """Where parameters or modules sit in plain lists, tuples or dicts, which state_dict does not see."""
    found = []
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name.startswith("_") or not isinstance(value, list | tuple | dict | set):
                continue
            items = list(value.values()) if isinstance(value, dict) else list(value)
            if any(
                isinstance(i, nn.Module | nn.Parameter) or (isinstance(i, Tensor) and i.requires_grad) for i in items
            ):
                found.append(f"{path}.{name}" if path else name)
    return found
