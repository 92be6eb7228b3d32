"""Places for output are tried before the work, and nothing is left of that."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from collapsekit.errors import ConfigError
from collapsekit.io.files import write_atomic
from collapsekit.io.writable import check_file, check_folder, check_room


def everything(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("path", ["out.json", "new/out.json", "a/b/c/out.json", "there/out.json"])
def test_what_can_be_written_leaves_no_trace(tmp_path: Path, path: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "out.json").write_text("before")
    before = everything(tmp_path)
    check_file(tmp_path / path, "--output")
    check_folder((tmp_path / path).parent, "--output", ["out.json", "other.md"])
    assert everything(tmp_path) == before
    assert (tmp_path / "there" / "out.json").read_text() == "before"
    write_atomic(tmp_path / path, "after")  # and so it can


def spoil(folder: Path) -> dict[str, Path]:
    """Places that cannot be written, each for a reason of its own."""
    (folder / "file").write_text("")
    (folder / "folder" / "report.json").mkdir(parents=True)
    os.mkfifo(folder / "pipe")
    (folder / "gone").symlink_to(folder / "gone")
    return {
        "under a file": folder / "file" / "report.json",
        "far under a file": folder / "file" / "a" / "report.json",
        "a folder": folder / "folder" / "report.json",
        "a pipe": folder / "pipe",
        "a loop of links": folder / "gone" / "report.json",
        "too long": folder / ("n" * 300) / "report.json",
        "a name too long": folder / ("n" * 300),
        "NUL": folder / "a\0b",
        "no file system": Path("/proc/nothing/report.json"),
        "the root": Path("/"),
    }


NAMES = [
    "under a file",
    "far under a file",
    "a folder",
    "a pipe",
    "a loop of links",
    "too long",
    "a name too long",
    "NUL",
]


@pytest.mark.parametrize("name", [*NAMES, "no file system", "the root"])
def test_a_file_that_cannot_be_written_is_one_sentence_and_no_trace(tmp_path: Path, name: str) -> None:
    path = spoil(tmp_path)[name]
    before = everything(tmp_path)
    with pytest.raises(ConfigError, match=r"--output .*cannot be written: .+; choose another place") as said:
        check_file(path, "--output")
    assert "\n" not in str(said.value)
    assert everything(tmp_path) == before
    with pytest.raises((ConfigError, OSError)):  # which is why
        write_atomic(path, "x")


def test_a_folder_that_is_a_file_or_holds_folders_in_the_place_of_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "out" / "report.json").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"--output .*file cannot be written: what is there is not a folder"):
        check_folder(tmp_path / "file", "--output")
    with pytest.raises(ConfigError, match=r"report\.json is there and is not a regular file"):
        check_folder(tmp_path / "out", "--output", ["report.json"])
    check_folder(tmp_path / "out", "--output", ["report.md"])


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(Path, "open", refuse)  # root may write everywhere
    with pytest.raises(ConfigError, match=r"--output .*cannot be written: Read-only file system"):
        check_folder(tmp_path / "new", "--output")
    assert everything(tmp_path) == []


def test_a_disk_without_room_is_refused_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(free=2_500_000)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    check_room(tmp_path / "a" / "b", 2_500_000, "the repair")
    with pytest.raises(ConfigError, match=r"the repair may take 3\.0 GB in .*a/b, and 2\.5 MB are free there"):
        check_room(tmp_path / "a" / "b", 3_000_000_000, "the repair")
    assert asked == [tmp_path, tmp_path]  # the folder need not be there
