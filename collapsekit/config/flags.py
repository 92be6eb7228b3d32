"""How a field of a command's options is typed on the command line, and what its help says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class Flag:
    """One option of a command line. In ``help``, ``{default}`` becomes the default; it is then said there alone.

    ``gate`` and ``repair`` are what the help of these commands says instead; an option of a diagnosis is one of
    ``gate CKPT`` too where it says something there.
    """

    help: str
    name: str | None = None  # without dashes; default: the field's
    short: str | None = None
    metavar: str | None = None
    gate: str | None = None
    repair: str | None = None
    unset: object = None  # what None stands for, to be said as the default
    factor: float = 1.0  # how much of the field's unit one of the command line's is
    unit: str | None = None  # of what it is a number, for messages
    such_as: str | None = None  # examples, for messages
    bounded: bool = False  # whether help shows the least value
    completes: Literal["probes", "repairs"] | None = None  # names that a shell completes
    again: Literal["always", "changed", "never"] = "changed"  # when a report's command repeats it


def flag_of(field: FieldInfo) -> Flag | None:
    """The field's Flag; None for one that is not typed on the command line."""
    return next((m for m in field.metadata if isinstance(m, Flag)), None)


def word_of(model: type[BaseModel], name: str) -> str:
    """The field as it is typed, such as ``--batch-size``."""
    flag = flag_of(model.model_fields[name])
    return f"--{(flag and flag.name) or name.replace('_', '-')}"


def help_of(field: FieldInfo, command: str) -> str | None:
    """What the help of ``command`` says of the field."""
    flag = flag_of(field)
    if flag is None:
        return None
    text = {"gate": flag.gate, "repair": flag.repair}.get(command) or flag.help
    return text.replace("{default}", _shown(flag.unset if field.default is None else field.default, flag.factor))


def _shown(value: Any, factor: float) -> str:
    if isinstance(value, tuple):
        return ", else ".join(map(str, value))
    if isinstance(value, int | float):
        return f"{value / factor:g}"
    return str(value)
