"""What the field of an options model says: of what type it is, within which bounds, how it is typed."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from collapsekit.config.flags import Flag


def flag_of(field: FieldInfo) -> Flag | None:
    """Return the field's Flag; None for one that is not typed on the command line."""
    return next((m for m in field.metadata if isinstance(m, Flag)), None)


def word_of(model: type[BaseModel], name: str) -> str:
    """Return the field as it is typed, such as ``--batch-size``."""
    flag = flag_of(model.model_fields[name])
    return f"--{(flag and flag.name) or name.replace('_', '-')}"


def help_of(field: FieldInfo, flag: Flag, command: str) -> str:
    """Return what the help of a command says of a field.

    Args:
        field: the model's.
        flag: how it is typed.
        command: whose help it is.

    Returns:
        The text.
    """
    text = {"gate": flag.gate, "repair": flag.repair}.get(command) or flag.help
    return text.replace("{default}", _text(flag.unset if field.default is None else field.default, flag.factor))


def kinds_of(annotation: Any) -> tuple[Any, ...]:
    """Return what a union is of, None left out; anything else by itself."""
    union = get_origin(annotation) in (Union, types.UnionType)
    return tuple(k for k in get_args(annotation) if k is not type(None)) if union else (annotation,)


def is_optional(annotation: Any) -> bool:
    """Tell whether None is one of the values."""
    return type(None) in get_args(annotation)


def bounds_of(field: FieldInfo) -> tuple[int | float | None, int | float | None]:
    """Return the least value, and the one that all are below; None where there is none."""
    least = next((m.ge for m in field.metadata if hasattr(m, "ge")), None)
    below = next((m.lt for m in field.metadata if hasattr(m, "lt")), None)
    return least, below


def _text(value: Any, factor: float) -> str:
    if isinstance(value, tuple):
        return ", else ".join(map(str, value))
    return f"{value / factor:g}" if isinstance(value, int | float) else str(value)
