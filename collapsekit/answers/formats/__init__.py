"""One file a format of questions and answers; each says what a line of it is, both ways. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from collapsekit.answers.formats._format import AnswerFormat
from collapsekit.errors import ConfigError, did_you_mean


@cache
def formats() -> dict[str, AnswerFormat]:
    """Find the formats by name: every module of this folder has one as ``FORMAT``."""
    names = sorted(m.name for m in iter_modules(__path__) if not m.name.startswith("_"))
    found = [import_module(f"{__name__}.{name}").FORMAT for name in names]
    return {one.name: one for one in found}


def get_format(name: str) -> AnswerFormat:
    """Return the format of that name. Raises ConfigError where there is none."""
    known = formats()
    if name not in known:
        raise ConfigError(f"there is no format {name!r}{did_you_mean(name, known)}: {', '.join(known)}.")
    return known[name]


def find_table(head: bytes) -> AnswerFormat | None:
    """Find the format whose files of answers begin so; None: they are JSON lines."""
    return next((one for one in formats().values() if one.mark and head.startswith(one.mark)), None)


def read_answer(line: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Read a line of answers of whichever format, as the format ``plain`` has it; None for what is no answer."""
    for one in formats().values():
        found = one.read(line)
        if found is not None:
            return found
    return None
