"""Models that accelerate has dispatched over devices: which they are, and their weights that wait in memory or in files.

Known by accelerate's hooks alone, which it leaves on the modules: nothing of it is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn


def is_dispatched(model: nn.Module) -> bool:
    """Tell whether hooks bring a model's weights and inputs together, so that it must not be moved as a whole."""
    return any(hasattr(hook, "execution_device") for _, _, hook in _hooks(model))


def find_offloaded(model: nn.Module) -> dict[str, Mapping[str, Any]]:
    """Find weights and buffers that are on no device until their module runs.

    Args:
        model: the model.

    Returns:
        By their names in the model's state where their values are: a mapping, which is read by ``read_offloaded``.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for path, module, hook in _hooks(model):
        values = getattr(hook, "weights_map", None)
        if values is not None:
            tensors = {**module._parameters, **module._buffers}
            waiting = [key for key, t in tensors.items() if isinstance(t, Tensor) and t.is_meta]
            found |= {f"{path}.{key}" if path else key: values for key in waiting}
    return found


def read_offloaded(name: str, values: Mapping[str, Any]) -> Tensor:
    """Read one of ``find_offloaded``, of whatever shape, from where it waits."""
    value: Tensor = values[name.rpartition(".")[2]]
    return value


def weights_of(module: nn.Module, key: str = "weight") -> Tensor:
    """Return a weight of a module's own, of any shape, as it is, or from where it waits until the module runs."""
    value: Tensor = getattr(module, key)
    waiting = find_offloaded(module) if value.is_meta else {}
    return read_offloaded(key, waiting[key]) if key in waiting else value


def _hooks(model: nn.Module) -> Iterator[tuple[str, nn.Module, Any]]:
    """Each hook of accelerate's, its module and where that is."""
    for path, module in model.named_modules():
        hook = getattr(module, "_hf_hook", None)
        for one in getattr(hook, "hooks", [hook]):
            if one is not None:
                yield path, module, one
