"""collapsekit init with a folder of logged episodes: the config that the policy's files and the recording say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from collapsekit.config.load import check_config
from collapsekit.data.episodes.source import is_episodes, read_frames
from tests.cli.conftest import Run
from tests.data.episodes.recordings import TOP, write_lerobot

POLICY = {
    "type": "diffusion",
    "n_obs_steps": 2,
    "horizon": 16,
    "n_action_steps": 3,
    "input_features": {
        TOP: {"type": "VISUAL", "shape": [3, 16, 16]},
        "observation.images.wrist": {"type": "VISUAL", "shape": [3, 16, 16]},
        "observation.state": {"type": "STATE", "shape": [2]},
    },
    "output_features": {"action": {"type": "ACTION", "shape": [2]}},
    "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": "MIN_MAX", "ACTION": "MEAN_STD"},
}


def write_policy(folder: Path, about: dict[str, object] | None) -> None:
    """A policy's folder; without ``about`` nothing says what it is."""
    (folder / "policy").mkdir()
    save_file({"backbone.weight": torch.ones(2, 2)}, str(folder / "policy" / "model.safetensors"))
    if about is not None:
        (folder / "policy" / "config.json").write_text(json.dumps(about))


def test_policy_and_recording_make_a_config(tmp_path: Path, cli: Run) -> None:
    pytest.importorskip("pyarrow")
    write_policy(tmp_path, POLICY)
    write_lerobot(tmp_path / "recording", "v2.1", pictures="image")
    done = cli("init", "policy", "--data", "recording", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the recording has no observation.images.wrist" in done.stdout + done.stderr
    assert "2 tasks in words" in done.stdout + done.stderr
    text = (tmp_path / "collapsekit.yaml").read_text()
    raw = yaml.safe_load(text)
    assert raw["model"]["samples"] == 8
    assert raw["data"] == {
        "path": "recording",
        "label": "action",
        "group": "episode_index",
        "episodes": {"horizon": 3, "observed": 2, "phases": 3},
    }
    assert "# normalise: {observation.state: min_max, action: mean_std}" in text
    config = check_config(raw, base=tmp_path)
    assert is_episodes(config)
    example = read_frames(config)["train"][0]
    assert example["action"].shape == (3, 2)
    assert example[TOP].shape == (2, 3, 16, 16)


def test_without_a_policys_files_the_recording_names_the_modalities(tmp_path: Path, cli: Run) -> None:
    pytest.importorskip("pyarrow")
    write_policy(tmp_path, None)
    write_lerobot(tmp_path / "recording", "v2.1", pictures="image")
    done = cli("init", "policy", "--data", "recording", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    raw = yaml.safe_load((tmp_path / "collapsekit.yaml").read_text())
    assert raw["modalities"] == {"state": {"input": "observation.state"}, "top": {"input": TOP}}
    assert raw["data"]["label"] == "action"
    assert "horizon: 16  # FILL IN" in (tmp_path / "collapsekit.yaml").read_text()


def test_what_is_no_recording_is_refused(tmp_path: Path, cli: Run) -> None:
    write_policy(tmp_path, POLICY)
    done = cli("init", "policy", "--data", "policy", cwd=tmp_path)
    assert done.returncode == 2
    assert "a folder without meta/info.json" in done.stderr
    (tmp_path / "recording" / "meta").mkdir(parents=True)
    (tmp_path / "recording" / "meta" / "info.json").write_text("{}")
    done = cli("init", "policy", "--data", "recording", "--factory", "a:b", cwd=tmp_path)
    assert done.returncode == 2
    assert "leave --factory and --kwargs out" in done.stderr
    assert not (tmp_path / "collapsekit.yaml").exists()
