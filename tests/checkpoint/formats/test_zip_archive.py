from __future__ import annotations

import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collapsekit.checkpoint.formats import zip_archive as module
from collapsekit.checkpoint.formats.layout import DamagedError, Extent, LimitError
from collapsekit.checkpoint.formats.source import read_bytes
from collapsekit.checkpoint.formats.zip_archive import member_names, open_archive
from tests.hostile.zipper import Member, end, sparse, zip64_end

LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
TWO = {"a/x": b"content of x", "a/y": b"and of y"}


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytearray:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return bytearray(buffer.getvalue())


@pytest.fixture(scope="module")
def spot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    return tmp_path_factory.mktemp("zip") / "z"


def opened(spot: Path, data: bytes) -> module.Archive:
    spot.write_bytes(data)
    return open_archive(Extent(spot, 0, len(data)))


def says(spot: Path, data: bytes, words: str) -> None:
    with pytest.raises(DamagedError) as e:
        opened(spot, data)
    assert words in str(e.value)


safe = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(safe, st.binary(max_size=30), max_size=5), st.binary(max_size=5), st.binary(max_size=5), st.data()
)
def test_members_are_where_zipfile_finds_them(
    spot: Path, members: dict[str, bytes], before: bytes, after: bytes, data: st.DataObject
) -> None:
    if len({name.lower() for name in members}) < len(members):
        return
    raw = bytes(zipped(members))
    spot.write_bytes(before + raw + after)
    extent = Extent(spot, len(before), len(raw))
    got = open_archive(extent)
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        want = {name: archive.read(name) for name in archive.namelist()}
    assert {name: read_bytes(place, 99, name) for name, place in got.members.items()} == want
    assert got.checksummed == any(zipfile.crc32(content) for content in members.values())
    assert member_names(extent) == list(want)
    name = data.draw(st.sampled_from([*members, "other"]))
    assert got.member(name.removeprefix(got.root)) == got.members.get(got.root + name.removeprefix(got.root))


def test_root_is_the_folder_of_the_first_member(spot: Path) -> None:
    got = opened(spot, zipped(TWO))
    assert got.root == "a/"
    assert read_bytes(got.member("y"), 99, "y") == b"and of y"  # type: ignore[arg-type]
    assert got.member("a/y") is None
    assert opened(spot, zipped({})).root == "/"


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_member_is_refused(spot: Path, method: int) -> None:
    says(spot, zipped(TWO, method), "its member 'a/x' is compressed")


def test_names_of_what_is_no_archive(spot: Path) -> None:
    spot.write_bytes(b"PK\x03\x04 and no more")
    assert member_names(Extent(spot, 0, 17)) == []
    assert member_names(Extent(spot.with_name("gone"), 0, 17)) == []
    says(spot, spot.read_bytes(), "not a zip file")


Change = Callable[[bytearray], bytes]


def at(magic: bytes, offset: int, form: str, *values: int) -> Change:
    """Values written over the bytes at an offset behind the first ``magic``."""

    def change(raw: bytearray) -> bytes:
        struct.pack_into(form, raw, raw.index(magic) + offset, *values)
        return raw

    return change


def both(*changes: Change) -> Change:
    def change(raw: bytearray) -> bytes:
        for each in changes:
            raw = bytearray(each(raw))
        return raw

    return change


def replaced(old: bytes, new: bytes, count: int = -1) -> Change:
    return lambda raw: raw.replace(old, new, count)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (at(CENTRAL, 8, "<H", 1), "'a/x' is encrypted"),
        (at(CENTRAL, 20, "<L", 3), "two sizes, 12 and 3"),
        (replaced(b"a/x", b"a\0x"), "has a NUL in its name"),
        (lambda raw: zipped({"a/x": b"", "A/X": b""}), "two members named 'A/X'"),
        (at(LOCAL, 0, "<4s", b"PKxx"), "'a/x' is not where the directory says"),  # type: ignore[arg-type]
        (replaced(b"a/x", b"a/z", 1), "disagree about its name"),
        (at(LOCAL, 8, "<H", 8), "disagree about its name"),
        (at(LOCAL, 18, "<2L", 11, 11), "disagree about its size"),
        (at(LOCAL, 18, "<2L", 0xFFFFFFFF, 12), "disagree about its size"),
        (at(LOCAL, 14, "<L", 1), "disagree about its size"),
        (both(at(LOCAL, 14, "<L", 1), at(CENTRAL, 16, "<L", 1)), "'a/x' does not match its CRC-32"),
        (replaced(b"content", b"contend"), "'a/x' does not match its CRC-32"),
        (lambda raw: bytes(raw) + b"more", "something follows its directory"),
        (lambda raw: b"more" + bytes(raw), "something precedes its first member"),
        (at(END, 20, "<H", 1), "something follows its directory"),
        (lambda raw: raw[:-1], ""),
        (both(at(LOCAL, 18, "<2L", 30, 30), at(CENTRAL, 20, "<2L", 30, 30)), "overlap"),
    ],
)
def test_an_archive_that_is_not_by_the_letter(spot: Path, change: Change, words: str) -> None:
    opened(spot, zipped(TWO))
    says(spot, change(zipped(TWO)), words)


@pytest.mark.parametrize(
    "change",
    [
        at(LOCAL, 18, "<2L", 0xFFFFFFFF, 0xFFFFFFFF),  # the sizes stand in a zip64 record
        both(at(LOCAL, 6, "<H", 8), at(LOCAL, 14, "<3L", 0, 0, 0), at(CENTRAL, 8, "<H", 8)),  # or behind the data
    ],
)
def test_sizes_may_stand_elsewhere(spot: Path, change: Change) -> None:
    assert read_bytes(opened(spot, change(zipped(TWO))).members["a/x"], 99, "x") == b"content of x"


DESCRIBED = Member("a/x", b"content of x", flags=8)


def described(behind: bytes, member: Member = DESCRIBED) -> bytes:
    """An archive of two, the first of which has something behind its bytes."""
    first, second = member.local() + behind, Member("a/y", b"and of y")
    directory = member.central(0) + second.central(len(first))
    body = first + second.local()
    return body + directory + end(2, len(directory), len(body))


CRC = zlib.crc32(b"content of x")


@pytest.mark.parametrize(
    ("behind", "member", "good"),
    [
        (b"", DESCRIBED, True),
        (struct.pack("<4s3L", b"PK\x07\x08", CRC, 12, 12), DESCRIBED, True),
        (struct.pack("<4sL2Q", b"PK\x07\x08", CRC, 12, 12), DESCRIBED, True),
        (struct.pack("<4sL2Q", b"PK\x07\x08", CRC, 12, 12), Member("a/x", b"content of x"), False),
        (struct.pack("<4s3L", b"PK\x07\x08", CRC, 12, 13), DESCRIBED, False),
        (struct.pack("<4s3L", b"PK\x07\x08", CRC + 1, 12, 12), DESCRIBED, False),
        (struct.pack("<4s3L", b"PK\x07\x08", CRC, 12, 12) + b"x", DESCRIBED, False),
        (b"x", DESCRIBED, False),
        (b"x" * 5000, DESCRIBED, False),
    ],
)
def test_only_its_own_sizes_may_stand_behind_a_member(spot: Path, behind: bytes, member: Member, good: bool) -> None:
    raw = described(behind, member)
    if good:
        assert list(opened(spot, raw).members) == ["a/x", "a/y"]
    else:
        says(spot, raw, "something that belongs to no member follows its member 'a/x'")


def test_a_stream_that_cannot_go_back_leaves_sizes_behind(spot: Path) -> None:
    class Forward(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise OSError

    stream = Forward()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in TWO.items():
            with archive.open(name, "w", force_zip64=name.endswith("y")) as member:
                member.write(content)
    got = opened(spot, stream.getvalue())
    assert {name: read_bytes(place, 99, name) for name, place in got.members.items()} == TWO


def in_zip64(**changes: int) -> bytes:
    members = [Member("a/x", b"content of x"), Member("a/y", b"and of y")]
    body, directory = b"", b""
    for member in members:
        directory += member.central(len(body))
        body += member.local()
    said = {"count": 2, "size": len(directory), "at": len(body), "record_at": len(body + directory)} | changes
    return body + directory + zip64_end(**said)


def test_end_records_in_zip64(spot: Path) -> None:
    assert list(opened(spot, in_zip64()).members) == ["a/x", "a/y"]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (in_zip64(count=1), "its end record and its directory of 2 members disagree"),
        (in_zip64(record_at=0), "its zip64 records are not where they say"),
        (in_zip64().replace(struct.pack("<Q2H", 44, 45, 45), struct.pack("<Q2H", 45, 45, 45)), "zip64 records"),
        (in_zip64().replace(b"\xff\xff\xff\xff\xff\xff", b"\x01\0\xff\xff\xff\xff"), "directory of 2 members"),
        (at(END, 8, "<H", 1)(zipped(TWO)), "its end record and its directory of 2 members disagree"),
        (at(END, 10, "<H", 3)(zipped(TWO)), "its end record and its directory of 2 members disagree"),
        (at(END, 8, "<2H", 0xFFFF, 0xFFFF)(zipped(TWO)), "its end record and its directory of 2 members disagree"),
    ],
)
def test_end_records_that_disagree_with_the_directory(spot: Path, raw: bytes, words: str) -> None:
    says(spot, raw, words)


def test_nothing_is_held_against_checksums_that_were_not_written(spot: Path) -> None:
    raw = zipped(TWO)
    for info in zipfile.ZipFile(io.BytesIO(raw)).infolist():
        raw = raw.replace(struct.pack("<L", info.CRC), bytes(4))
    got = opened(spot, raw)
    assert not got.checksummed
    assert list(got.members) == ["a/x", "a/y"]


def test_checksums_are_taken_over_any_number_of_chunks(spot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 5)
    assert opened(spot, zipped(TWO)).checksummed


def test_members_without_number(spot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_MEMBERS", 1)
    says(spot, zipped(TWO), "it has 2 members, more than the 1 that are read")
    with pytest.raises(LimitError):  # they are counted before they are listed
        member_names(Extent(spot, 0, spot.stat().st_size))
    monkeypatch.setattr(module, "_MAX_MEMBERS", 2)
    assert member_names(Extent(spot, 0, spot.stat().st_size)) == ["a/x", "a/y"]
    monkeypatch.setattr(module, "_MAX_DIRECTORY", 90)
    says(spot, zipped(TWO), "its directory has 98 bytes, more than the 90 that are read")


def test_an_archive_within_an_archive_sees_only_itself(spot: Path) -> None:
    inner = bytes(zipped({"b/z": b"inner"}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outer = opened(spot, zipped({"a/x": inner, "a/y": b"y"}))
    within = open_archive(outer.members["a/x"])
    assert read_bytes(within.members["b/z"], 99, "z") == b"inner"


def test_holes_are_summed_and_what_breaks_off_is_noticed(tmp_path: Path) -> None:
    size = 5 << 20
    members: list[tuple[str, bytes | int]] = [("a/x", b"before"), ("a/hole", size), ("a/y", b"behind")]
    path = sparse(tmp_path / "sparse", members)
    whole = Extent(path, 0, path.stat().st_size)
    assert open_archive(whole).members["a/hole"].length == size
    with path.open("r+b") as stream:  # one byte in the middle of the hole
        stream.seek(size // 2)
        stream.write(b"\1")
    with pytest.raises(DamagedError, match="'a/hole' does not match its CRC-32"):
        open_archive(whole)
    with zipfile.ZipFile(sparse(path, members)) as archive, path.open("rb") as stream:
        info = archive.getinfo("a/y")
        with pytest.raises(DamagedError, match="'a/y' does not match"):
            module._check_sum(stream, info, Extent(path, path.stat().st_size - 3, 6))
