from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collapsekit.checkpoint.formats import holes
from collapsekit.checkpoint.formats.holes import MIN_HOLE, crc32_of_zeros, runs, stored_bytes

BLOCK = 4096  # of a file system, at most


def sparse(path: Path, data: Sequence[int], size: int) -> Path:
    """A file of a size with a block of ones at each place."""
    with path.open("wb") as stream:
        for at in data:
            stream.seek(at)
            stream.write(b"\1" * BLOCK)
        stream.truncate(size)
    return path


def has_holes(folder: Path) -> bool:
    info = sparse(folder / "probe", (), 1 << 24).stat()
    return hasattr(os, "SEEK_HOLE") and info.st_blocks * 512 < info.st_size


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("holes")
    if not has_holes(made):
        pytest.skip("this file system has no holes")
    return made


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(0, 5 * MIN_HOLE))
def test_zeros_are_reckoned_as_they_would_be_read(crc: int, count: int) -> None:
    assert crc32_of_zeros(crc, count) == zlib.crc32(bytes(count), crc)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**45), st.integers(0, 2**45))
def test_zeros_behind_zeros(crc: int, one: int, two: int) -> None:
    assert crc32_of_zeros(crc32_of_zeros(crc, one), two) == crc32_of_zeros(crc, one + two)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=6, unique=True), st.integers(0, 45), st.data())
def test_runs_are_the_bytes_in_order(folder: Path, blocks: list[int], extra: int, data: st.DataObject) -> None:
    places = sorted(b * (MIN_HOLE // 4) for b in blocks)
    size = (places[-1] + BLOCK if places else 0) + extra * (MIN_HOLE // 4) + 1
    path = sparse(folder / "runs", places, size)
    begin = data.draw(st.integers(0, size))
    end = data.draw(st.integers(begin, size))
    with path.open("rb") as stream:
        stream.seek(7)
        found = list(runs(stream, begin, end))
        assert stream.tell() == 7
        whole = path.read_bytes()
        at = begin
        for start, stop, hole in found:
            assert start == at < stop
            assert not hole or (stop - start >= MIN_HOLE and not any(whole[start:stop]))
            at = stop
        assert at == end
        stored = stored_bytes(stream)
    assert len(places) * BLOCK <= stored <= len(places) * 16 * BLOCK + 16 * BLOCK


def test_holes_of_a_sparse_file_do_not_count_as_stored(folder: Path) -> None:
    path = sparse(folder / "large", (0, 1 << 30), 1 << 40)
    with path.open("rb") as stream:
        assert 2 * BLOCK <= stored_bytes(stream) <= 1 << 20
    (folder / "whole").write_bytes(b"x" * 5000)
    with (folder / "whole").open("rb") as stream:
        assert stored_bytes(stream) == 5000
        assert list(runs(stream, 10, 20)) == [(10, 20, False)]
        assert list(runs(stream, 10, 10)) == []


def test_of_very_many_holes_the_file_system_is_believed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sparse(folder / "many", [i * MIN_HOLE for i in range(6)], 1 << 40)
    with path.open("rb") as stream:
        exact = stored_bytes(stream)
        monkeypatch.setattr(holes, "_MAX_COUNTED", 3)
        assert exact == stored_bytes(stream) == path.stat().st_blocks * 512


@pytest.mark.parametrize("lacks", [lambda m: m.delattr(os, "SEEK_HOLE"), lambda m: m.setattr(os, "lseek", _cannot)])
def test_where_holes_cannot_be_told_all_is_stored(folder: Path, lacks: Callable[[pytest.MonkeyPatch], None]) -> None:
    path = sparse(folder / "untold", (), 3 * MIN_HOLE)
    with path.open("rb") as stream, pytest.MonkeyPatch.context() as patch:
        lacks(patch)
        assert stored_bytes(stream) == 3 * MIN_HOLE
        assert list(runs(stream, 0, 3 * MIN_HOLE)) == [(0, 3 * MIN_HOLE, False)]


def _cannot(descriptor: int, at: int, whence: int) -> int:
    if whence not in (os.SEEK_SET, os.SEEK_CUR):
        raise OSError(22, "Invalid argument")
    return at
