"""Arguments of a model that takes several fields as one: a mapping or a tuple."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn


def nest_arguments(model: nn.Module, fields: Mapping[str, Any], parts: Collection[str]) -> dict[str, Any]:
    """Join fields such as ``x.depth`` and ``x.emg`` into the one argument ``x`` that they are parts of.

    Args:
        model: whose forward is called by name.
        fields: what it is given, by path.
        parts: names of the parts of tuple batches, as the config gives them.

    Returns:
        The arguments by name. Joined are fields of a part of the batch, or of a name that forward takes: to a tuple where
        they are numbered from 0, else to a dict. A key that merely has a dot in it stays as it is.
    """
    if not any("." in key for key in fields):
        return dict(fields)
    whole = {*parts, *_names_taken(model)} - fields.keys()
    out: dict[str, Any] = {}
    for key, value in fields.items():
        first, dot, rest = key.partition(".")
        if dot and first in whole:
            _put(out.setdefault(first, {}), rest, value)
        else:
            out[key] = value
    return {k: _closed(v) if k in whole and isinstance(v, dict) else v for k, v in out.items()}


def _names_taken(model: nn.Module) -> Collection[str]:
    try:
        return inspect.signature(model.forward).parameters.keys()
    except (TypeError, ValueError):  # of compiled code, which has no signature
        return ()


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    first, dot, rest = path.partition(".")
    below = tree.get(first, {})
    if dot and isinstance(below, dict):
        tree[first] = below
        _put(below, rest, value)
    else:
        tree[path] = value


def _closed(tree: dict[str, Any]) -> Any:
    """The same with tuples in place of dicts whose keys are 0, 1, 2, ..."""
    closed = {k: _closed(v) if isinstance(v, dict) else v for k, v in tree.items()}
    numbered = [str(i) for i in range(len(closed))]
    return tuple(closed[k] for k in numbered) if closed.keys() == set(numbered) else closed
