"""Frames of one file of arrays: chunks end with their episode, splits are of whole episodes, fields are normalised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from collapsekit.config.load import check_config
from collapsekit.data.episodes.source import read_frames
from collapsekit.data.factory import make_source
from collapsekit.errors import CollapsekitError, ConfigError, DataError, NothingEvaluatedError
from tests.data.episodes.recordings import TOP, make_frames, write_npz

ALL = {"train": "0:2", "val": "2:3", "test": "3:4"}


def read(folder: Path, path: str = "episodes.npz", data: dict[str, Any] | None = None, **how: Any) -> Any:
    """The frames that a config names."""
    how = {"splits": ALL, **how}
    section = {"path": path, "label": "action", "episodes": how, **(data or {})}
    return read_frames(check_config({"data": section}, base=folder))


@pytest.mark.parametrize("horizon", [1, 2, 4, 7])
def test_actions_are_of_consecutive_frames_of_one_episode(tmp_path: Path, horizon: int) -> None:
    write_npz(tmp_path)
    lengths = {"train": (6, 4), "val": (5,), "test": (7,)}
    if horizon == 7:
        with pytest.raises(NothingEvaluatedError, match="6 more follow in its episode"):
            read(tmp_path, horizon=horizon)
        return
    for split, frames in read(tmp_path, horizon=horizon).items():
        assert len(frames) == sum(max(0, n - horizon + 1) for n in lengths[split])
        for example in (frames[i] for i in range(len(frames))):
            first = 100.0 * example["episode_index"] + example["frame_index"]
            assert torch.equal(example["action"][:, 0], first + torch.arange(horizon))
            assert float(example["observation.state"][0]) == first


def test_no_chunk_goes_across_a_frame_that_is_missing(tmp_path: Path) -> None:
    frames = make_frames()
    kept = ~((frames["episode_index"] == 0) & (frames["frame_index"] == 3))
    np.savez(tmp_path / "episodes.npz", **{k: v[kept] for k, v in frames.items()})
    train = read(tmp_path, horizon=2)["train"]
    starts = [int(train[i]["frame_index"]) for i in range(len(train)) if train[i]["episode_index"] == 0]
    assert starts == [0, 1, 4]


def test_frames_in_any_order_are_the_same_examples(tmp_path: Path) -> None:
    write_npz(tmp_path)
    ordered = read(tmp_path, horizon=3)
    frames = make_frames()
    mixed = np.random.default_rng(0).permutation(len(frames["action"]))
    np.savez(tmp_path / "mixed.npz", **{k: v[mixed] for k, v in frames.items()})
    for split, again in read(tmp_path, "mixed.npz", horizon=3).items():
        assert len(again) == len(ordered[split])
        for i in range(len(again)):
            assert all(torch.equal(again[i][k], ordered[split][i][k]) for k in ("action", "observation.state", TOP))


def test_an_episode_is_in_one_split(tmp_path: Path) -> None:
    write_npz(tmp_path)
    members = {
        split: {int(frames[i]["episode_index"]) for i in range(len(frames))}
        for split, frames in read(tmp_path, splits={}).items()
    }
    assert sorted(e for held in members.values() for e in held) == [0, 1, 2, 3]
    assert {s: len(held) for s, held in members.items()} == {"train": 2, "val": 1, "test": 1}


def test_observations_of_several_frames_repeat_the_first(tmp_path: Path) -> None:
    write_npz(tmp_path)
    train = read(tmp_path, observed=3)["train"]
    assert [float(x) for x in train[0]["observation.state"][:, 0]] == [0, 0, 0]
    assert [float(x) for x in train[3]["observation.state"][:, 0]] == [1, 2, 3]
    assert [float(x) for x in train[6]["observation.state"][:, 0]] == [100, 100, 100]
    assert train[3][TOP].shape == (3, 3, 16, 16)
    assert train[3]["action"].shape == (2,)


def test_pictures_come_as_policies_take_them(tmp_path: Path) -> None:
    write_npz(tmp_path)
    picture = read(tmp_path)["train"][1][TOP]
    assert picture.shape == (3, 16, 16)
    assert picture.dtype == torch.float32
    assert float(picture.max()) == pytest.approx(30 / 255)


def test_phases_are_parts_of_the_episode_and_every_takes_some(tmp_path: Path) -> None:
    write_npz(tmp_path)
    train = read(tmp_path)["train"]
    assert [int(train[i]["phase"]) for i in range(6)] == [0, 0, 1, 1, 2, 2]
    few = read(tmp_path, every=2)["train"]
    assert [int(few[i]["frame_index"]) for i in range(len(few))] == [0, 2, 4, 0, 2]
    named = read(write_npz(tmp_path, phase=make_frames()["frame_index"]).parent)["train"]
    assert int(named[5]["phase"]) == 5  # the recording's own


@pytest.mark.parametrize(
    ("where", "frames"),
    [("phase == 0", [0, 1, 0, 1]), ("frame_index >= 3", [3, 4, 5, 3]), ("frame_index in [0, 3]", [0, 3, 0, 3])],
)
def test_where_chooses_frames(tmp_path: Path, where: str, frames: list[int]) -> None:
    write_npz(tmp_path)
    train = read(tmp_path, where=where)["train"]
    assert [int(train[i]["frame_index"]) for i in range(len(train))] == frames


def test_fields_are_normalised_by_training_frames(tmp_path: Path) -> None:
    write_npz(tmp_path)
    made = read(tmp_path, normalise={"action": "mean_std", "observation.state": "min_max"})
    actions = torch.stack([made["train"][i]["action"] for i in range(10)])
    assert torch.allclose(actions.mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(actions.std(0, correction=0), torch.ones(2), atol=1e-5)
    states = torch.stack([made["train"][i]["observation.state"] for i in range(10)])
    assert [float(states.min()), float(states.max())] == pytest.approx([-1, 1])


def test_the_source_has_text_and_lengths(tmp_path: Path) -> None:
    write_npz(tmp_path)
    section = {"path": "episodes.npz", "label": "action", "episodes": {"horizon": 2, "splits": ALL}}
    source = make_source(check_config({"data": section}, base=tmp_path))
    assert source.length("test") == 6
    batch = next(source.batches("test", ["task", "action", TOP], 4, None, 0))
    assert source.objects["task"].take(batch["task"])[0] == "open the drawer"
    assert batch["action"].shape == (4, 2, 2)


@pytest.mark.parametrize(
    ("how", "data", "kind", "words"),
    [
        ({"splits": {"train": "0-2"}}, {}, ConfigError, "expected episodes such as '0:40'"),
        ({"splits": {"train": "0:2", "test": "1:3"}}, {}, ConfigError, "share episodes"),
        ({"splits": {"train": "9:"}}, {}, ConfigError, "has episodes 0 to 3"),
        ({}, {"label": "actions"}, ConfigError, "no 'actions' \\(did you mean 'action'"),
        ({"normalise": {"stat": "min_max"}}, {}, ConfigError, "normalise names 'stat'"),
        ({"normalise": {TOP: "mean_std"}}, {}, ConfigError, "says nothing of the mean"),
        ({"horizon": 0}, {}, ConfigError, "horizon"),
        ({"where": "phase is 1"}, {}, ConfigError, "FIELD OP INTEGER"),
        ({"where": "timestamp == 0"}, {}, ConfigError, "no whole number a frame"),
        ({"where": "fase == 0"}, {}, ConfigError, "did you mean 'phase'"),
        ({"where": "phase == 3"}, {}, NothingEvaluatedError, "another data.episodes.where"),
        ({}, {"path": "nowhere.npz"}, ConfigError, "not a file"),
    ],
)
def test_what_is_wrong_is_told(
    tmp_path: Path, how: dict[str, Any], data: dict[str, Any], kind: type[CollapsekitError], words: str
) -> None:
    write_npz(tmp_path)
    with pytest.raises(kind, match=words):
        read(tmp_path, data=data, **how)


def test_what_is_wrong_with_a_file_is_told(tmp_path: Path) -> None:
    frames = make_frames()
    np.savez(tmp_path / "episodes.npz", action=frames["action"])
    with pytest.raises(DataError, match="of which episode"):
        read(tmp_path)
    np.savez(tmp_path / "episodes.npz", **{**frames, "action": frames["action"][:3]})
    with pytest.raises(DataError, match="22 frames by 'episode_index', and 3 of 'action'"):
        read(tmp_path)
    np.savez(tmp_path / "episodes.npz", **{**frames, "frame_index": frames["frame_index"] * 0})
    with pytest.raises(DataError, match="twice"):
        read(tmp_path)
    np.savez(tmp_path / "episodes.npz", **{k: v[:4] for k, v in frames.items()})
    with pytest.raises(ConfigError, match="has 1 episode, and splits are of whole ones"):
        read(tmp_path, splits={})


def test_episodes_beside_a_factory_are_refused(tmp_path: Path) -> None:
    config = check_config({"data": {"factory": "a:b", "episodes": {"horizon": 2}}}, base=tmp_path)
    with pytest.raises(ConfigError, match=r"data\.episodes beside data\.factory"):
        make_source(config)
