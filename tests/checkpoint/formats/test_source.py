from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collapsekit.checkpoint.formats.layout import DamagedError, Extent
from collapsekit.checkpoint.formats.source import HEAD_BYTES, Window, kind_of, open_file, read_bytes
from collapsekit.errors import ConfigError, RefusedError


def test_a_file_its_first_bytes_and_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(range(256)) * 3)
    (tmp_path / "link").symlink_to(path)
    for name in ("a", "link"):
        opened = open_file(tmp_path / name)
        assert opened.head == path.read_bytes()[:HEAD_BYTES]
        assert opened.size == 768
        assert opened.whole == Extent(tmp_path / name, 0, 768)
    assert kind_of(path) == "file"
    assert kind_of(tmp_path) == "directory"


def test_empty_files_folders_and_pipes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(RefusedError, match="is empty"):
        open_file(tmp_path / "empty")
    with pytest.raises(RefusedError, match="is a directory"):
        open_file(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RefusedError, match="pipe, socket or device"):
        open_file(tmp_path / "pipe")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    with pytest.raises(RefusedError, match="leads back to itself"):
        open_file(tmp_path / "round")
    with pytest.raises(ConfigError, match="does not exist"):
        open_file(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"cannot be looked up \(Not a directory\)"):
        open_file(tmp_path / "empty" / "below")
    with pytest.raises(ConfigError, match=r"cannot be looked up .*null"):
        open_file(Path("a\0b"))
    with pytest.raises(ConfigError, match=r"cannot be looked up \(File name too long\)"):
        open_file(tmp_path / ("x" * 300))


def test_a_file_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")

    def denied(*_: Any, **__: Any) -> Any:  # the user who runs the tests may be allowed everything
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(ConfigError, match=r"cannot be opened \(Permission denied\): check its permissions"):
        open_file(path)


def test_bytes_of_an_extent(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(range(100)))
    assert read_bytes(Extent(path, 7, 20), 20, "it") == bytes(range(7, 27))
    with pytest.raises(DamagedError, match="it has 20 bytes, more than the 19 allowed"):
        read_bytes(Extent(path, 7, 20), 19, "it")
    with pytest.raises(DamagedError, match="it breaks off"):
        read_bytes(Extent(path, 90, 20), 20, "it")


moves = st.one_of(
    st.tuples(st.just("seek"), st.integers(-60, 60), st.sampled_from([0, 1, 2])),
    st.tuples(st.sampled_from(["read", "readline"]), st.none() | st.integers(-2, 60)),
    st.tuples(st.sampled_from(["read", "readline", "tell", "seekable"])),
)


@given(st.text("ab\n", max_size=40), st.integers(0, 20), st.integers(0, 20), st.lists(moves, max_size=12))
def test_a_window_is_a_stream_of_its_bytes_alone(text: str, start: int, length: int, steps: list[Any]) -> None:
    data = text.encode().ljust(start + length, b"\n") + b"beyond\n"
    window = Window(io.BytesIO(data), Extent(Path("a"), start, length))
    with tempfile.TemporaryFile(buffering=0) as alone:
        alone.write(data[start : start + length])
        alone.seek(0)
        for name, *args in steps:
            try:
                want = getattr(alone, name)(*args)
            except OSError:
                with pytest.raises(OSError, match="negative seek"):
                    getattr(window, name)(*args)
            else:
                assert getattr(window, name)(*args) == want
