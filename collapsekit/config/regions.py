"""The grammar of a modality that is part of a field: ``slice`` and ``where``, parsed and never evaluated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import EllipsisType

Index = tuple[int | slice | EllipsisType, ...]
_PART = re.compile(r"^(-?\d+)$|^(-?\d*):(-?\d*)(?::([1-9]\d*)?)?$")
_WHERE = re.compile(r"^\s*([^\s=!<>]+)\s*(==|!=|<=|>=|<|>|\bin\b)\s*(.+?)\s*$")
_INDEX = "an index of one example without the batch axis, such as '[3]', '[2:4]' or '[..., 0]'"
_FORM = "FIELD OP INTEGER such as 'segment == 0', with == != < <= > >= or in [1, 2]"


@dataclass(frozen=True)
class SliceRegion:
    """Part of a field that is the same for every example: NumPy's basic indexing of one example."""

    key: str
    text: str
    index: Index

    @property
    def name(self) -> str:
        """What the part's own column is called."""
        return f"{self.key}{self.text}"

    @property
    def fields(self) -> tuple[str, ...]:
        """What has to be read of an example to find it."""
        return (self.key,)


@dataclass(frozen=True)
class WhereRegion:
    """The tokens of a sequence for which a field of whole numbers says so; of another number in each example, perhaps."""

    key: str
    field: str
    sign: str
    values: tuple[int, ...]

    @property
    def condition(self) -> str:
        """The condition as it is written."""
        right = str(list(self.values)) if self.sign == "in" else str(self.values[0])
        return f"{self.field} {self.sign} {right}"

    @property
    def name(self) -> str:
        """What the part's own column is called."""
        return f"{self.key} where {self.condition}"

    @property
    def fields(self) -> tuple[str, ...]:
        """What has to be read of an example to find it."""
        return tuple(dict.fromkeys((self.key, self.field)))


# A part of a field that is a modality.
Region = SliceRegion | WhereRegion


def parse_region(keys: str | Sequence[str], slice_text: str | None, where: str | None) -> Region | None:
    """Read what part of its field a modality is.

    Args:
        keys: the modality's fields.
        slice_text: its ``slice``; None: there is none.
        where: its ``where``; None: there is none.

    Returns:
        The part; None for a modality that is whole fields.

    Raises:
        ValueError: for both at once, for several fields, and for what follows neither grammar.
    """
    if slice_text is None and where is None:
        return None
    if slice_text is not None and where is not None:
        raise ValueError("it has a `slice` and a `where`: keep one")
    names = (keys,) if isinstance(keys, str) else tuple(keys)
    if len(names) != 1:
        raise ValueError(f"`slice` and `where` are of one field, and `input` names {len(names)}: name one")
    return parse_slice(names[0], slice_text) if slice_text is not None else parse_where(names[0], str(where))


def parse_slice(key: str, text: str) -> SliceRegion:
    """Read the index of a ``slice``, such as ``[3]``, ``[2:4]`` or ``[..., 0]``.

    Args:
        key: the field.
        text: the index, in brackets or without.

    Returns:
        The part.

    Raises:
        ValueError: where it is no such index.
    """
    bare = text.strip()
    bare = bare[1:-1] if bare.startswith("[") and bare.endswith("]") else bare
    words = [part.strip() for part in bare.split(",")]
    parts = [_index_part(word, text) for word in words]
    if parts.count(...) > 1:
        raise ValueError(f"slice {text!r} has '...' twice: keep one")
    return SliceRegion(key, f"[{', '.join(words)}]", tuple(parts))


def parse_where(key: str, text: str) -> WhereRegion:
    """Read a ``where``: FIELD OP INTEGER, with == != < <= > >= or ``in`` a list of integers.

    Args:
        key: the field that holds the sequence.
        text: the condition.

    Returns:
        The part.

    Raises:
        ValueError: where it is no such condition.
    """
    found = _WHERE.match(text)
    if found is None:
        raise ValueError(f"where {text!r} is not {_FORM}")
    field, sign, right = found.groups()
    listed = re.fullmatch(r"[\[(]\s*(-?\d+(?:\s*,\s*-?\d+)*)\s*,?\s*[\])]", right)
    if sign == "in" and listed:
        return WhereRegion(key, field, sign, tuple(int(v) for v in listed[1].split(",")))
    if sign == "in" or not re.fullmatch(r"-?\d+", right):
        raise ValueError(f"where {text!r} is not {_FORM}")
    return WhereRegion(key, field, sign, (int(right),))


def _index_part(part: str, text: str) -> int | slice | EllipsisType:
    if part == "...":
        return ...
    found = _PART.match(part)
    if found is None:
        raise ValueError(f"slice {text!r} is not {_INDEX}")
    single, start, stop, step = found.groups()
    if single is not None:
        return int(single)
    return slice(int(start) if start else None, int(stop) if stop else None, int(step) if step else None)
