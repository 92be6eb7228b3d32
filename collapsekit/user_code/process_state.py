"""State of the whole process that user code may change: put right around every call into it, so that no number of ours
depends on what it did, and given back to the caller at the end.

Two kinds. What the model's own arithmetic or its files may rest on (default dtype, default device, working directory,
import path, backends' flags) is *the model's*: what user code sets while it is imported or builds holds for its later calls,
as in a process of its own, and for nothing else. Everything else (gradient mode, threads, warnings, streams) is *ours*: it
is put back after each call. What a forward, a loss or a loader sets is undone in either kind.
"""

from __future__ import annotations

import locale
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from collapsekit.errors import ConfigError

T = TypeVar("T")
State = dict[str, Any]
_Part = tuple[Callable[[], Any], Callable[[Any], object]]


def _flag(holder: Any, name: str) -> _Part:
    return (lambda: getattr(holder, name)), (lambda value: setattr(holder, name, value))


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - asked around every forward
    except OSError:  # it was removed
        return None


def _enter(folder: str | None) -> None:
    with suppress(OSError):
        if folder is not None:
            os.chdir(folder)


_NO_DEVICE = (torch.device("cpu"), False)  # where nobody chose one


def _device() -> tuple[torch.device, bool]:
    """torch's default device, and whether somebody chose it: even the CPU, once chosen, changes what torch does.
    Without a mode of functions nobody did, which is cheaper to see than to ask for.
    """
    if not torch._C._len_torch_function_stack():
        return _NO_DEVICE
    return torch.get_default_device(), any(isinstance(m, DeviceContext) for m in _get_current_function_mode_stack())


def _set_device(value: tuple[torch.device, bool]) -> None:
    """First as it is where nobody chose one, or inside of a caller's `with torch.device(...)`, which then holds again."""
    torch.set_default_device(None)
    if _device() != value:
        torch.set_default_device(value[0])


def _set_path(value: list[str]) -> None:
    sys.path[:] = value


def _set_argv(value: list[str]) -> None:
    sys.argv[:] = value


def _set_filters(value: list[Any]) -> None:
    warnings.filters[:] = value  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]


def _set_locale(value: str) -> None:
    with suppress(locale.Error):
        locale.setlocale(locale.LC_ALL, value)


def _set_streams(value: tuple[Any, Any, Any]) -> None:
    sys.stdout, sys.stderr, sys.stdin = value


def _autocast(device: str) -> _Part:
    return (lambda: torch.is_autocast_enabled(device)), (lambda value: torch.set_autocast_enabled(device, value))


_BACKENDS = torch.backends
_MODEL: dict[str, _Part] = {
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (_device, _set_device),
    "the working directory": (_folder, _enter),
    "sys.path": (lambda: list(sys.path), _set_path),
    "deterministic algorithms": (
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    "float32 matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "cudnn.enabled": _flag(_BACKENDS.cudnn, "enabled"),
    "cudnn.benchmark": _flag(_BACKENDS.cudnn, "benchmark"),
    "cudnn.deterministic": _flag(_BACKENDS.cudnn, "deterministic"),
    "cudnn.allow_tf32": _flag(_BACKENDS.cudnn, "allow_tf32"),
    "mkldnn.enabled": _flag(_BACKENDS.mkldnn, "enabled"),
    "flash attention": (_BACKENDS.cuda.flash_sdp_enabled, _BACKENDS.cuda.enable_flash_sdp),
    "memory-efficient attention": (_BACKENDS.cuda.mem_efficient_sdp_enabled, _BACKENDS.cuda.enable_mem_efficient_sdp),
    "math attention": (_BACKENDS.cuda.math_sdp_enabled, _BACKENDS.cuda.enable_math_sdp),
}
_OURS: dict[str, _Part] = {
    "gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "anomaly detection": (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "autocast on cpu": _autocast("cpu"),
    "autocast on cuda": _autocast("cuda"),
    "NumPy's errors": (np.geterr, lambda value: np.seterr(**value)),
    "warnings": (lambda: list(warnings.filters), _set_filters),
    "logging": (lambda: logging.root.manager.disable, logging.disable),
    "streams": (lambda: (sys.stdout, sys.stderr, sys.stdin), _set_streams),
    "sys.argv": (lambda: list(sys.argv), _set_argv),
    "locale": (lambda: locale.setlocale(locale.LC_ALL), _set_locale),
}
_PARTS = _MODEL | _OURS
# What our own arithmetic runs under, whatever the caller's loop is in.
_PLAIN: State = {
    "torch's default dtype": torch.float32,
    "torch's default device": _NO_DEVICE,
    "gradient mode": True,
    "autocast on cpu": False,
    "autocast on cuda": False,
    "NumPy's errors": {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"},
}
_NUMERIC = [name for name in _MODEL if name not in ("the working directory", "sys.path", "torch's default device")]


@dataclass
class _CallerState:
    """One diagnosis or repair: the model's part of the state, and whether user code is running."""

    model: State
    inside: bool = False


_CALLERS: list[_CallerState] = []
_LEFT: dict[str, State] = {}  # what a module changed when it was imported, which happens once in a process


def _now(parts: Iterable[str] = _PARTS) -> State:
    return {name: _PARTS[name][0]() for name in parts}


def _put(state: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Set what differs from what is ``now``."""
    for name, value in state.items():
        if now[name] != value:
            _PARTS[name][1](value)


@contextmanager
def preserve_process_state() -> Iterator[None]:
    """Run under plain settings, and give the process back as the caller had it; within another, nothing."""
    if _CALLERS:
        yield
        return
    caller = _now()
    kept = _CallerState({name: caller[name] for name in _MODEL})
    with torch.inference_mode(False):
        _put(_PLAIN, caller)
        _CALLERS.append(kept)
        try:
            yield
        finally:
            _CALLERS.pop()
            _put(caller, _now())


@contextmanager
def user_code(what: str, *, stays: bool = False, module: str | None = None) -> Iterator[None]:
    """Guard one call into user code: what it does to the process is undone afterwards, but for what may stay.

    Args:
        what: names the call for messages.
        stays: whether what it sets of the model's part holds for later calls into user code too.
        module: the name that it imports, or that was imported before in this process.

    Yields:
        Nothing; the call is the block.

    Raises:
        ConfigError: where the code leaves torch.inference_mode on.
    """
    kept = _CALLERS[-1] if _CALLERS else None
    if kept is not None and kept.inside:
        yield
        return
    fresh = module is not None and module not in sys.modules
    inference = torch.is_inference_mode_enabled()
    ours = before = _now()
    if kept is not None:
        if module is not None and not fresh:
            kept.model.update(_LEFT.get(module, {}))
        if any(ours[name] != value for name, value in kept.model.items()):
            _put(kept.model, ours)
            before = ours | kept.model
        kept.inside = True
    try:
        yield
    finally:
        after = _now()
        changed = {name: after[name] for name in _MODEL if after[name] != before[name]} if stays else {}
        if module is not None and fresh:
            _LEFT[module] = changed
        if kept is not None:
            kept.inside = False
            kept.model.update(changed)
            _put(ours, after)
        else:  # nobody keeps the model's part: it stays as user code left it
            _put({name: ours[name] for name in _OURS}, after)
    if torch.is_inference_mode_enabled() and not inference:
        raise ConfigError(f"{what} left torch.inference_mode on: enter it in a `with` block, which ends it.")


def model_settings() -> str | None:
    """Return what the model runs under that numbers may rest on, where that is other than ours, as a sentence."""
    if not _CALLERS:
        return None
    now = _now(_NUMERIC)
    theirs = {name: value for name, value in _CALLERS[-1].model.items() if name in now and now[name] != value}
    if not theirs:
        return None
    said = " and ".join(f"{name} to {_in_words(value)}" for name, value in theirs.items())
    return f"The model's code sets {said}. The model is built and run so; collapsekit's own arithmetic is not."


def _in_words(value: object) -> str:
    """A setting as users would write it; of deterministic algorithms: whether on, and whether they only warn."""
    if isinstance(value, tuple):
        return "off" if not value[0] else "on (warnings only)" if value[1] else "on"
    return str(value).removeprefix("torch.")


def each_of(values: Iterable[T], what: str) -> Iterator[T]:
    """Yield the values of a user's iterable, which is asked for each as user code."""
    with user_code(what):
        coming = iter(values)
    while True:
        with user_code(what):
            try:
                value = next(coming)
            except StopIteration:
                return
        yield value
