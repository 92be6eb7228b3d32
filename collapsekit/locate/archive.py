"""A zip archive taken by the letter: nothing compressed, repeated, overlapping, hidden or damaged."""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import BinaryIO, cast

from collapsekit.locate.layout import DamagedError, Extent
from collapsekit.locate.opened import Window

MAGIC = b"PK\x03\x04"
_LOCAL = struct.Struct("<4s5H3L2H")  # APPNOTE.TXT 4.3.7
_END = b"PK\x05\x06" + bytes(4)  # APPNOTE.TXT 4.3.16, on disk 0 of one disk
_END_BYTES = 22
_UTF8, _ENCRYPTED, _SIZES_FOLLOW = 0x800, 0x1, 0x8
_IN_ZIP64 = 0xFFFFFFFF
_CHUNK = 1 << 20
_MOST_MEMBERS = 1_000_000
_ERRORS = (zipfile.BadZipFile, EOFError, OSError, OverflowError, RuntimeError, ValueError, struct.error, KeyError)


@dataclass(frozen=True)
class Archive:
    """The members of a zip archive: name -> its bytes in the file, in archive order."""

    members: dict[str, Extent]
    checksummed: bool  # whether every member was held against a checksum stored in the file

    @property
    def root(self) -> str:
        """The folder of the first member, in which torch keeps all others, with its slash."""
        return next(iter(self.members), "").split("/")[0] + "/"

    def member(self, name: str) -> Extent | None:
        """The member of that name below the root."""
        return self.members.get(self.root + name)


def open_archive(extent: Extent, *, compressed_code: bool = False) -> Archive:
    """Every member's place, once all of them are what the directory says (torch checks no CRC-32).

    ``compressed_code`` lets compressed members pass, unread: TorchScript compresses its code. Raises DamagedError.
    """
    try:
        with extent.path.open("rb") as stream:
            window = Window(stream, extent)
            with zipfile.ZipFile(cast(BinaryIO, window)) as archive:
                infos = archive.infolist()
                _refuse_odd(infos, compressed_code)
                directory = archive.start_dir
            _refuse_tail(window, extent)
            places = [_place(window, extent, info) for info in infos]
            _refuse_overlap(infos, places, extent, directory)
            stored = [(i, p) for i, p in zip(infos, places, strict=True) if i.compress_type == zipfile.ZIP_STORED]
            # torch.serialization.set_crc32_options(False) leaves 0 in every member: nothing to hold it against.
            checksummed = any(i.CRC for i in infos)
            for info, place in stored if checksummed else []:
                _check_sum(stream, info, place)
    except _ERRORS as e:
        raise DamagedError(str(e) or type(e).__name__) from None
    return Archive({i.filename: p for i, p in stored}, checksummed)


def member_names(extent: Extent) -> list[str]:
    """The names in a zip archive's directory, nothing of it checked; empty where it cannot be read as one."""
    try:
        with extent.path.open("rb") as stream, zipfile.ZipFile(cast(BinaryIO, Window(stream, extent))) as archive:
            return archive.namelist()[:_MOST_MEMBERS]
    except _ERRORS:
        return []


def _refuse_odd(infos: list[zipfile.ZipInfo], compressed_code: bool) -> None:
    seen = set[str]()
    if len(infos) > _MOST_MEMBERS:
        raise DamagedError(f"it has {len(infos)} members, more than the {_MOST_MEMBERS} allowed")
    for info in infos:
        shown = info.filename[:100]
        if info.compress_type != zipfile.ZIP_STORED and not compressed_code:
            raise DamagedError(
                f"its member {shown!r} is compressed, as torch.save and np.savez never do, and may unpack without end"
            )
        if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
            raise DamagedError(f"its member {shown!r} has two sizes, {info.file_size} and {info.compress_size}")
        if info.flag_bits & _ENCRYPTED:
            raise DamagedError(f"its member {shown!r} is encrypted")
        if info.orig_filename != info.filename:
            raise DamagedError(f"its member {info.orig_filename[:100]!r} has a NUL in its name")
        name = info.filename.lower()  # torch's zip reader finds members regardless of case
        if name in seen:
            raise DamagedError(f"it has two members named {shown!r}, so readers may disagree about its content")
        seen.add(name)


def _refuse_tail(window: Window, extent: Extent) -> None:
    window.seek(max(extent.length - _END_BYTES, 0))
    end = window.read()
    if not end.startswith(_END) or not end.endswith(bytes(2)):
        raise DamagedError("something follows its directory")


def _place(window: Window, extent: Extent, info: zipfile.ZipInfo) -> Extent:
    """The member's bytes; its own header must say what the directory says."""
    window.seek(info.header_offset)
    header = window.read(_LOCAL.size)
    magic, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack(header)
    name = window.read(name_length)
    if magic != MAGIC:
        raise DamagedError(f"its member {info.filename[:100]!r} is not where the directory says")
    if name.decode("utf-8" if flags & _UTF8 else "cp437") != info.filename or method != info.compress_type:
        raise DamagedError(f"its directory and the member {info.filename[:100]!r} itself disagree about its name")
    told = not flags & _SIZES_FOLLOW
    sizes = (packed, size) not in ((info.compress_size, info.file_size), (_IN_ZIP64, _IN_ZIP64))
    if told and (sizes or crc != info.CRC):
        raise DamagedError(f"its directory and the member {info.filename[:100]!r} itself disagree about its size")
    start = info.header_offset + _LOCAL.size + name_length + extra_length
    return Extent(extent.path, extent.start + start, info.compress_size)


def _refuse_overlap(infos: list[zipfile.ZipInfo], places: list[Extent], extent: Extent, directory: int) -> None:
    spans = sorted((i.header_offset, p.start - extent.start + p.length) for i, p in zip(infos, places, strict=True))
    if spans and spans[0][0] != 0:
        raise DamagedError("something precedes its first member")
    ends = [end for _, end in spans]
    starts = [start for start, _ in spans[1:]] + [directory]
    if any(end > start for end, start in zip(ends, starts, strict=False)):
        raise DamagedError("its members overlap one another")


def _check_sum(stream: BinaryIO, info: zipfile.ZipInfo, place: Extent) -> None:
    stream.seek(place.start)
    left, crc = place.length, 0
    while left and (data := stream.read(min(left, _CHUNK))):
        crc = zlib.crc32(data, crc)
        left -= len(data)
    if left or crc != info.CRC:
        raise DamagedError(
            f"its member {info.filename[:100]!r} does not match its CRC-32, so it was damaged on the way"
        )
