"""A zip writer that lies on request: each field of each header may be set apart."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from collapsekit.checkpoint.formats.holes import crc32_of_zeros

_IN_ZIP64 = 0xFFFFFFFF


@dataclass
class Member:
    """A member, and what its two headers say of it where that differs from the truth."""

    name: str | bytes
    data: bytes
    local_name: str | bytes | None = None
    local_size: int | None = None
    size: int | None = None
    packed: int | None = None
    crc: int | None = None
    flags: int = 0
    local_flags: int | None = None
    method: int = 0
    offset: int | None = None
    extra: bytes = b""

    def local(self) -> bytes:
        """The header before the member's bytes, with them."""
        name = _raw(self.name if self.local_name is None else self.local_name)
        crc = zlib.crc32(self.data) if self.crc is None else self.crc
        size = len(self.data) if self.local_size is None else self.local_size
        flags = self.flags if self.local_flags is None else self.local_flags
        packed = size if self.method == 0 else len(self.data)
        head = (b"PK\x03\x04", 20, flags, self.method, 0, 0x21, crc, packed, size, len(name), 0)
        return struct.pack("<4s5H3L2H", *head) + name + self.data

    def central(self, at: int) -> bytes:
        """The entry in the directory at the archive's end."""
        name = _raw(self.name)
        crc = zlib.crc32(self.data) if self.crc is None else self.crc
        packed = len(self.data) if self.packed is None else self.packed
        size = packed if self.size is None else self.size
        head = (b"PK\x01\x02", 20, 20, self.flags, self.method, 0, 0x21, crc, packed, size)
        rest = (len(name), len(self.extra), 0, 0, 0, 0, at if self.offset is None else self.offset)
        return struct.pack("<4s6H3L", *head) + struct.pack("<5H2L", *rest) + name + self.extra


def archive(members: Sequence[Member], prefix: bytes = b"", between: bytes = b"", count: int | None = None) -> bytes:
    """The members in order, something before them, something before the directory; offsets count from the start."""
    body, directory = prefix, b""
    for member in members:
        directory += member.central(len(body))
        body += member.local()
    body += between
    return body + directory + end(len(members) if count is None else count, len(directory), len(body))


def end(count: int, size: int, at: int, comment: bytes = b"") -> bytes:
    """The end record."""
    return (
        struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count & 0xFFFF, count & 0xFFFF, size, at, len(comment)) + comment
    )


def zip64_extra(*numbers: int) -> bytes:
    """The extra field that holds sizes and offsets beyond 32 bits."""
    return struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers)


def zip64_end(count: int, size: int, at: int, record_at: int) -> bytes:
    """The three records that end a zip64 archive."""
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, at)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, record_at, 1)
    return record + locator + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, _IN_ZIP64, _IN_ZIP64, 0)


def _raw(name: str | bytes) -> bytes:
    return name if isinstance(name, bytes) else name.encode()


def sparse(path: Path, members: Sequence[tuple[str, bytes | int]], checksums: bool = True) -> Path:
    """A sound archive at ``path``; a member that is given as a length is a hole of so many zeros, which take no room."""
    entries, at = [], 0
    with path.open("wb") as stream:
        for name, data in members:
            size = data if isinstance(data, int) else len(data)
            crc = crc32_of_zeros(0, data) if isinstance(data, int) else zlib.crc32(data)
            extra = zip64_extra(size, size) if size >= _IN_ZIP64 else b""
            both = (_IN_ZIP64, _IN_ZIP64) if extra else (size, size)
            local = (b"PK\x03\x04", 45, 0, 0, 0, 0x21, crc if checksums else 0, *both, len(name), len(extra))
            stream.seek(at)
            stream.write(struct.pack("<4s5H3L2H", *local) + name.encode() + extra)
            place = zip64_extra(*((size, size) if extra else ()), at) if at >= _IN_ZIP64 else extra
            central = (b"PK\x01\x02", 45, 45, *local[2:7], *both, len(name), len(place), 0, 0, 0, 0, min(at, _IN_ZIP64))
            entries.append(struct.pack("<4s6H3L5H2L", *central) + name.encode() + place)
            if isinstance(data, bytes):
                stream.write(data)
            at = stream.tell() + (data if isinstance(data, int) else 0)
        stream.seek(at)
        directory = b"".join(entries)
        if at < _IN_ZIP64 and len(members) < 0xFFFF:
            stream.write(directory + end(len(members), len(directory), at))
        else:
            stream.write(directory + zip64_end(len(members), len(directory), at, at + len(directory)))
    return path
