"""What is given for an option, checked by its type before pydantic reads it: one sentence for what cannot be meant."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from collapsekit.config.fields import bounds_of, is_optional, kinds_of
from collapsekit.config.flags import Flag
from collapsekit.errors import ConfigError, did_you_mean


def check_value(name: str, value: Any, field: FieldInfo, flag: Flag | None) -> Any:
    """Check one value against its field.

    Args:
        name: what to call it in messages.
        value: as it was typed or passed.
        field: the model's.
        flag: how it is typed, if it is.

    Returns:
        The value, paths as text or Path.

    Raises:
        ConfigError: where it is of another type or size than the field's.
    """
    if value is None and is_optional(field.annotation):
        return None
    kinds = kinds_of(field.annotation)
    sequence = next((k for k in kinds if get_origin(k) is tuple), None)
    if sequence is not None:
        return value if str in kinds and isinstance(value, str) else _sequence(name, value, sequence)
    if Path in kinds:
        check_path(name, value)
        return value if isinstance(value, str) else Path(value)
    check = _CHECKS.get(get_origin(kinds[0]) or kinds[0])
    if check is not None:
        check(name, value, field, flag)
    return value


def check_path(name: str, value: Any) -> None:
    """Raise ConfigError for what names no file or folder."""
    if isinstance(value, str | os.PathLike):
        return
    more = ": give a live module as model=" if name == "checkpoint" else ""
    raise ConfigError(f"{name} is {kind_name(value)}, expected the path of a file or folder{more}.")


def kind_name(value: Any) -> str:
    """Return what kind of thing a value is, for messages."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def shown(value: Any) -> str:
    """Return a value in a message, at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _sequence(name: str, value: Any, kind: Any) -> tuple[Any, ...]:
    paths = Path in kinds_of(get_args(kind)[0])
    types_: tuple[type, ...] = (str, os.PathLike) if paths else (str,)
    if (
        isinstance(value, str | bytes)
        or not isinstance(value, Sequence)
        or not all(isinstance(v, types_) for v in value)
    ):
        raise ConfigError(f"{name} is {shown(value)}, expected a list of {'paths' if paths else 'names'}.")
    return tuple(v if isinstance(v, str) else Path(v) for v in value)


def _truth(name: str, value: Any, field: FieldInfo, flag: Flag | None) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}, expected True or False.")


def _text(name: str, value: Any, field: FieldInfo, flag: Flag | None) -> None:
    if not isinstance(value, str):
        such_as = f" such as {flag.such_as}" if flag is not None and flag.such_as is not None else ""
        raise ConfigError(f"{name} is {shown(value)}, expected text{such_as}.")


def _choice(name: str, value: Any, field: FieldInfo, flag: Flag | None) -> None:
    known = get_args(kinds_of(field.annotation)[0])
    if value not in known:
        near = did_you_mean(value, known) if isinstance(value, str) else ""
        raise ConfigError(f"there is no {name} {value!r}{near}: {', '.join(known)}.")


def _whole(name: str, value: Any, field: FieldInfo, flag: Flag | None) -> None:
    least, below = bounds_of(field)
    small = type(value) is not int or (least is not None and value < least)
    if not small and (below is None or value < below):
        return
    unit = f" {flag.unit}" if flag is not None and flag.unit is not None else ""
    what = f"at least {least}{unit}" if small else f"below {below}"
    raise ConfigError(f"{name} is {shown(value)}, expected a whole number (int), {what}.")


def _number(name: str, value: Any, field: FieldInfo, flag: Flag | None) -> None:
    least, _ = bounds_of(field)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and (least is None or least <= value < math.inf):
        return
    unit = f" of {flag.unit}s" if flag is not None and flag.unit is not None else ""
    size = "" if least is None else f", {least:g} or more"
    raise ConfigError(f"{name} is {value!r}, expected a finite number{unit}{size}.")


def _options(name: str, value: Any, field: FieldInfo, flag: Flag | None) -> None:
    if get_origin(get_args(kinds_of(field.annotation)[0])[1]) is not Mapping:
        return
    odd = [value]
    if isinstance(value, Mapping):
        odd = [k for k in value if not isinstance(k, str)] + [v for v in value.values() if not isinstance(v, Mapping)]
    if odd:
        raise ConfigError(
            f"{name} holds {shown(odd[0])}, expected a mapping of names to options, such as {{'vif': {{...}}}}."
        )


_CHECKS: dict[Any, Callable[[str, Any, FieldInfo, Flag | None], None]] = {
    bool: _truth,
    int: _whole,
    float: _number,
    str: _text,
    Literal: _choice,
    Mapping: _options,
}
