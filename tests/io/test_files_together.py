"""Files that several processes write at once, and what killed ones leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collapsekit.errors import ConfigError
from collapsekit.io import files, locks
from collapsekit.io.files import append_text, write_atomic
from collapsekit.io.locks import locked
from tests.several import ROOT

LEFT = ".file.txt.0123456789abcdef"


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@contextmanager
def stopped_where(code: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that ran ``code`` up to a line it prints, and waits; it is killed in the end."""
    script = "from pathlib import Path\nimport os, time\n"
    script += "from collapsekit.io import files\nfrom collapsekit.io.files import *\n"
    script += "from collapsekit.io.locks import locked\n"
    script += "def wait(*_):\n    print('here', flush=True)\n    time.sleep(600)\n" + textwrap.dedent(code)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        try:
            yield process
        finally:
            process.kill()


WRITING = "os.fsync = wait\nwrite_atomic(Path('file.txt'), 'theirs')"


def test_what_a_killed_write_left_is_removed_by_the_next(tmp_path: Path) -> None:
    with stopped_where(WRITING, tmp_path) as process:
        (left,) = names(tmp_path)
        assert left.startswith(".file.txt.")
        write_atomic(tmp_path / "other.txt", "another file's")
        write_atomic(tmp_path / "file.txt", "ours")  # while that one lives, its file stays
        assert names(tmp_path) == [left, "file.txt", "other.txt"]
        process.send_signal(signal.SIGSTOP)
        write_atomic(tmp_path / "file.txt", "ours")
        assert left in names(tmp_path)
    write_atomic(tmp_path / "file.txt", "again")
    assert names(tmp_path) == ["file.txt", "other.txt"]
    assert (tmp_path / "file.txt").read_text() == "again"


def test_only_files_of_that_very_name_and_pattern_are_removed(tmp_path: Path) -> None:
    others = [
        ".file.txt.0123456789abcde",
        ".file.txt.0123456789abcdef0",
        ".file.txt.0123456789ABCDEF",
        ".file.txt.swp",
        ".file_txt.0123456789abcdef",
        ".file.txt.bak.0123456789abcdef",
        "x.file.txt.0123456789abcdef",
        "file.txt.0123456789abcdef",
    ]
    for name in others:
        (tmp_path / name).write_text("x")
    (tmp_path / ".file.txt.1111111111111111").mkdir()
    (tmp_path / ".file.txt.2222222222222222").symlink_to("file.txt.0123456789abcdef")
    os.mkfifo(tmp_path / ".file.txt.3333333333333333")
    before = names(tmp_path)
    (tmp_path / LEFT).write_text("half")
    write_atomic(tmp_path / "file.txt", "new")
    assert names(tmp_path) == sorted([*before, "file.txt"])
    assert (tmp_path / "file.txt.0123456789abcdef").read_text() == "x"


def test_files_of_others_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / LEFT).write_text("half")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    write_atomic(tmp_path / "file.txt", "new")
    assert names(tmp_path) == [LEFT, "file.txt"]


def test_long_names_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    one, other = ("x" * 200 + end for end in "ab")
    temporary = f".{files.short_name(other)}.0123456789abcdef"
    (tmp_path / temporary).write_text("half")
    write_atomic(tmp_path / one, "new")
    assert temporary in names(tmp_path)
    write_atomic(tmp_path / other, "new")
    assert names(tmp_path) == [one, other]


def test_a_file_taken_for_a_left_one_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process sweeps between the making of the file and its mark, or before it is opened for that."""
    marked, taken = files.mark_in_use, list[Path]()

    def late(path: Path, *, wait: bool = True) -> int | None:
        taken.append(path)
        if len(taken) == 1:
            handle = marked(path, wait=wait)
            path.unlink()
            return handle
        if len(taken) == 2:
            path.unlink()
        return marked(path, wait=wait)

    monkeypatch.setattr(files, "mark_in_use", late)
    write_atomic(tmp_path / "file.txt", "new")
    assert len(taken) == 3
    assert names(tmp_path) == ["file.txt"]
    assert (tmp_path / "file.txt").read_text() == "new"


def test_many_writers_of_one_file_never_fail(tmp_path: Path) -> None:
    """Each sweeps while the others write."""
    failed = []

    def write(number: int) -> None:
        try:
            for _ in range(50):
                write_atomic(tmp_path / "file.txt", str(number) * 1000)
        except BaseException as e:  # noqa: BLE001 - told below
            failed.append(e)

    threads = [threading.Thread(target=write, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert names(tmp_path) == ["file.txt"]
    assert len(set((tmp_path / "file.txt").read_text())) == 1


# -- locks -------------------------------------------------------------------------------------------------------------


def test_a_lock_keeps_others_out_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with locked(path):
        with pytest.raises(ConfigError, match=r"file\.txt is being written by another process: let that one end"):
            with locked(path, wait=0):
                pass
        with pytest.raises(ConfigError, match=r"which has not ended within 0\.05 s"), locked(path, wait=0.05):
            pass
        with locked(tmp_path / "other.txt", wait=0):
            pass
    with locked(path, wait=0):
        path.write_text("x")
    assert names(tmp_path) == ["file.txt"]


def test_a_killed_holder_does_not_block(tmp_path: Path) -> None:
    with stopped_where("with locked(Path('file.txt')):\n    wait()", tmp_path), pytest.raises(ConfigError):
        with locked(tmp_path / "file.txt", wait=0):
            pass
    assert names(tmp_path) == [".file.txt.collapsekit-lock"]
    with locked(tmp_path / "file.txt", wait=5):
        pass
    assert names(tmp_path) == []


def test_no_two_hold_a_lock_that_is_removed_meanwhile(tmp_path: Path) -> None:
    """Counting in a file, by threads that each take and remove the lock."""
    path, failed = tmp_path / "deep" / "count", list[BaseException]()

    def count() -> None:
        try:
            for _ in range(50):
                with locked(path):
                    before = int(path.read_text()) if path.exists() else 0
                    path.write_text(str(before + 1))
        except BaseException as e:  # noqa: BLE001 - told below
            failed.append(e)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert path.read_text() == "200"
    assert names(path.parent) == ["count"]


def test_folders_made_for_a_lock_go_where_nothing_is_written(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b" / "file.txt"):
        assert (tmp_path / "a" / "b").is_dir()
    assert names(tmp_path) == []
    with locked(tmp_path / "a" / "b" / "file.txt"):
        (tmp_path / "a" / "note").write_text("x")
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["note"]


def test_where_no_lock_can_be_made_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / ".user.collapsekit-lock").write_text("the user's own")
    (tmp_path / ".linked.collapsekit-lock").symlink_to("file")
    (tmp_path / ".folder.collapsekit-lock").mkdir()
    for name in ("file/below", "a\0b", "user", "linked", "folder"):
        with pytest.raises(ConfigError, match="cannot be written"), locked(tmp_path / name):
            pass
    assert (tmp_path / ".user.collapsekit-lock").read_text() == "the user's own"
    assert (tmp_path / "file").read_text() == "x"


def test_an_error_inside_is_the_callers_own(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="mine"), locked(tmp_path / "x"):
        raise OSError("mine")
    assert names(tmp_path) == []


def test_what_several_append_is_not_mixed(tmp_path: Path) -> None:
    path, texts = tmp_path / "summary.md", [letter * 200_000 + "\n" for letter in "abcd"]
    threads = [threading.Thread(target=append_text, args=[path, text]) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.read_text().splitlines(keepends=True)) == texts


def test_appending_waits_for_a_lock_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr(locks, "WAIT", 0.1)
    path = tmp_path / "summary.md"
    with path.open("ab") as held:
        fcntl.flock(held.fileno(), fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match=r"summary\.md is being written by another process"):
            append_text(path, "x")
    append_text(path, "y")
    assert path.read_text() == "y"


def test_where_files_cannot_be_marked_they_are_written_and_nothing_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / LEFT).write_text("half")
    monkeypatch.setattr(files, "mark_in_use", lambda path, wait=True: None)
    write_atomic(tmp_path / "file.txt", "new")
    assert (tmp_path / "file.txt").read_text() == "new"
    assert names(tmp_path) == [LEFT, "file.txt"]
