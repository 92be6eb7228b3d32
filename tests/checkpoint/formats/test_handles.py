from __future__ import annotations

import fcntl
import mmap
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from collapsekit.checkpoint.formats import handles
from collapsekit.checkpoint.formats.handles import Look, identity, one_look, open_regular, stream_of
from collapsekit.errors import RefusedError

CHANGED = "changed while it was being read"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(b"content")
    return tmp_path / "a"


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What is opened from here on."""
    done: list[Path] = []
    real = open_regular

    def opened(path: Path) -> Any:
        done.append(path)
        return real(path)

    monkeypatch.setattr(handles, "open_regular", opened)
    return done


def count_open() -> int:
    """0 where the system does not tell."""
    own = Path("/proc/self/fd")
    return len(list(own.iterdir())) if own.exists() else 0


def test_a_look_opens_each_file_once(file: Path, opens: list[Path]) -> None:
    with one_look() as look:
        for _ in range(3):
            with stream_of(file) as stream:
                stream.seek(0)
                assert stream.read() == b"content"
        with one_look() as inner:
            assert inner is look
        assert look.identity(file) == look.identity_if_open(file) == identity(file.stat())
        assert look.identity_if_open(file.parent / "other") is None
        assert opens == [file]
    assert stream.closed
    with stream_of(file) as alone:
        assert alone.read() == b"content"
    assert alone.closed
    assert opens == [file, file]


def test_what_replaces_a_file_is_not_seen(file: Path) -> None:
    with one_look() as look:
        with stream_of(file):
            pass
        (file.parent / "b").write_bytes(b"another")
        (file.parent / "b").replace(file)
        with stream_of(file) as stream:
            assert stream.read() == b"content"
        with pytest.raises(RefusedError, match=CHANGED):
            look.check()


def test_of_many_files_few_are_open_and_each_is_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handles, "MAX_OPEN", 2)
    paths = [tmp_path / str(i) for i in range(5)]
    for path in paths:
        path.write_text(path.name)
    before = count_open()
    with one_look() as look:
        for path in paths * 2:
            with stream_of(path) as stream:
                stream.seek(0)
                assert stream.read().decode() == path.name
        if before:
            assert count_open() == before + 2
        look.check()
        paths[0].write_text("other")
        with pytest.raises(RefusedError, match=CHANGED), stream_of(paths[0]):
            pass
        with pytest.raises(RefusedError, match=CHANGED):
            look.check()
        paths[0].unlink()
        with pytest.raises(RefusedError, match=CHANGED):
            look.check()


def test_the_clock_has_moved_on_since_the_last_write(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(handles.time, "sleep", waits.append)
    last = max(identity(file.stat())[3:])
    for age in (-1, 0, 15_000_000, 20_000_000, 10**12):
        monkeypatch.setattr(handles.time, "time_ns", lambda age=age: last + age)
        look = Look(patient=True)
        assert look.identity(file) == identity(file.stat())
        look.close()
    assert waits == [0.02, 0.005]

    def write(_: float) -> None:
        file.write_bytes(b"another, and longer")

    monkeypatch.setattr(handles.time, "time_ns", lambda: last)
    monkeypatch.setattr(handles.time, "sleep", write)
    look = Look(patient=True)
    with pytest.raises(RefusedError, match=CHANGED):
        look.stream(file)
    look.close()


def test_file_systems_are_told_by_their_device(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if Path("/proc/self/mountinfo").exists():
        assert handles._file_system(Path("/proc").stat().st_dev) == "proc"
    assert handles._file_system(os.makedev(4000, 4000)) == ""

    def gone(*_: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", gone)
    assert handles._file_system(file.stat().st_dev) == ""


@pytest.fixture
def local(file: Path) -> None:
    if not hasattr(fcntl, "F_SETLEASE") or handles._file_system(file.stat().st_dev) not in handles._LEASING:
        pytest.skip("needs leases as Linux gives them on file systems of its own")


@pytest.mark.usefixtures("local")
def test_a_file_that_somebody_may_write_to_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "a is open for writing in some process: wait until it is written and closed"
    os.utime(file, ns=(1, 1))

    def look() -> None:
        found = Look(patient=True)
        try:
            found.stream(file)
        finally:
            found.close()

    with file.open("r+b") as writer:
        with pytest.raises(RefusedError, match=said):
            look()
        with mmap.mmap(writer.fileno(), 0):
            writer.close()
            with pytest.raises(RefusedError, match=said):
                look()
    look()
    for lacks in (lambda *_: _raise(OSError(13, "Permission denied")), lambda *_: _raise(OSError(22, "Invalid"))):
        with monkeypatch.context() as patch, file.open("r+b"):
            patch.setattr(fcntl, "fcntl", lacks)  # another's file, or a file system without leases
            look()
    with monkeypatch.context() as patch, file.open("r+b"):
        patch.setattr(handles, "_file_system", lambda _: "nfs4")
        look()
    monkeypatch.setattr(handles, "fcntl", None)
    with file.open("r+b"):
        look()


def _raise(error: OSError) -> None:
    raise error


def test_only_regular_files_are_opened_and_nothing_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    before = os.dup(0)
    os.close(before)
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/null")):
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "gone")
    after = os.dup(0)
    os.close(after)
    assert after == before  # nothing was left open


def test_where_there_are_no_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    assert runpy.run_path(handles.__file__)["fcntl"] is None
