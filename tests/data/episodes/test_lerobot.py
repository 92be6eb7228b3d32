"""Folders in LeRobot's layouts give the examples that one file of the same frames gives."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from collapsekit.config.load import check_config
from collapsekit.data.episodes.source import is_episodes, read_frames
from collapsekit.errors import CollapsekitError, ConfigError, DataError, RefusedError
from tests.data.episodes.recordings import TOP, write_lerobot, write_npz

SPLITS = {"train": "0:2", "val": "2:3", "test": "3:4"}


def read(folder: Path, path: str, **how: Any) -> Any:
    """The frames that a config names."""
    section = {"path": path, "label": "action", "episodes": {"horizon": 2, "splits": SPLITS, **how}}
    return read_frames(check_config({"data": section}, base=folder))


@pytest.mark.parametrize("pictures", ["video", "image"])
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_folder_gives_what_a_file_gives(tmp_path: Path, version: str, pictures: str) -> None:
    pytest.importorskip("pyarrow")
    if pictures == "video":
        pytest.importorskip("av")
    write_lerobot(tmp_path / "recording", version, pictures=pictures)
    write_npz(tmp_path)
    expected = read(tmp_path, "episodes.npz")
    for split, frames in read(tmp_path, "recording").items():
        assert len(frames) == len(expected[split])
        for i in (*range(len(frames)), 0):  # back to the first, which a video has to be sought for
            one, other = frames[i], expected[split][i]
            assert one["task"] == other["task"]
            assert all(torch.equal(one[k], other[k]) for k in ("action", "observation.state", "phase", "episode_index"))
            assert torch.allclose(one[TOP], other[TOP], atol=0.0 if pictures == "image" else 8 / 255)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_statistics_are_the_recordings_own(tmp_path: Path, version: str) -> None:
    pytest.importorskip("pyarrow")
    write_lerobot(tmp_path / "recording", version, pictures="image")
    made = read(tmp_path, "recording", horizon=1, normalise={"action": "mean_std"})
    every = torch.cat([frames[i]["action"] for frames in made.values() for i in range(len(frames))])
    assert torch.allclose(every.mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(every.std(0, correction=0), torch.ones(2), atol=1e-5)


def test_only_cameras_that_are_named_are_read(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    write_lerobot(tmp_path / "recording", "v2.1")
    raw = {"modalities": {"state": {"input": "observation.state"}, "task": None}}
    config = check_config({**raw, "data": {"path": "recording", "label": "action"}}, base=tmp_path)
    assert is_episodes(config)
    assert TOP not in read_frames(config)["train"][0]


def _info(folder: Path, **changes: Any) -> None:
    path = folder / "meta" / "info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("break_it", "kind", "words"),
    [
        (lambda f: _info(f, codebase_version="v1.6"), ConfigError, "layout 'v1.6', expected v2 or v3"),
        (lambda f: _info(f, fps=0), RefusedError, "frames a second"),
        (
            lambda f: _info(f, features={"../../etc": {"dtype": "video"}, "a/b": {"dtype": "video"}}),
            RefusedError,
            "no folder of videos can be called",
        ),
        (lambda f: next(f.glob("data/**/*.parquet")).write_bytes(b"PAR1"), RefusedError, "cannot be read as Parquet"),
        (lambda f: [p.unlink() for p in f.glob("data/**/*.parquet")], ConfigError, "has no data/"),
        (lambda f: (f / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "x"}\n'), RefusedError, "of task 1"),
        (lambda f: (f / "meta/tasks.jsonl").write_text("[]\n"), RefusedError, "no JSON objects"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, break_it: Any, kind: type[CollapsekitError], words: str) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("av")
    break_it(write_lerobot(tmp_path / "recording", "v2.1"))
    with pytest.raises(kind, match=words):
        read(tmp_path, "recording")


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda f: [p.unlink() for p in f.glob("videos/**/*.mp4")], "is not there"),
        (lambda f: [p.write_bytes(b"no video") for p in f.glob("videos/**/*.mp4")], "cannot be opened"),
        (lambda f: _info(f, fps=1), None),  # times are those of the frames
    ],
)
def test_what_is_wrong_with_a_video_is_told(tmp_path: Path, break_it: Any, words: str | None) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("av")
    break_it(write_lerobot(tmp_path / "recording", "v2.1"))
    frames = read(tmp_path, "recording")["test"]
    if words is None:
        assert frames[0][TOP].shape == (3, 16, 16)
        return
    with pytest.raises(DataError, match=words):
        frames[0]


@pytest.mark.parametrize(("module", "name"), [("pyarrow.parquet", "pyarrow"), ("av", "av")])
def test_without_the_extra_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("av")
    write_lerobot(tmp_path / "recording", "v2.1")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"is read by {name}, which is not installed: install the extra"):
        read(tmp_path, "recording")["test"][0]
