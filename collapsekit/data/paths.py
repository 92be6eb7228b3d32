"""Fields of an example or of a batch by their path: keys, attributes and positions, joined by dots."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()  # what stands for a field that is not there, as None may be a field's own value


def named_parts(value: Any, names: Sequence[str] = ()) -> Any:
    """Return a tuple or list with its parts by name, or anything else as it is.

    Args:
        value: a batch or an example.
        names: what the parts are called, in order; none: by position, "0", "1".

    Returns:
        A mapping, for a tuple or a list.
    """
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        labels = [*names, *map(str, range(len(names), len(value)))]
        return dict(zip(labels, value, strict=False))
    return value


def find_field(value: Any, path: str) -> Any:
    """Find a field; a key that has dots in it itself is found as well.

    Args:
        value: a mapping, tuple, list or object.
        path: keys, attributes and positions, joined by dots.

    Returns:
        The field, or MISSING where there is none.
    """
    whole = _part(value, path)
    if whole is not MISSING:
        return whole
    first, dot, rest = path.partition(".")
    while dot:
        part = _part(value, first)
        if part is not MISSING:
            found = find_field(part, rest)
            if found is not MISSING:
                return found
        more, dot, rest = rest.partition(".")
        first = f"{first}.{more}"
    return MISSING


def replace_field(value: Any, path: str, new: Any) -> Any:
    """Return a copy of a structure with another value in one field's place; what is not on the way is shared.

    Args:
        value: a mapping, tuple, list or object.
        path: keys, attributes and positions, joined by dots.
        new: the field's value.

    Returns:
        The copy.

    Raises:
        KeyError: where there is no such field.
    """
    if _part(value, path) is not MISSING:
        return _with_part(value, path, new)
    first, dot, rest = path.partition(".")
    while dot:
        part = _part(value, first)
        if part is not MISSING and find_field(part, rest) is not MISSING:
            return _with_part(value, first, replace_field(part, rest, new))
        more, dot, rest = rest.partition(".")
        first = f"{first}.{more}"
    raise KeyError(path)


def field_names(value: Any) -> list[str]:
    """List the names of the fields at the top of a structure."""
    if isinstance(value, Mapping):
        return [str(k) for k in value]
    if isinstance(value, list | tuple):
        return list(map(str, range(len(value))))
    if dataclasses.is_dataclass(value):
        return [f.name for f in dataclasses.fields(value)]
    return [k for k in getattr(value, "__dict__", {}) if not k.startswith("_")]


def _part(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(key, MISSING)
    if isinstance(value, list | tuple):
        if key.isdigit() and int(key) < len(value):
            return value[int(key)]
        return getattr(value, key, MISSING) if hasattr(value, "_fields") and key in value._fields else MISSING
    if isinstance(value, str | bytes | int | float) or value is None or key.startswith("_"):
        return MISSING
    return getattr(value, key, MISSING)


def _with_part(value: Any, key: str, new: Any) -> Any:
    fields = getattr(value, "_fields", None)
    if fields is not None:  # a named tuple
        return value._replace(**{key if key in fields else fields[int(key)]: new})
    if isinstance(value, tuple):
        return tuple(new if i == int(key) else part for i, part in enumerate(value))
    made = copy.copy(value)
    if isinstance(made, list):
        made[int(key)] = new
    elif isinstance(made, Mapping):
        made[key] = new  # type: ignore[index]
    else:
        object.__setattr__(made, key, new)  # frozen dataclasses too
    return made
