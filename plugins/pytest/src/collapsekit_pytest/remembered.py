"""Diagnoses of a session, each computed once."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from collapsekit.ext import Config, Report
from collapsekit_pytest.check import config_of, diagnosed, split_sections


class Remembered:
    """``diagnosed``, once for each model, data, config and options.

    They are told apart by content: a module by its weights, buffers, attributes and classes, data in memory by their values,
    files by path, size and time. What cannot be pickled (a class defined in a function, a lambda) is diagnosed each time.
    Code is not content: where a test patches a method of a class, call ``assert_not_collapsed`` of the package instead.
    """

    def __init__(self) -> None:
        self.known: dict[str, Report] = {}

    def __call__(
        self,
        model: nn.Module | str | Path,
        data: Mapping[str, Any] | str | Path | None = None,
        *,
        config: str | Path | Mapping[str, Any] | Config | None = None,
        **options: Any,
    ) -> Report:
        __tracebackhide__ = True
        checkpoint = model if isinstance(model, str | Path) else None
        sections, rest = split_sections({"profile": "quick", **options})
        settled = config_of(checkpoint, config, sections)
        files = [settled.resolve(p) for p in (settled.data.path, settled.model.checkpoint) if p is not None]
        held = [*map(_content, [model, data, *files]), settled, str(settled.base), rest]
        key = digest(held)
        if key is None or key not in self.known:
            report = diagnosed(model, data, config=settled, **rest)
            if key is None:
                return report
            self.known[key] = report
        return self.known[key]


def _content(value: Any) -> Any:
    """A path with what tells whether the files there changed; anything else is its own content."""
    if not isinstance(value, str | Path):
        return value
    path = Path(value).absolute()
    files = sorted(path.rglob("*")) if path.is_dir() else [path] if path.exists() else []
    return [str(path), *((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files)]


def digest(value: Any) -> str | None:
    """SHA-256 of what ``value`` pickles to, tensors by dtype, shape and bytes; None where it cannot be pickled."""
    sink = _Sink()
    try:
        _Pickler(sink).dump(value)
    except Exception:  # noqa: BLE001 - __reduce__ and __getstate__ are anyone's code
        return None
    return sink.hash.hexdigest()


class _Sink:
    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def write(self, part: Any) -> int:
        self.hash.update(part)
        return len(part)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        rows = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        what = (type(value).__name__, str(value.dtype), tuple(value.shape), value.requires_grad)
        return list, ([*what, hashlib.sha256(rows.tobytes()).digest()],)
