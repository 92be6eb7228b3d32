"""Zip archives that lie, unpack without end, or say one thing to one reader and another to the next."""

from __future__ import annotations

import dataclasses
import struct
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tests.hostile.assemble import FLOATS, good_bytes, good_members, good_zip, plain, tensor, tensors
from tests.hostile.catalogue import add, holds_w, read, refused
from tests.hostile.zipper import Member, archive, end, zip64_end, zip64_extra

if TYPE_CHECKING:
    from collapsekit.checkpoint.read import Checkpoint

NO_DIRECTORY = "not a zip file|not a sound zip"


def _members() -> list[Member]:
    return [Member(f"archive/{name}", data) for name, data in good_members()]


def _written(folder: Path, data: bytes) -> Path:
    (folder / "m.pt").write_bytes(data)
    return folder / "m.pt"


def _with(folder: Path, **changes: object) -> Path:
    """A sound archive in which the weights' member is changed."""
    members = _members()
    members[2] = dataclasses.replace(members[2], **changes)  # type: ignore[arg-type]
    return _written(folder, archive(members))


@read()
def our_own_zip_writer(folder: Path) -> Path:
    """Sound: shows that the archives below are refused for what is wrong with them, and for nothing else."""
    return _written(folder, archive(_members()))


@refused("compress")
def bomb(folder: Path) -> Path:
    """A member of 100 KB that unpacks to 100 MB of zeros."""
    pack = zlib.compressobj(9, wbits=-15)
    chunk = bytes(1 << 20)
    packed = b"".join(pack.compress(chunk) for _ in range(100)) + pack.flush()
    return _with(folder, data=packed, method=8, size=100 << 20, local_size=100 << 20, crc=1)


@refused("compress")
def compressed_pickle(folder: Path) -> Path:
    """Every member deflated."""
    with zipfile.ZipFile(folder / "m.pt", "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in good_members():
            z.writestr(f"archive/{name}", data)
    return folder / "m.pt"


@refused("compress")
def method_unknown(folder: Path) -> Path:
    """A compression method that no reader knows."""
    return _with(folder, method=77)


@refused("two members")
def duplicate_member(folder: Path) -> Path:
    """Two members of one name: which one is read depends on the reader."""
    return _written(folder, archive([*_members(), Member("archive/data/0", bytes(16))]))


@refused("two members")
def duplicate_in_another_case(folder: Path) -> Path:
    """torch finds members regardless of case, others do not."""
    return _written(folder, archive([*_members(), Member("archive/DATA.PKL", b"N.")]))


@refused("disagree about its name")
def local_name_differs(folder: Path) -> Path:
    """The directory and the member's own header name it differently."""
    return _with(folder, local_name="archive/data/9")


@refused("disagree about its size")
def local_size_differs(folder: Path) -> Path:
    """The member's own header says eight bytes, the directory sixteen."""
    return _with(folder, local_size=8)


@refused("overlap")
def overlapping_members(folder: Path) -> Path:
    """A member that lies inside another one's bytes."""
    inner = Member("archive/data/0", FLOATS)
    members = _members()
    members[2] = Member("archive/note", inner.local())
    before = sum(len(m.local()) for m in members[:2])
    inside = dataclasses.replace(inner, offset=before + 30 + len("archive/note"))
    body = b"".join(m.local() for m in members)
    at, directory = 0, b""
    for m in members:
        directory += m.central(at)
        at += len(m.local())
    directory += inside.central(0)
    return _written(folder, body + directory + end(len(members) + 1, len(directory), len(body)))


@refused("disagree about its name")
def two_entries_for_one_place(folder: Path) -> Path:
    """Two names whose entries point to the same member, which bears one of them."""
    members = _members()
    at = sum(len(m.local()) for m in members[:2])
    body = b"".join(m.local() for m in members)
    spots = [sum(len(m.local()) for m in members[:i]) for i in range(len(members))]
    directory = b"".join(m.central(s) for m, s in zip(members, spots, strict=True))
    directory += Member("archive/data/1", FLOATS, offset=at).central(0)
    return _written(folder, body + directory + end(5, len(directory), len(body)))


@refused("checksum|CRC")
def flipped_bit(folder: Path) -> Path:
    """One bit of one weight differs from what was saved."""
    raw = bytearray(good_bytes())
    raw[bytes(raw).index(FLOATS) + 9] ^= 0x10
    return _written(folder, bytes(raw))


def _flipped(checkpoint: Checkpoint) -> None:
    assert checkpoint.tensors["w"].tolist() != [0, 1, 2, 3]
    assert "checksum" in checkpoint.note


@read(_flipped)
def flipped_bit_without_checksums(folder: Path) -> Path:
    """The same where nothing was stored to hold the bytes against: the note says so."""
    members = [dataclasses.replace(m, crc=0) for m in _members()]
    raw = bytearray(archive(members))
    raw[bytes(raw).index(FLOATS) + 9] ^= 0x10
    return _written(folder, bytes(raw))


@refused("checksum|CRC")
def checksum_of_one_member_left_out(folder: Path) -> Path:
    """All members but the weights carry a checksum."""
    return _with(folder, crc=0)


@refused("encrypt")
def encrypted(folder: Path) -> Path:
    """The flag that says the member is encrypted."""
    return _with(folder, flags=1)


@refused("something follows")
def junk_behind(folder: Path) -> Path:
    """Bytes after the end record."""
    return _written(folder, good_bytes() + b"junk" * 10)


@refused("something follows|neither torch.save|end record and its directory")
def comment_behind(folder: Path) -> Path:
    """A comment of the archive, which itself looks like an end record."""
    raw = good_bytes()
    fake = end(0, 0, 0)
    return _written(folder, raw[:-2] + struct.pack("<H", len(fake)) + fake)


@refused("precedes")
def junk_before(folder: Path) -> Path:
    """Bytes before the first member, offsets not shifted: self-extracting archives look so."""
    return _written(folder, b"PK\x03\x04" + b"junk" * 10 + good_bytes())


@refused("not a checkpoint")
def script_before(folder: Path) -> Path:
    """A shell script that is a zip archive too."""
    return _written(folder, archive(_members(), prefix=b"#!/bin/sh\ntouch canary\nexit\n"))


@refused("precedes")
def archive_behind_an_archive(folder: Path) -> Path:
    """Two whole archives in a row: the last directory counts for some readers, the first bytes for others."""
    return _written(folder, good_bytes() + good_bytes())


@refused("something|neither torch.save")
def two_end_records(folder: Path) -> Path:
    """A second end record that says the archive is empty."""
    return _written(folder, good_bytes() + end(0, 0, len(good_bytes())))


@refused("hidden|between|precedes|gap|belongs to no member")
def hidden_bytes_before_the_directory(folder: Path) -> Path:
    """A whole second archive between the last member and the directory, which streaming readers would find."""
    hidden = Member("archive/data.pkl", b"N.").local()
    return _written(folder, archive(_members(), between=hidden))


@refused("disagree about its size|outside|beyond")
def zip64_sizes_absurd(folder: Path) -> Path:
    """A zip64 field that gives the weights 2^63 bytes."""
    extra = zip64_extra(1 << 63, 1 << 63)
    return _with(folder, size=0xFFFFFFFF, packed=0xFFFFFFFF, extra=extra)


@refused("not a sound zip")
def zip64_offset_absurd(folder: Path) -> Path:
    """A zip64 field that puts the weights at 2^62."""
    return _with(folder, offset=0xFFFFFFFF, extra=zip64_extra(1 << 62))


@refused("not a sound zip")
def zip64_count_absurd(folder: Path) -> Path:
    """A zip64 end record of 2^60 entries in a directory of 2^62 bytes."""
    body = b"".join(m.local() for m in _members())
    return _written(folder, body + zip64_end(1 << 60, 1 << 62, len(body), len(body)))


@refused("neither torch.save|members")
def seventy_thousand_members(folder: Path) -> Path:
    """70,000 empty members: more than the count in the end record can say."""
    locals_, directory, at = [], [], 0
    for i in range(70_000):
        member = Member(f"a/{i}", b"")
        locals_.append(member.local())
        directory.append(member.central(at))
        at += len(locals_[-1])
    entries = b"".join(directory)
    ending = zip64_end(70_000, len(entries), at, at + len(entries))
    return _written(folder, b"".join(locals_) + entries + ending)


@refused("count|members")
def count_below_the_entries(folder: Path) -> Path:
    """The end record counts one entry, the directory has four."""
    return _written(folder, archive(_members(), count=1))


@refused("not a sound zip")
def offset_past_the_end(folder: Path) -> Path:
    """The directory puts the weights behind the file."""
    return _with(folder, offset=0x7FFFFFFF)


# Names of a further member; torch never opens it, and nothing is ever unpacked by its name.
NAMES: dict[str, tuple[str | bytes, str | None]] = {
    "member_with_nul": (b"archive/x\0.pkl", "NUL"),
    "member_out_of_the_folder": ("../../x", None),
    "member_absolute": ("/etc/cron.d/x", None),
    "member_with_escape": ("archive/\x1b]0;owned\x07\x1b[31m", None),
    "member_with_markup": ("archive/<script>alert(1)</script>", None),
    "member_with_a_newline": ("archive/x\n::error::x", None),
    "member_of_a_long_name": ("archive/" + "n" * 65_000, None),
    "member_not_utf8": (b"archive/\xff\xfe", None),
    "member_without_a_name": ("", None),
}
for key, (name, says) in NAMES.items():

    def _named(folder: Path, name: str | bytes = name) -> Path:
        return _written(folder, archive([*_members(), Member(name, b"data")]))

    add(_named, key, says=says, check=holds_w if says is None else None)


@refused("compress")
def compressed_member_with_a_hostile_name(folder: Path) -> Path:
    """The name that the refusal has to give holds escapes, markup and a CI command."""
    name = "archive/\x1b[31m<b>[/x]\n::error::x\u202e"
    return _written(folder, archive([*_members(), Member(name, b"\x03\0", method=8, size=0, crc=0)]))


def _cut(at: int) -> None:
    def make(folder: Path) -> Path:
        raw = good_bytes()
        return _written(folder, raw[: at * len(raw) // 8])

    add(make, f"archive_cut_at_{at}_eighths", says=NO_DIRECTORY)


for eighth in (1, 4, 7):
    _cut(eighth)


@refused(NO_DIRECTORY)
def archive_without_its_last_byte(folder: Path) -> Path:
    """One byte short."""
    return _written(folder, good_bytes()[:-1])


@refused("neither torch.save")
def empty_archive(folder: Path) -> Path:
    """An end record and nothing else."""
    return _written(folder, end(0, 0, 0))


@refused("neither torch.save")
def pickle_in_no_folder(folder: Path) -> Path:
    """data.pkl at the top, where torch.save never puts it."""
    return _written(folder, archive([Member(name, data) for name, data in good_members()]))


@read()
def two_roots(folder: Path) -> Path:
    """Two whole checkpoints in one archive, in folders a and b: the first counts, as it does for torch."""
    other = tensors((plain("w"), tensor(offset=1, shape=(2,))))
    members = [Member(f"a/{name}", data) for name, data in good_members()]
    members += [Member(f"b/{name}", other if name == "data.pkl" else data) for name, data in good_members()]
    return _written(folder, archive(members))


@read()
def torch_without_checksums(folder: Path) -> Path:
    """Lawful: torch itself, told to write none."""
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.arange(4.0)}, folder / "m.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    return folder / "m.pt"


@read()
def read_only_file(folder: Path) -> Path:
    """Lawful: a file nobody may write to."""
    path = good_zip(folder / "m.pt")
    path.chmod(0o400)
    return path
