"""The user's factory called, the checkpoint's weights put in, and what neither of them holds found out."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from collapsekit.adapters.inserts import WrappedEncoder, insert
from collapsekit.adapters.live.unwrap import check_live
from collapsekit.adapters.weights.offloaded import is_dispatched
from collapsekit.config.imports import import_callable, importable_from
from collapsekit.config.schema import Config
from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.io.safe_text import quote
from collapsekit.user_code.frames import one_line
from collapsekit.user_code.process_state import user_code


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (every device that is in use)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # torch.manual_seed formats a stack trace per call for devices that are not there yet; this runs often.
    torch.default_generator.manual_seed(seed)
    module = _accelerator()
    if module is not None:
        (module.manual_seed_all if hasattr(module, "manual_seed_all") else module.manual_seed)(seed)


def _accelerator() -> Any | None:
    """torch's module for this machine's accelerator (cuda, mps, xpu, ...) where it is in use: it has its own generators."""
    device = torch.accelerator.current_accelerator()
    if device is None:
        return None
    module = torch.get_device_module(device)
    return module if getattr(module, "is_initialized", module.is_available)() else None


def _device_states() -> list[Tensor]:
    """The states of the accelerator's generators, one a device."""
    module = _accelerator()
    if module is None:
        return []
    return list(module.get_rng_state_all()) if hasattr(module, "get_rng_state_all") else [module.get_rng_state()]


def random_states() -> list[bytes]:
    """Copy the generators' states, to tell whether something drew from them."""
    states = [repr(random.getstate()).encode(), _told(np.random.get_state(legacy=False))]
    tensors = [torch.get_rng_state(), *_device_states()]
    return [*states, *(t.numpy().tobytes() for t in tensors)]


def _told(state: object) -> bytes:
    """A generator's state as NumPy tells it; numbers as they lie in memory, since to spell them out takes a millisecond."""
    if isinstance(state, Mapping):
        return b"".join(str(k).encode() + b":" + _told(v) + b";" for k, v in state.items())
    return state.tobytes() if isinstance(state, np.ndarray) else repr(state).encode()


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Give Python's, NumPy's and torch's generators back as they were."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    there = _device_states()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        module = _accelerator()
        if module is not None and there:  # one that is only now in use had no state that anybody has seen
            module.set_rng_state_all(there) if hasattr(module, "set_rng_state_all") else module.set_rng_state(there[0])


# torch's own registries on a module; whatever else stands there its author, or its forward, wrote.
_REGISTRIES = frozenset(vars(nn.Module()))


def own_attributes(module: nn.Module) -> dict[str, Any]:
    """List what a module holds as plain attributes, beside torch's registries."""
    return {k: v for k, v in vars(module).items() if k not in _REGISTRIES}


def need_factory(config: Config) -> str:
    """Return ``model.factory``. Raises ConfigError where there is none."""
    if config.model.factory is None:
        raise ConfigError(
            f"{config.origin} has no model.factory: name the function that builds your model, "
            "e.g. `model: {factory: my_models:build}`."
        )
    return config.model.factory


def build_model(config: Config, seed: int) -> nn.Module:
    """Call ``model.factory`` under ``seed``. Raises ConfigError where that does not give a module."""
    spec = need_factory(config)
    factory = import_callable(spec, config.base, "model.factory")
    with preserve_rng_state():
        seed_everything(seed)
        try:
            with user_code(f"model.factory {spec!r}", stays=True), importable_from(config.base):
                model = factory(**config.model.kwargs)
        except ConfigError:
            raise
        except Exception as e:
            raise ConfigError(
                f"model.factory {spec!r} failed with model.kwargs {config.model.kwargs}: {one_line(e)}."
            ) from e
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model.factory {spec!r} returned {type(model).__name__}, expected a torch.nn.Module.")
    check_live(model, f"what model.factory {spec!r} returned")
    return model


def need_same_architecture(model: nn.Module, built: nn.Module, factory: str) -> None:
    """Raise ConfigError where a factory builds another architecture.

    Args:
        model: at hand.
        built: what the factory built.
        factory: what the config calls it.
    """
    ours, theirs = ({k: v.shape for k, v in m.state_dict().items() if isinstance(v, Tensor)} for m in (model, built))
    odd = next((k for k in [*ours, *theirs] if ours.get(k) != theirs.get(k)), None)
    if odd is not None:
        raise ConfigError(
            f"model.factory {factory!r} builds another architecture than the model at hand: they "
            f"differ in {odd!r}; give the factory and the model.kwargs that made it."
        )


def to_eval(model: nn.Module, device: torch.device) -> None:
    """Bring the model onto the device and into eval mode; one that is dispatched over devices stays where it is.

    Raises ConfigError where its own code does not let it.
    """
    try:
        with user_code("the model's eval"):
            (model if is_dispatched(model) else model.to(device)).eval()
    except ConfigError:
        raise
    except Exception as e:
        raise ConfigError(f"the model cannot be brought to {device} and into eval mode: {one_line(e)}.") from e


def insert_into(model: nn.Module, structure: Sequence[Mapping[str, Any]]) -> nn.Module:
    """Put what a repair inserted (collapsekit.adapters.inserts) into ``model``, once.

    Raises ConfigError where it does not fit.
    """
    for record in structure:
        find_submodule(model, record["path"], "the repair's insert")
    try:
        with preserve_rng_state():
            torch.default_generator.manual_seed(0)
            return insert(model, structure)
    except (ValueError, KeyError, TypeError) as e:
        raise ConfigError(f"what the repair inserted does not fit the model: {one_line(e)}.") from None


def need_bare(config: Config) -> None:
    """Raise ConfigError where a repair has put readouts beside the encoders, which nothing can be put behind."""
    if any(record["kind"] == "late" for record in config.structure):
        raise ConfigError(
            "this model has readouts beside its encoders (late_fusion), behind which nothing else can be put: repair the "
            "model from before that, with late_fusion last."
        )


def features_path(model: nn.Module, path: str) -> str:
    """Find where the features of the encoder at ``path`` are: before a blend with another modality's, behind a head, and
    together with the evidence of a readout beside it."""
    outer = dict(model.named_modules(remove_duplicate=False)).get(path)
    return (
        f"{path}.encoder" if isinstance(outer, WrappedEncoder) and outer.junction.kind in ("exchange", "late") else path
    )


def find_submodule(model: nn.Module, path: str, what: str) -> nn.Module:
    """Find a submodule.

    Args:
        model: that holds it.
        path: as ``named_modules`` has it.
        what: it is for, for messages.

    Returns:
        The submodule at ``path``.

    Raises:
        ConfigError: where there is none, with the nearest paths there are.
    """
    known: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    if path in known and path:
        return known[path]
    names = [n for n in known if n]
    tail = path.rsplit(".", 1)[-1]
    loose = next((n for n in unregistered(model) if path == n or path.startswith(n + ".")), None)
    if loose is not None:
        raise ConfigError(
            f"{what} {quote(path)} is not a submodule of the model: {loose} is a plain Python container, which torch does "
            "not see; make it an nn.ModuleList or nn.ModuleDict."
        )
    near = did_you_mean(path, names) or did_you_mean(tail, [n for n in names if n.count(".") <= 1])
    shown = ", ".join(n for n in names if "." not in n)
    raise ConfigError(
        f"{what} {quote(path)} is not a submodule of the model{near}: at the top it has {shown or 'none'}."
    )


def unregistered(model: nn.Module) -> dict[str, list[Tensor]]:
    """Find the tensors, of any shape, that state_dict does not see: plain tensors, what sits in plain lists, tuples,
    dicts and sets, and buffers that are not persistent. What shares its memory with a weight is that weight, such as the
    list of its own weights that an LSTM keeps.

    Returns them by the path of the attribute that holds them.
    """
    found: dict[str, list[Tensor]] = {}
    seen = {_memory(t) for t in _registered(model)}
    for path, module in model.named_modules():
        hidden = {k: v for k, v in module._buffers.items() if k in module._non_persistent_buffers_set}
        for name, value in (own_attributes(module) | hidden).items():
            tensors = [t for t in _tensors_in(value, 4) if _memory(t) not in seen]
            if tensors:
                found[f"{path}.{name}" if path else name] = tensors
    return found


def _registered(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    for module in model.modules():
        yield from (b for k, b in module.named_buffers(recurse=False) if k not in module._non_persistent_buffers_set)


def _memory(tensor: Tensor) -> int:
    """What tells a tensor's memory from that of others; of one that has none, such as one on the meta device, its id."""
    strided = tensor.layout is torch.strided and type(tensor) in (Tensor, nn.Parameter)
    return (tensor.untyped_storage().data_ptr() if strided else 0) or id(tensor)


def _tensors_in(value: Any, depth: int) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from (*value.parameters(), *value.buffers())
    elif depth and isinstance(value, list | tuple | set | Mapping):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors_in(part, depth - 1)


def disagreeing(ours: Mapping[str, list[Tensor]], theirs: Mapping[str, list[Tensor]]) -> list[str]:
    """List attributes (of ``unregistered``) that hold other values, in the same shapes, in one build than in the other."""

    def differ(a: list[Tensor], b: list[Tensor]) -> bool:
        same_shapes = [x.shape for x in a] == [x.shape for x in b]
        return same_shapes and any(not torch.equal(x, y) for x, y in zip(a, b, strict=True))

    return [name for name, tensors in theirs.items() if name in ours and differ(ours[name], tensors)]


def need_two(config: Config) -> None:
    """Raise ConfigError for fewer than two modalities."""
    if len(config.modalities) < 2:
        raise ConfigError(
            f"{config.origin} names {len(config.modalities)} modalities: a multimodal model has at least two; "
            "list them under `modalities`."
        )
