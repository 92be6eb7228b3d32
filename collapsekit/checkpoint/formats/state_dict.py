"""Which of the tensors in a loaded checkpoint object are the model's weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from collapsekit.checkpoint.formats.layout import MAX_TENSORS, Located, Odd
from collapsekit.checkpoint.formats.pickle_vm import VERSIONS, StandIn

MAIN_KEYS = ("state_dict", "model_state_dict", "model", "net", "module", "network", "weights", "params")
EMA_KEYS = (
    "ema",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "model_ema_state_dict",
    "ema_model",
    "params_ema",
    "module_ema",
    "ema_state",
    "ema_weights",
    "ema_params",
    "averaged_model",
    "swa_model",
    "swa_state_dict",
    "shadow_params",
)
_SHADOWS = ("shadow_params", "shadow")  # what keeps averages in a list, in the order of the model's parameters
# What a copy of the model that training averages is called, as a submodule beside it.
AVERAGES = (
    "ema",
    "model_ema",
    "ema_model",
    "module_ema",
    "ema_module",
    "net_ema",
    "ema_net",
    "swa_model",
    "averaged_model",
)
_MAX_DEPTH = 4  # {"checkpoint": {"model": {"module": ...}}} and no deeper: a file may contain itself
_MAX_PARTS = 64  # state dicts side by side; bounds the work on a file that refers to one dict many times
_MAX_ENTRIES = 1_000_000
_VERSION_DEPTH = 3  # {"spectral_norm": {"weight.version": 1}}
_VERSION_CHARACTERS = 200
_NO_WEIGHTS = ("optim", "sched", "lr_", "scaler", "rng", "callback", "loop", "hyper_param", "hparam", "config", "arg")


@dataclass(frozen=True)
class Weights:
    """A state dict found in an object: its dotted key there, the EMA twin beside it, what was left out."""

    entries: Mapping[str, Any]
    key: str | None = None
    twin: str | None = None
    parts: tuple[str, ...] = ()  # several state dicts joined under their own names
    other: int = 0  # entries beside the tensors that are no tensors
    versions: Mapping[str, Any] = field(default_factory=dict)  # path of a module -> what it tells its own loading
    averaged: Weights | None = field(default=None, compare=False)  # the EMA twin's own

    @property
    def named(self) -> bool:
        """Whether tensors have names, and not only places in a list."""
        return not all(name.isdigit() for name in self.entries)

    def under(self, key: str, twin: Weights | None) -> Weights:
        """Return the same weights as seen from one level further out."""
        inner_twin = f"{key}.{self.twin}" if self.twin else None
        inner = None if self.averaged is None else self.averaged.under(key, None)
        return replace(
            self,
            key=key if self.key is None else f"{key}.{self.key}",
            twin=inner_twin or _key_of(twin),
            averaged=inner or twin,
        )


def find_weights(loaded: object, tensor: tuple[type, ...] = (Located, Odd)) -> Weights | None:
    """Return the main state dict in ``loaded``: under a usual key, or ``loaded`` itself, or state dicts that stand side
    by side (joined as "name.key"), or else an EMA copy. None where there is no ``tensor``, and where the main key holds
    an object of a class that was not looked up (a pickled module): then nothing else is taken for it.
    """
    return _Search(tensor, {}).find(loaded, _MAX_DEPTH)


def _mapping(value: Any) -> dict[Any, Any] | None:
    """A dict, or what an unknown subclass of dict was filled with."""
    if isinstance(value, StandIn):
        return value.mapping or None
    return value if isinstance(value, dict) else None


@dataclass(frozen=True)
class _Search:
    """A search through dicts that may hold one another, or themselves: each is looked into once at each depth."""

    tensor: tuple[type, ...]
    seen: dict[tuple[int, int], Weights | None]

    def find(self, loaded: object, depth: int) -> Weights | None:
        inside = _mapping(loaded)
        if inside is None or depth == 0:
            return None
        place = (id(inside), depth)
        if place not in self.seen:
            self.seen[place] = self._inside(inside, depth)
        return self.seen[place]

    def _inside(self, inside: dict[Any, Any], depth: int) -> Weights | None:
        twins = [w.under(k, None) for k in EMA_KEYS if (w := self._average(inside.get(k), depth - 1))]
        twin = next(iter(twins), None)
        for key in MAIN_KEYS:
            found = self.find(inside.get(key), depth - 1)
            if found is not None:
                return found.under(key, twin)
        if any(isinstance(held := inside.get(key), StandIn) and not held.mapping for key in MAIN_KEYS):
            return None
        own = {k: v for k, v in inside.items() if isinstance(k, str) and isinstance(v, self.tensor)}
        parts = self._parts(inside, min(depth - 1, 2))
        if parts and sum(len(w.entries) for w in parts.values()) >= len(own):
            return _joined(parts, twin)
        if own:
            other = len(inside) - len(own) - (VERSIONS in inside)
            versions = _versions(inside.get(VERSIONS))
            return Weights(own, twin=_key_of(twin), other=other, versions=versions, averaged=twin)
        return twin if twin is not None and twin.named else None

    def _average(self, value: Any, depth: int) -> Weights | None:
        """A state dict, or a list of tensors in the order of the model's parameters: by its own key, or within a dict."""
        inside = _mapping(value) or {}
        held = next((v for k in _SHADOWS if isinstance(v := inside.get(k), list)), value)
        listed = held if isinstance(held, list) and len(held) <= MAX_TENSORS else []
        if listed and all(isinstance(t, self.tensor) for t in listed):
            return Weights({str(i): t for i, t in enumerate(listed)})
        return self.find(value, depth)

    def _parts(self, inside: Mapping[Any, Any], depth: int) -> dict[str, Weights]:
        """State dicts under names of their own, as in {"audio_net": ..., "image_net": ..., "optimizer": ...}."""
        names = [k for k, v in inside.items() if isinstance(k, str) and _mapping(v) is not None]
        names = [k for k in names if k not in EMA_KEYS and not k.startswith(_NO_WEIGHTS)]
        if len(names) > _MAX_PARTS:
            return {}
        parts = {k: found for k in names if (found := self.find(inside[k], depth)) is not None}
        # One dict under many names, each time in full.
        return parts if sum(len(w.entries) for w in parts.values()) <= _MAX_ENTRIES else {}


def _key_of(twin: Weights | None) -> str | None:
    return None if twin is None else twin.key


def _joined(parts: Mapping[str, Weights], twin: Weights | None) -> Weights:
    if len(parts) == 1:
        ((name, only),) = parts.items()
        return only.under(name, twin)
    entries = {f"{name}.{k}": v for name, part in parts.items() for k, v in part.entries.items()}
    versions = {f"{name}.{k}".rstrip("."): v for name, part in parts.items() for k, v in part.versions.items()}
    other = sum(p.other for p in parts.values())
    return Weights(entries, None, _key_of(twin), tuple(parts), other, versions, twin)


def _versions(metadata: Any) -> dict[str, Any]:
    """What a state dict tells of its modules, plain values alone."""
    if not isinstance(metadata, dict) or len(metadata) > _MAX_ENTRIES:
        return {}
    return {
        path: value
        for path, about in metadata.items()
        if isinstance(path, str) and (value := _plain(about, _VERSION_DEPTH))
    }


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, dict) and depth:
        inner = {
            k: _plain(v, depth - 1) for k, v in value.items() if isinstance(k, str) and len(k) <= _VERSION_CHARACTERS
        }
        return {k: v for k, v in inner.items() if v is not None}
    short = isinstance(value, str) and len(value) <= _VERSION_CHARACTERS
    return value if short or (isinstance(value, int) and value.bit_length() <= 63) else None
