"""A zip archive taken by the letter: nothing compressed, repeated, overlapping, hidden or damaged."""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import BinaryIO, cast

from collapsekit.checkpoint.formats.handles import stream_of
from collapsekit.checkpoint.formats.holes import crc32_of_zeros, runs
from collapsekit.checkpoint.formats.layout import MAX_TENSORS, DamagedError, Extent, LimitError
from collapsekit.checkpoint.formats.source import Window

MAGIC = b"PK\x03\x04"
_LOCAL = struct.Struct("<4s5H3L2H")  # APPNOTE.TXT 4.3.7
_END = struct.Struct("<4s4H2LH")  # 4.3.16: magic, two disk numbers, entries twice, directory's size, offset, comment
_END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_LOCATOR = struct.Struct("<4sLQL")  # 4.3.15
_DESCRIPTOR = struct.Struct("<4sL")  # 4.3.9: the checksum, then both sizes in four or eight bytes each
_UTF8, _ENCRYPTED, _SIZES_FOLLOW = 0x800, 0x1, 0x8
_IN_ZIP64 = 0xFFFFFFFF
_COUNT_IN_ZIP64 = 0xFFFF
_CHUNK = 1 << 20
_MAX_MEMBERS = MAX_TENSORS + 1000  # a storage each, and what stands beside them
_ENTRY = b"PK\x01\x02"  # begins each entry of the directory
_MAX_DIRECTORY = 64 << 20  # bytes
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
        """Return the member of that name below the root."""
        return self.members.get(self.root + name)


def open_archive(extent: Extent) -> Archive:
    """Return every member's place, once all of them are what the directory says (torch checks no CRC-32).

    Raises DamagedError.
    """
    try:
        with stream_of(extent.path) as stream:
            window = Window(stream, extent)
            with zipfile.ZipFile(cast(BinaryIO, _Bounded(stream, extent))) as archive:
                infos = archive.infolist()
                _refuse_odd(infos)
                directory = archive.start_dir
            _refuse_end(window, extent, len(infos), directory)
            places = [_place(window, extent, info) for info in infos]
            _refuse_gaps(window, extent, infos, places, directory)
            # torch.serialization.set_crc32_options(False) leaves 0 in every member: nothing to hold it against.
            checksummed = any(i.CRC for i in infos)
            for info, place in zip(infos, places, strict=True) if checksummed else ():
                _check_sum(stream, info, place)
    except _ERRORS as e:
        raise DamagedError(str(e) or type(e).__name__) from None
    return Archive({i.filename: p for i, p in zip(infos, places, strict=True)}, checksummed)


def member_names(extent: Extent) -> list[str]:
    """Return the names in a zip archive's directory, nothing of it checked; empty where it cannot be read as one."""
    try:
        with stream_of(extent.path) as stream, zipfile.ZipFile(cast(BinaryIO, _Bounded(stream, extent))) as archive:
            return archive.namelist()
    except _ERRORS:
        return []


class _Bounded(Window):
    """What zipfile reads an archive's directory from, in one piece, before it counts: longer ones are refused."""

    def read(self, size: int | None = -1) -> bytes:
        """As Window.read. Raises LimitError."""
        if size is not None and size > _MAX_DIRECTORY:
            raise LimitError(f"its directory has {size:,} bytes, more than the {_MAX_DIRECTORY:,} that are read")
        data = super().read(size)
        count = data.count(_ENTRY)
        if count > _MAX_MEMBERS:
            raise LimitError(f"it has {count:,} members, more than the {_MAX_MEMBERS:,} that are read")
        return data


def _refuse_odd(infos: list[zipfile.ZipInfo]) -> None:
    seen = set[str]()
    if min((i.header_offset for i in infos), default=0) != 0:
        raise DamagedError("something precedes its first member")
    for info in infos:
        shown = info.filename[:100]
        if info.compress_type != zipfile.ZIP_STORED:
            raise DamagedError(
                f"its member {shown!r} is compressed, as torch.save and np.savez never do, and may unpack without end"
            )
        if info.file_size != info.compress_size:
            raise DamagedError(f"its member {shown!r} has two sizes, {info.file_size} and {info.compress_size}")
        if info.flag_bits & _ENCRYPTED:
            raise DamagedError(f"its member {shown!r} is encrypted")
        if info.orig_filename != info.filename:
            raise DamagedError(f"its member {info.orig_filename[:100]!r} has a NUL in its name")
        name = info.filename.lower()  # torch's zip reader finds members regardless of case
        if name in seen:
            raise DamagedError(f"it has two members named {shown!r}, so readers may disagree about its content")
        seen.add(name)


def _refuse_end(window: Window, extent: Extent, count: int, directory: int) -> None:
    """The end records are the last bytes, and say what readers of either kind go by: one directory, here, of all."""
    at = max(extent.length - _END.size, 0)
    window.seek(at)
    end = window.read()
    if len(end) != _END.size or not end.startswith(b"PK\x05\x06" + bytes(4)) or not end.endswith(bytes(2)):
        raise DamagedError("something follows its directory")
    *_, here, entries, size, offset, _ = _END.unpack(end)
    said = [(here, _COUNT_IN_ZIP64), (entries, _COUNT_IN_ZIP64), (size, _IN_ZIP64), (offset, _IN_ZIP64)]
    window.seek(max(at - _LOCATOR.size, 0))
    locator = window.read(_LOCATOR.size)
    in_zip64 = None
    if locator.startswith(b"PK\x06\x07"):
        at -= _LOCATOR.size + _END64.size
        window.seek(max(at, 0))
        magic, length, *_, first_disk, disk, n_here, n, all_bytes, start = _END64.unpack(window.read(_END64.size))
        plain = magic == b"PK\x06\x06" and length == _END64.size - 12 and not first_disk and not disk
        if not plain or _LOCATOR.unpack(locator)[1:] != (0, at, 1):
            raise DamagedError("its zip64 records are not where they say")
        in_zip64 = (n_here, n, all_bytes, start)
    want = (count, count, at - directory, directory)
    if in_zip64 not in (None, want) or any(
        got != true and (in_zip64 is None or got != above) for (got, above), true in zip(said, want, strict=True)
    ):
        raise DamagedError(f"its end record and its directory of {count} members disagree")


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


def _refuse_gaps(
    window: Window, extent: Extent, infos: list[zipfile.ZipInfo], places: list[Extent], directory: int
) -> None:
    """Each member follows the one before, the directory the last: readers that stream find the same members."""
    spans = [(i.header_offset, p.start - extent.start + p.length, i) for i, p in zip(infos, places, strict=True)]
    spans.sort(key=lambda span: span[0])
    starts = [start for start, _, _ in spans[1:]] + [directory]
    for (_, end, info), start in zip(spans, starts, strict=False):
        if end > start:
            raise DamagedError("its members overlap one another")
        if end < start and not _is_descriptor(window, end, start, info):
            raise DamagedError(f"something that belongs to no member follows its member {info.filename[:100]!r}")


def _is_descriptor(window: Window, begin: int, end: int, info: zipfile.ZipInfo) -> bool:
    """Whether what stands behind a member repeats its checksum and sizes, as where it was written in one go."""
    window.seek(begin)
    found = window.read(min(end - begin, 25))
    signed = _DESCRIPTOR.pack(b"PK\x07\x08", info.CRC)
    sizes = (info.compress_size, info.file_size)
    forms = [signed + struct.pack("<2Q", *sizes)]
    forms += [signed + struct.pack("<2L", *sizes)] if max(sizes) < _IN_ZIP64 else []
    return bool(info.flag_bits & _SIZES_FOLLOW) and found in forms


def _check_sum(stream: BinaryIO, info: zipfile.ZipInfo, place: Extent) -> None:
    """Raises DamagedError where the member's bytes are not those its checksum is of. Holes are reckoned, not read."""
    end, crc, left = place.start + place.length, 0, 0
    for start, stop, hole in runs(stream, place.start, end):
        if hole:
            crc = crc32_of_zeros(crc, stop - start)
            continue
        stream.seek(start)
        left = stop - start
        while left and (data := stream.read(min(left, _CHUNK))):
            crc = zlib.crc32(data, crc)
            left -= len(data)
        if left:
            break
    if left or crc != info.CRC:
        raise DamagedError(
            f"its member {info.filename[:100]!r} does not match its CRC-32, so it was damaged on the way"
        )
