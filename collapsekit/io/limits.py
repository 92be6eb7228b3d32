"""What plain data from a file may hold, and how a message shows a part of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from collapsekit.io.safe_text import quote

MEMORY = 4 * 2**30  # bytes of inputs and features kept in memory, where nothing else is asked for
SEEDS = 2**63  # torch's generators take less
MAX_LEVELS = 50  # deeper than any config; well under what recursion can follow


def check_plain(value: Any, *, values: int, levels: int = MAX_LEVELS, whole: bool = True) -> None:
    """Check that data is plain and within limits.

    Mappings and lists of numbers that are finite and fit 64 bits, text, and None. Lists that hold themselves, or one list
    many times over, count as what they unfold to.

    Args:
        value: the data.
        values: how many values it may hold.
        levels: how deep it may be nested.
        whole: whether text must be of whole characters.

    Raises:
        ValueError: saying where, for anything else.
    """
    count = 1
    todo: list[tuple[Any, Any, int]] = [(value, None, 1)]
    while todo:
        found, place, level = todo.pop()
        if level > levels:
            raise ValueError(f"it is nested more than {levels} levels deep")
        below: list[tuple[Any, Any, int]] = []
        if isinstance(found, Mapping):
            below = [(v, (place, k), level + 1) for k, v in found.items()]
            wrong = next((w for k in found if (w := _wrong(k, whole))), None)
        elif isinstance(found, list | tuple):
            below = [(v, (place, i), level + 1) for i, v in enumerate(found)]
            wrong = None
        else:
            wrong = _wrong(found, whole)
        if wrong:
            raise ValueError(f"{wrong}{_place(place)}")
        count += len(below)
        if count > values:
            raise ValueError(f"it unfolds to more than {values:,} values")
        todo += below


def _wrong(value: Any, whole: bool) -> str | None:
    if whole and isinstance(value, str) and not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as e:
            return f"text must be whole characters, found half of one (U+{ord(value[e.start]):04X})"
    if isinstance(value, float) and not math.isfinite(value):
        return f"numbers must be finite, found {value}"
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return f"whole numbers must fit 64 bits, found one of {value.bit_length()}"
    return None


def _place(place: Any) -> str:
    """`` at 'model.kwargs.x'`` of the linked keys, the innermost first."""
    keys: list[str] = []
    while place is not None:
        place, key = place
        keys.append(str(key)[:40])
    return f" at {quote('.'.join(reversed(keys)), 200)}" if keys else ""
