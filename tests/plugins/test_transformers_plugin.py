"""The transformers plugin, installed as a user installs it and found by its name alone.

Everything happens in one other process (tiny_transformers.py), because importing transformers takes seconds.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

NEEDS = ("transformers", "setuptools")  # asked for without importing them, which takes a second of every test run
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(map(find_spec, NEEDS)), reason=f"needs {' and '.join(NEEDS)}"),
]

PLUGIN = Path(__file__).parents[2] / "plugins" / "transformers"
SCRIPT = Path(__file__).with_name("tiny_transformers.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("transformers")
    # From a copy: building leaves its traces in the source folder.
    shutil.copytree(PLUGIN, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    flags = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *flags, "--target", str(folder / "site"), str(folder / "source")]
    installed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr
    path = os.pathsep.join([str(folder / "site"), str(PLUGIN.parents[1])])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLLAPSEKIT_CACHE": str(folder / "cache")}
    command = [sys.executable, str(SCRIPT), str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, env=env, check=False, cwd=folder)
    assert ran.returncode == 0, ran.stderr
    result: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return result


def test_installed_plugin_is_listed_and_loaded_without_importing_transformers(found: dict[str, Any]) -> None:
    assert "transformers" in found["listed"]
    assert found["imported by listing"] == []
    assert found["imported by loading"] == []


@pytest.mark.parametrize(("model", "ignored", "used"), [("vilt", "image", "text"), ("visual_bert", "text", "image")])
def test_planted_collapse_is_found_in_the_modality_it_was_planted_in(
    found: dict[str, Any], model: str, ignored: str, used: str
) -> None:
    assert found[model]["verdicts"] == {ignored: "collapsed", used: "used"}
    values = found[model]["values"]
    assert abs(values[f"reliance.shapley {ignored}"]) < 0.03 < 0.3 < values[f"reliance.shapley {used}"]


def test_clip_is_judged_by_what_both_sides_find_together(found: dict[str, Any]) -> None:
    clip = found["clip"]
    assert clip["task"] == "contrastive"
    # It was trained on both; the text gives 58 % of its due, beside a reference that may be too weak.
    assert clip["verdicts"] == {"text": "inconclusive", "image": "used"}
    own, scale = clip["temperature"]
    assert own == pytest.approx(1 / scale, rel=1e-5)
    # Nothing mixes the towers, so what reads a mixture has to decline rather than give a number.
    assert "rank_sweep None" in clip["skipped"]
    assert "concatenates" in clip["skipped"]["rank_sweep None"]


@pytest.mark.parametrize("model", ["loud_vilt", "visual_bert", "clip"])
def test_replayed_swap_is_what_the_model_answers_to_swapped_inputs(found: dict[str, Any], model: str) -> None:
    assert max(found[model]["swap is off by"].values()) < 1e-5
    assert min(found[model]["swap changes"].values()) > 1e-3  # even of an ignored one, by its padding


def test_masks_belong_to_their_modality(found: dict[str, Any]) -> None:
    assert found["loud_vilt"]["keys"] == {
        "text": ["input_ids", "attention_mask"],
        "image": ["pixel_values", "pixel_mask"],
    }
    assert found["visual_bert"]["keys"]["image"] == ["visual_embeds", "visual_attention_mask"]
    assert found["clip"]["keys"] == {"text": ["input_ids", "attention_mask"], "image": ["pixel_values"]}


def test_padding_is_left_out_of_pooled_features(found: dict[str, Any]) -> None:
    assert found["vilt"]["pooled image"] < 1e-5
    assert found["vilt"]["pooled text"] < 1e-5


def test_live_model_gives_the_numbers_of_its_file_and_stays_as_it_was(found: dict[str, Any]) -> None:
    live, file = found["vilt"]["live"], found["vilt"]["values"]
    shared = live.keys() & file.keys()
    assert any(k.startswith("prefix_gap.baseline") for k in shared)  # so it was built afresh from model.config
    for key in shared:
        assert live[key] == pytest.approx(file[key], abs=1e-4), key
    assert found["vilt"]["live kept"]


def test_a_live_model_that_first_runs_in_a_diagnosis_works_afterwards(found: dict[str, Any]) -> None:
    # Tables of positions, which are no weights, lie outside of its state_dict.
    assert found["first run"] == {"attributes": True, "off by": 0.0, "warnings": ["unregistered_tensors"]}


def test_clip_towers_do_not_run_again_on_replay(found: dict[str, Any]) -> None:
    assert found["clip"]["towers run by replay"] == 0
    assert found["clip"]["towers run by a pass"] == 2
    assert found["clip"]["fusion parameters"] == [[]]  # the temperature alone: the rest is the encoders'


def test_fresh_models_differ_by_seed_alone(found: dict[str, Any]) -> None:
    same, other = found["clip"]["fresh"]
    assert same
    assert not other


def test_other_classes_replay_and_rebuild(found: dict[str, Any]) -> None:
    for name in (
        "ViltForImageAndTextRetrieval",
        "ViltForImagesAndTextClassification",
        "VisualBertForVisualReasoning",
    ):
        assert found[name] == {"text": [128, 16], "image": [128, 16]}


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("near", ["did you mean 'ViltForQuestionAnswering'", "CLIPModel", "VisualBertForVisualReasoning"]),
        ("far", ["'GPT2LMHeadModel'", "CLIPModel", "adapter: module"]),
        ("unnamed", ["options.architecture"]),
        ("another type", ["'vilt'", "'clip'", "CLIPModel"]),
        ("no file", ["missing.json", "options.config"]),
        ("option", ["options.architectur", "did you mean 'architecture'"]),
        ("value", ["changed.json", "hidden_size"]),
        ("random patches", ["max_image_length", "-1"]),
        ("two images", ["num_images 2"]),
        ("modality", ["'imag'", "did you mean 'image'"]),
        ("encoder", ["modalities.image.encoder", "adapter: module"]),
        ("factory", ["model.factory", "adapter: module"]),
        ("fusion", ["sets fusion", "CLIPModel"]),
        ("task", ["two embeddings", "retrieval"]),
    ],
)
def test_refusals_say_what_to_do(found: dict[str, Any], case: str, words: list[str]) -> None:
    message = found["refused"][case]
    for word in words:
        assert word in message
    assert message.endswith(".")


def test_what_the_user_says_of_a_modality_stays(found: dict[str, Any]) -> None:
    image, text = found["said"]["image"], found["said"]["text"]
    assert (image["scale"], image["pool"], image["input"]) == (255, "flatten", ["pixel_values"])
    assert (text["input"], text["mask"]) == ("input_ids", None)
    assert text["encoder"] == "vilt.embeddings.text_embeddings"
