"""Which of the tensors in a loaded checkpoint object are the model's weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from collapsekit.errors import RefusedError

MAIN_KEYS = ("state_dict", "model_state_dict", "model", "net", "module", "network", "weights", "params")
EMA_KEYS = (
    "ema",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "model_ema_state_dict",
    "ema_model",
    "params_ema",
)
_MAX_DEPTH = 4  # {"checkpoint": {"model": {"module": ...}}} and no deeper: a file may contain itself
_MAX_PARTS = 64  # state dicts side by side; bounds the work on a file that refers to one dict many times
_NO_WEIGHTS = ("optim", "sched", "lr_", "scaler", "rng", "callback", "loop", "hyper_param", "hparam", "config", "arg")
_EXPANSION_ALLOWED = 64 << 20  # bytes; a broadcast buffer may exceed its file by this much


@dataclass(frozen=True)
class Weights:
    """A state dict found in an object: its dotted key there, the EMA twin beside it, what was left out."""

    entries: Mapping[str, Tensor]
    key: str | None = None
    twin: str | None = None
    parts: tuple[str, ...] = ()  # several state dicts joined under their own names
    other: int = 0  # entries beside the tensors that are no tensors

    def under(self, key: str, twin: str | None) -> Weights:
        """The same weights as seen from one level further out."""
        inner_twin = f"{key}.{self.twin}" if self.twin else None
        return Weights(
            self.entries,
            key if self.key is None else f"{key}.{self.key}",
            inner_twin or twin,
            self.parts,
            self.other,
        )


def find_weights(loaded: object) -> Weights | None:
    """The main state dict in ``loaded``: under a usual key, or ``loaded`` itself, or state dicts that stand
    side by side (joined as "name.key"), or else an EMA copy. None where there is no tensor."""
    return _find(loaded, _MAX_DEPTH)


def _find(loaded: object, depth: int) -> Weights | None:
    if not isinstance(loaded, Mapping) or depth == 0:
        return None
    twins = {k: w for k in EMA_KEYS if (w := _find(loaded.get(k), depth - 1))}
    twin = next(iter(twins), None)
    for key in MAIN_KEYS:
        inner = _find(loaded.get(key), depth - 1)
        if inner is not None:
            return inner.under(key, twin)
    own = {k: v for k, v in loaded.items() if isinstance(k, str) and isinstance(v, Tensor)}
    parts = _parts(loaded, min(depth - 1, 2))
    if parts and sum(len(w.entries) for w in parts.values()) >= len(own):
        return _joined(parts, twin)
    if own:
        return Weights(own, twin=twin, other=len(loaded) - len(own))
    return twins[twin].under(twin, None) if twin else None


def _parts(loaded: Mapping[object, object], depth: int) -> dict[str, Weights]:
    """State dicts under names of their own, as in {"audio_net": ..., "image_net": ..., "optimizer": ...}."""
    names = [k for k, v in loaded.items() if isinstance(k, str) and isinstance(v, Mapping)]
    names = [k for k in names if k not in EMA_KEYS and not k.startswith(_NO_WEIGHTS)]
    if len(names) > _MAX_PARTS:
        return {}
    return {k: found for k in names if (found := _find(loaded[k], depth)) is not None}


def _joined(parts: Mapping[str, Weights], twin: str | None) -> Weights:
    if len(parts) == 1:
        ((name, only),) = parts.items()
        return only.under(name, twin)
    entries = {f"{name}.{k}": v for name, part in parts.items() for k, v in part.entries.items()}
    return Weights(entries, None, twin, tuple(parts), sum(p.other for p in parts.values()))


def plain_tensors(weights: Weights, path: Path, size: int) -> dict[str, Tensor]:
    """The entries as detached dense CPU tensors. Raises RefusedError for a sparse, quantized, meta or
    subclassed tensor, and for one that claims many more bytes than the file (of ``size`` bytes) has."""
    tensors: dict[str, Tensor] = {}
    for name, entry in weights.entries.items():
        tensor = entry.detach()
        plain = type(tensor) is Tensor and tensor.layout == torch.strided and not tensor.is_nested
        if not plain or tensor.is_quantized or tensor.is_meta:
            raise RefusedError(
                f"{path} has a tensor {name!r} that is not stored as plain dense numbers "
                f"({type(tensor).__name__}, {tensor.layout}, {tensor.dtype}): save a dense, unquantized model."
            )
        if tensor.numel() * tensor.element_size() > size + _EXPANSION_ALLOWED:
            raise RefusedError(
                f"{path} has a tensor {name!r} of shape {tuple(tensor.shape)}, more than the file's {size} bytes "
                "can hold: save the weights again, with that tensor .clone()d."
            )
        tensors[name] = tensor
    return tensors
