"""What files beside weights say of them: whose they are, what goes in, what comes out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from collapsekit.io.safe_text import clean

_NAME_LIMIT = 40
MOST_FIELDS = 100  # inputs, outputs or channels that are listed


@dataclass(frozen=True)
class InputField:
    """One modality: its name, the batch key that it is in, which part of that it is, and what else is said of it."""

    name: str
    key: str
    part: str | None = None  # NumPy indexing of one example: "[3]"
    about: str = ""


@dataclass(frozen=True)
class Described:
    """What a maker's files say of the weights beside them; all text is cleaned."""

    maker: str
    sentences: tuple[str, ...] = ()
    inputs: tuple[InputField, ...] = ()
    task: str | None = None
    label: str | None = None  # batch key of the targets
    call: str | None = None
    code: tuple[str, ...] = ()  # lines of Python that a factory may be made of
    samples: bool = False  # whether its answers are drawn
    episodes: Mapping[str, Any] = field(default_factory=dict)  # how a recording is read, as data.episodes has it


def fields_of(rows: Iterable[tuple[str, str, str | None, str]]) -> tuple[InputField, ...]:
    """Make fields of (name, key, part, about), each of a name of its own."""
    fields: dict[str, InputField] = {}
    for name, key, part, about in rows:
        plain = plain_name(name) or f"input{len(fields)}"
        while plain in fields:
            plain += "_2"
        fields[plain] = InputField(plain, clean(key, 200), part, clean(about, 200))
    return tuple(fields.values())


def plain_name(text: str) -> str:
    """Return a name as a modality may have it, of letters, digits, dots and dashes; empty where nothing is left."""
    return re.sub(r"[^\w.\-]+", "_", clean(text, _NAME_LIMIT), flags=re.ASCII).strip("_.-").lower()


def sizes(shape: Any) -> str:
    """Return a shape in words ("3×480×640"); empty where it is none."""
    if not isinstance(shape, list) or not shape or len(shape) > MOST_FIELDS:
        return ""
    return "×".join(clean(str(n), 20) for n in shape)


def mapping(value: Any) -> dict[str, Any]:
    """Return a mapping with its first entries; empty where it is none."""
    return dict(list(value.items())[:MOST_FIELDS]) if isinstance(value, dict) else {}


def text(value: Any, limit: int = 60) -> str:
    """Return text or a number, cleaned; empty for anything else."""
    return clean(str(value), limit) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def is_identifier(name: Any) -> bool:
    """Tell whether a name can stand in a line of Python that is shown."""
    return isinstance(name, str) and len(name) <= _NAME_LIMIT * 2 and name.isascii() and name.isidentifier()
