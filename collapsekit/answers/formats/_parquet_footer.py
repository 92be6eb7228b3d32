"""The end of a Parquet file: how many values each column has, read before any of them is decoded.

A list of a thousand million equal numbers takes a few kilobytes in a file, and eight gigabytes once it is decoded. What
polars tells of a file has no such counts, so the footer is read here: it is a Thrift struct in the compact protocol
(https://github.com/apache/parquet-format, https://github.com/apache/thrift, thrift-compact-protocol.md).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

MARK = b"PAR1"
LONGEST = 1 << 26  # bytes of a footer
_DEEPEST = 12  # structs within structs
_MOST_ITEMS = 1 << 22  # fields and items of a footer
_GROUPS, _CHUNKS, _ROWS, _META, _PATH, _VALUES = 4, 1, 3, 3, 3, 5  # numbers of fields, in the format's own definition


class FooterError(ValueError):
    """A file whose end is none of Parquet's."""


class ColumnChunk(NamedTuple):
    """What a file says of one column in one group of rows."""

    column: str  # the outermost name
    rows: int
    values: int  # of all lists together


def list_chunks(path: Path) -> Iterator[ColumnChunk]:
    """List the columns of every group of rows.

    Args:
        path: a Parquet file.

    Yields:
        The chunks in their order; of a column of structs one for each field.

    Raises:
        FooterError: where its end cannot be read.
        OSError: where the file cannot.
    """
    with path.open("rb") as file:
        footer = _Struct(_read_footer(file)).read()
    for group in _items(footer, _GROUPS):
        rows = _count(group, _ROWS)
        for chunk in _items(group, _CHUNKS):
            meta = chunk.get(_META)
            names = meta.get(_PATH) if isinstance(meta, dict) else None
            if not isinstance(meta, dict) or not isinstance(names, list) or not names:
                raise FooterError("a column has no name")
            yield ColumnChunk(bytes(names[0]).decode("utf-8", "replace"), rows, _count(meta, _VALUES))


def _read_footer(file: BinaryIO) -> bytes:
    size = file.seek(0, os.SEEK_END)
    if size < 12:
        raise FooterError("it is too short")
    file.seek(size - 8)
    tail = file.read(8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != MARK or not 0 < length <= min(LONGEST, size - 12):
        raise FooterError("its end is not that of a Parquet file")
    file.seek(size - 8 - length)
    return file.read(length)


def _items(fields: dict[int, Any], number: int) -> list[dict[int, Any]]:
    found = fields.get(number, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise FooterError("its groups of rows are no list")
    return found


def _count(fields: dict[int, Any], number: int) -> int:
    value = fields.get(number)
    if type(value) is not int or value < 0:
        raise FooterError("it does not say how many rows or values there are")
    return value


class _Struct:
    """A struct in the compact protocol, as a dict by number of field."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.left = data, 0, _MOST_ITEMS
        self.kinds: dict[int, Callable[[int], Any]] = {
            1: lambda _: True,
            2: lambda _: False,
            3: lambda _: self._take(1),
            **dict.fromkeys((4, 5, 6), lambda _: self._zigzag()),
            7: lambda _: self._take(8),
            8: lambda _: self._take(self._number()),
            9: self._list,
            10: self._list,
            11: self._map,
            12: self._fields,
        }

    def read(self) -> dict[int, Any]:
        """Read it whole. Raises FooterError."""
        return self._fields(0)

    def _fields(self, depth: int) -> dict[int, Any]:
        found: dict[int, Any] = {}
        number = 0
        while (head := self._take(1)[0]) != 0:
            step, kind = head >> 4, head & 15
            number = number + step if step else self._zigzag()
            found[number] = self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        self.left -= 1
        if self.left < 0 or depth > _DEEPEST or kind not in self.kinds:
            raise FooterError("its end is damaged")
        return self.kinds[kind](depth + 1)

    def _list(self, depth: int) -> list[Any]:
        head = self._take(1)[0]
        size, kind = head >> 4, head & 15
        size = self._number() if size == 15 else size
        # Truth values in lists take a byte each, as those of fields do not.
        return [self._take(1) if kind in (1, 2) else self._value(kind, depth) for _ in self._times(size)]

    def _map(self, depth: int) -> list[Any]:
        size = self._number()
        kinds = self._take(1)[0] if size else 0
        return [(self._value(kinds >> 4, depth), self._value(kinds & 15, depth)) for _ in self._times(size)]

    def _times(self, size: int) -> range:
        if size > len(self.data) - self.at:  # each takes a byte at least
            raise FooterError("its end is damaged")
        return range(size)

    def _number(self) -> int:
        value = shift = 0
        while True:
            byte = self._take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise FooterError("its end is damaged")

    def _zigzag(self) -> int:
        value = self._number()
        return (value >> 1) ^ -(value & 1)

    def _take(self, size: int) -> bytes:
        found = self.data[self.at : self.at + size]
        if len(found) < size:
            raise FooterError("its end is damaged")
        self.at += size
        return found
