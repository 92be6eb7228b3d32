"""What the field of an options model says: of what type it is, within which bounds, how it is typed."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from collapsekit.config.flags import Flag


def flag_of(field: FieldInfo) -> Flag | None:
    """The field's Flag; None for one that is not typed on the command line."""
    return next((m for m in field.metadata if isinstance(m, Flag)), None)


def word_of(model: type[BaseModel], name: str) -> str:
    """The field as it is typed, such as ``--batch-size``."""
    flag = flag_of(model.model_fields[name])
    return f"--{(flag and flag.name) or name.replace('_', '-')}"


def help_of(field: FieldInfo, flag: Flag, command: str) -> str:
    """What the help of ``command`` says of the field."""
    text = {"gate": flag.gate, "repair": flag.repair}.get(command) or flag.help
    return text.replace("{default}", _text(flag.unset if field.default is None else field.default, flag.factor))


def kinds_of(annotation: Any) -> tuple[Any, ...]:
    """What a union is of, None left out; anything else by itself."""
    union = get_origin(annotation) in (Union, types.UnionType)
    return tuple(k for k in get_args(annotation) if k is not type(None)) if union else (annotation,)


def is_optional(annotation: Any) -> bool:
    """Whether None is one of the values."""
    return type(None) in get_args(annotation)


def bounds_of(field: FieldInfo) -> tuple[int | float | None, int | float | None]:
    """The least value, and the one that all are below; None where there is none."""
    least = next((m.ge for m in field.metadata if hasattr(m, "ge")), None)
    below = next((m.lt for m in field.metadata if hasattr(m, "lt")), None)
    return least, below


def _text(value: Any, factor: float) -> str:
    if isinstance(value, tuple):
        return ", else ".join(map(str, value))
    return f"{value / factor:g}" if isinstance(value, int | float) else str(value)
