"""Holes in sparse files: zeros that are stored nowhere, so that a file may look as large as it likes."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from functools import cache
from typing import BinaryIO

MIN_HOLE = 1 << 20  # bytes; a smaller hole is read like any other zeros
_MAX_COUNTED = 100_000  # holes; of more, what the file system says is believed
_BLOCK = 512  # of st_blocks, on every system
_ONES = 0xFFFFFFFF


def stored_bytes(stream: BinaryIO) -> int:
    """Count how many bytes of a file are stored, holes left out.

    What a file system compresses counts whole, and one that knows no holes has none.
    """
    info = os.fstat(stream.fileno())
    stored = info.st_size
    for count, (start, stop) in enumerate(_holes(stream.fileno(), 0, info.st_size) if _sparse(info) else ()):
        if count == _MAX_COUNTED:
            return min(info.st_size, info.st_blocks * _BLOCK)
        stored -= stop - start
    return stored


def runs(stream: BinaryIO, begin: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """Find where a file holds data and where holes of MIN_HOLE bytes or more; the stream stays where it is.

    Args:
        stream: the file.
        begin: first byte.
        end: byte behind the last.

    Returns:
        (start, stop, whether it is a hole) of consecutive pieces, in order.
    """
    at = begin
    for start, stop in _holes(stream.fileno(), begin, end) if _sparse(os.fstat(stream.fileno())) else ():
        if stop - start >= MIN_HOLE:
            if at < start:
                yield at, start, False
            yield start, stop, True
            at = stop
    if at < end:
        yield at, end, False


def _sparse(info: os.stat_result) -> bool:
    blocks: int | None = getattr(info, "st_blocks", None)
    return hasattr(os, "SEEK_HOLE") and blocks is not None and blocks * _BLOCK < info.st_size


def _holes(descriptor: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
    at = begin
    while at < end and (start := _seek(descriptor, at, os.SEEK_HOLE, end)) < end:
        at = min(_seek(descriptor, start, os.SEEK_DATA, end), end)
        yield start, at


def _seek(descriptor: int, at: int, whence: int, end: int) -> int:
    """As os.lseek, but ``end`` where there is nothing more, and nothing moved for those who read on."""
    before = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        return os.lseek(descriptor, at, whence)
    except OSError:  # no data behind it, or a file system that cannot tell
        return end
    finally:
        os.lseek(descriptor, before, os.SEEK_SET)


def crc32_of_zeros(crc: int, count: int) -> int:
    """Return ``zlib.crc32(bytes(count), crc)`` without so many bytes.

    A CRC is linear in what it began with: zeros of MIN_HOLE bytes are a matrix over bits, and twice as many are its
    square.
    """
    state, power = crc ^ _ONES, 0
    times, rest = divmod(count, MIN_HOLE)
    while times:
        if times & 1:
            state = _applied(_matrix(power), state)
        times, power = times >> 1, power + 1
    return zlib.crc32(bytes(rest), state ^ _ONES)


@cache
def _matrix(power: int) -> tuple[int, ...]:
    """What MIN_HOLE · 2^power zeros make of each bit."""
    if power:
        half = _matrix(power - 1)
        return tuple(_applied(half, column) for column in half)
    zeros = bytes(MIN_HOLE)
    return tuple(zlib.crc32(zeros, (1 << bit) ^ _ONES) ^ _ONES for bit in range(32))


def _applied(matrix: tuple[int, ...], state: int) -> int:
    made, bit = 0, 0
    while state:
        if state & 1:
            made ^= matrix[bit]
        state, bit = state >> 1, bit + 1
    return made
