"""The tensors inside whatever a module returns: tuples, dicts, dataclasses, model outputs, plain objects; and arguments
that are such."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Tree:
    """A container and the trees of its parts by key; a leaf has no parts (None)."""

    like: Any = None
    parts: tuple[tuple[Any, Tree], ...] | None = None

    @property
    def keys(self) -> Any:
        """Kinds and keys all the way down, to tell whether two structures are the same."""
        if self.parts is None:
            return None
        return type(self.like), tuple((key, part.keys) for key, part in self.parts)


def flatten(value: Any) -> tuple[list[Any], Tree]:
    """List the leaves of ``value`` in order, and the tree that ``rebuild`` puts them back into."""
    parts = _parts(value)
    if parts is None:
        return [value], Tree()
    leaves: list[Any] = []
    trees = []
    for key, part in parts:
        below, tree = flatten(part)
        leaves += below
        trees.append((key, tree))
    return leaves, Tree(value, tuple(trees))


def rebuild(tree: Tree, leaves: Sequence[Any]) -> Any:
    """Put other leaves into the structure of ``tree``; the containers it was learned from stay as they are."""
    return _rebuild(tree, iter(leaves))


def _rebuild(tree: Tree, leaves: Iterator[Any]) -> Any:
    if tree.parts is None:
        return next(leaves)
    values = {key: _rebuild(part, leaves) for key, part in tree.parts}
    like = tree.like
    if isinstance(like, tuple | list):
        kind = type(like)
        return kind(*values.values()) if hasattr(like, "_fields") else kind(values.values())
    new = copy.copy(like)
    for key, value in values.items():
        if isinstance(like, Mapping):
            new[key] = value
        else:
            object.__setattr__(new, key, value)  # frozen dataclasses too
    return new


def _parts(value: Any) -> list[tuple[Any, Any]] | None:
    """Keyed parts of a container; None for a leaf."""
    if isinstance(value, Tensor | nn.Module | type | str):
        return None
    if isinstance(value, tuple | list):
        return list(enumerate(value))
    if isinstance(value, Mapping):
        return list(value.items()) if hasattr(value, "__setitem__") else None
    if dataclasses.is_dataclass(value):
        held = [(f.name, getattr(value, f.name, None)) for f in dataclasses.fields(value)]
    else:
        held = list(getattr(value, "__dict__", {}).items())
    return held if any(isinstance(v, Tensor) for _, v in held) else None


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
