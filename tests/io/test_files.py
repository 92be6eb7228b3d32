"""Reading within a bound; replacing whole or not at all, whatever step fails."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from collapsekit.errors import ConfigError
from collapsekit.io.files import append_text, is_file, read_text, reason, write_atomic


def test_replaces_whole_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_atomic(path, "one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    write_atomic(path, "old")

    def fail(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_files_are_as_readable_as_others(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    before = os.umask(0o027)
    try:
        plain.write_text("x")
        assert write_atomic(tmp_path / "ours", "x").stat().st_mode == plain.stat().st_mode
    finally:
        os.umask(before)


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_atomic(tmp_path / "file" / "below", "x")


# -- what fails on the way ---------------------------------------------------------------------------------------------


class Failing(io.FileIO):
    """A file that takes three bytes and then fails."""

    error = OSError()

    def write(self, data: Any) -> int:
        super().write(bytes(data)[:3])
        raise self.error


class FailingLate(io.FileIO):
    """A file that fails when it is closed, as on a network disk over its quota."""

    error = OSError()

    def close(self) -> None:
        was_open = not self.closed
        super().close()
        if was_open:
            raise self.error


def opening(kind: type[Failing] | type[FailingLate]) -> Callable[..., Any]:
    real = Path.open

    def fake(self: Path, mode: str = "r", **more: Any) -> Any:
        return kind(self, mode.replace("b", "")) if "x" in mode else real(self, mode, **more)

    return fake


def inject(step: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ``step`` of a write fail as the system would; everything else works."""
    error = OSError(number, os.strerror(number))
    real_sync, real_open = os.fsync, os.open

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    def sync(handle: int) -> None:
        folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        if folder == (step == "sync the folder"):
            raise error
        real_sync(handle)

    def open_(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_DIRECTORY:
            raise error
        return real_open(path, flags, *more, **named)

    match step:
        case "look":
            monkeypatch.setattr(os, "stat", fail)
        case "make the folder":
            monkeypatch.setattr(Path, "mkdir", fail)
        case "open":
            real = Path.open
            monkeypatch.setattr(
                Path, "open", lambda self, mode="r", **k: fail() if "x" in mode else real(self, mode, **k)
            )
        case "write" | "close":
            kind = Failing if step == "write" else FailingLate
            monkeypatch.setattr(kind, "error", error)
            monkeypatch.setattr(Path, "open", opening(kind))
        case "sync" | "sync the folder":
            monkeypatch.setattr(os, "fsync", sync)
        case "replace":
            monkeypatch.setattr(os, "replace", fail)
        case "open the folder":
            monkeypatch.setattr(os, "open", open_)


BEFORE = ("look", "make the folder", "open", "write", "sync", "close", "replace")
AFTER = ("open the folder", "sync the folder")
NUMBERS = (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def open_files() -> int:
    """How many this process has open; 0 where the system does not tell."""
    place = Path("/proc/self/fd")
    return len(list(place.iterdir())) if place.is_dir() else 0


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
@pytest.mark.parametrize("step", BEFORE + AFTER)
def test_whatever_step_fails_a_whole_file_is_there_and_nothing_else(
    step: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    write_atomic(path, "old")
    before = open_files()
    with monkeypatch.context() as patch:
        inject(step, number, patch)
        with pytest.raises(ConfigError) as caught:
            write_atomic(path, "new contents")
    assert caught.value.exit_code == 2
    said = str(caught.value)
    assert said.startswith(f"{path} cannot be written: {os.strerror(number)};")
    assert "\n" not in said
    assert path.read_text() == ("old" if step in BEFORE else "new contents")
    assert names(tmp_path) == ["file.txt"]
    assert open_files() == before


@pytest.mark.parametrize("step", BEFORE)
def test_a_new_file_that_fails_is_not_there(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        inject(step, errno.ENOSPC, patch)
        with pytest.raises(ConfigError, match="No space left"):
            write_atomic(tmp_path / "file.txt", "new")
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM], ids=errno.errorcode.get)
@pytest.mark.parametrize("step", AFTER)
def test_a_file_system_that_cannot_flush_folders_takes_the_file(
    step: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        inject(step, number, patch)
        assert write_atomic(tmp_path / "file.txt", "new").read_text() == "new"
    assert names(tmp_path) == ["file.txt"]


def test_a_system_without_folder_handles_takes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "O_DIRECTORY")
    assert write_atomic(tmp_path / "file.txt", "new").read_text() == "new"


def test_the_folder_is_flushed_after_the_replacement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File, then name, then folder: in another order a power cut could leave an empty file under the name."""
    order = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(handle: int) -> None:
        order.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        real_sync(handle)

    def replace(source: Any, target: Any) -> None:
        order.append("replace")
        assert Path(source).read_text() == "new"
        assert Path(source).parent == Path(target).parent
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    write_atomic(tmp_path / "file.txt", "new")
    assert order == ["file", "replace", "folder"]


# -- odd targets -------------------------------------------------------------------------------------------------------


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    """Replacing /dev/null or /dev/stdout, as root can, would break it for everyone."""
    pipe, link, folder = tmp_path / "pipe", tmp_path / "link", tmp_path / "folder"
    os.mkfifo(pipe)
    link.symlink_to("/dev/null")
    folder.mkdir()
    for path in (pipe, link, folder, Path(), Path("/"), Path("..")):
        before = os.lstat(path)
        with pytest.raises(ConfigError, match="what is there is not a regular file"):
            write_atomic(path, "x")
        assert os.lstat(path).st_ino == before.st_ino
    assert names(tmp_path) == ["folder", "link", "pipe"]


@pytest.mark.parametrize("name", ["x" * 255, "β" * 127, "x" * 246 + ".html"])
def test_a_name_as_long_as_names_can_be(name: str, tmp_path: Path) -> None:
    path = write_atomic(tmp_path / name, "new")
    assert path.read_text() == "new"
    assert names(tmp_path) == [name]


@pytest.mark.parametrize(("name", "says"), [("x" * 256, "File name too long"), ("a\0b", "null")])
def test_names_no_file_can_have(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        write_atomic(tmp_path / name, "x")
    assert not is_file(tmp_path / name)
    with pytest.raises(OSError, match=says):
        read_text(tmp_path / name, 10)


def test_half_characters_become_escapes(tmp_path: Path) -> None:
    assert write_atomic(tmp_path / "x", "a\udcffβ").read_bytes() == b"a\\udcff\xce\xb2"


# -- reading -----------------------------------------------------------------------------------------------------------


def test_text_is_read_within_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\xef\xbb\xbf\xce\xb2")
    assert read_text(path, 5) == "β"
    with pytest.raises(OSError, match="5 bytes, more than the 4"):
        read_text(path, 4)


def test_a_file_that_hides_its_size_is_read_within_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_text("12345")
    real = os.stat

    def small(p: Any, **more: Any) -> os.stat_result:
        info = list(real(p, **more))
        info[stat.ST_SIZE] = 0
        return os.stat_result(info)

    monkeypatch.setattr(os, "stat", small)
    assert read_text(path, 5) == "12345"
    with pytest.raises(OSError, match="more than the 4 bytes"):
        read_text(path, 4)


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    """Pipes included: opening one would wait for a writer for ever."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "latin").write_bytes(b"ab\xe9")
    said = {
        "pipe": "not a regular file",
        "loop": "symbolic links",
        "gone": "No such file",
        "latin": "not UTF-8 text (byte 0xe9 at position 2)",
        ".": "not a regular file",
        "none": "No such file",
    }
    for name, words in said.items():
        with pytest.raises(OSError) as caught:
            read_text(tmp_path / name, 100)
        assert words in reason(caught.value)
        assert str(tmp_path) not in reason(caught.value)


def test_text_is_added_to_the_end(tmp_path: Path) -> None:
    file = tmp_path / "summary.md"
    append_text(file, "one\n")
    append_text(file, "tw\ud800o\n")
    assert file.read_text() == "one\ntw\\ud800o\n"


@pytest.mark.parametrize("name", ["no/summary.md", "a\0b"])
def test_where_nothing_can_be_added_it_is_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        append_text(tmp_path / name, "x")
