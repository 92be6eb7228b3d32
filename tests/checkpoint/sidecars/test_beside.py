"""What files beside weights say: each maker's layout, damaged and hostile ones, and what `init` makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from collapsekit.checkpoint.describe import describe
from collapsekit.checkpoint.formats.hf_folder import find_in_folder
from collapsekit.checkpoint.sidecars.beside import READERS, describe_beside
from collapsekit.checkpoint.sidecars.described import fields_of, plain_name
from collapsekit.cli import app
from collapsekit.errors import RefusedError
from collapsekit.io.yaml import parse_yaml

ACT = {
    "type": "act",
    "n_obs_steps": 1,
    "chunk_size": 100,
    "n_action_steps": 100,
    "normalization_mapping": {"VISUAL": "MEAN_STD", "STATE": "MIN_MAX", "ACTION": "MEAN_STD"},
    "input_features": {
        "observation.images.top": {"type": "VISUAL", "shape": [3, 480, 640]},
        "observation.images.wrist": {"type": "VISUAL", "shape": [3, 480, 640]},
        "observation.state": {"type": "STATE", "shape": [14]},
    },
    "output_features": {"action": {"type": "ACTION", "shape": [14]}},
}
OLD_DIFFUSION = {
    "input_shapes": {"observation.image": [3, 96, 96], "observation.state": [2]},
    "output_shapes": {"action": [2]},
    "input_normalization_modes": {"observation.image": "mean_std", "observation.state": "min_max"},
    "horizon": 16,
}
BUNDLE = {
    "name": "BraTS MRI segmentation",
    "version": "0.5.0",
    "network_data_format": {
        "inputs": {
            "image": {
                "type": "image",
                "format": "magnitude",
                "modality": "MR",
                "num_channels": 4,
                "spatial_shape": ["8*n", "8*n", "8*n"],
                "dtype": "float32",
                "value_range": [0, 1],
                "channel_def": {"0": "T1c", "1": "T1", "2": "T2", "3": "FLAIR"},
            }
        },
        "outputs": {"pred": {"type": "image", "format": "segmentation", "num_channels": 3}},
    },
}
DATASET = {
    "channel_names": {"0": "T2", "1": "ADC"},
    "labels": {"background": 0, "PZ": 1, "TZ": 2},
    "file_ending": ".nii.gz",
}
PLANS = {
    "dataset_name": "Dataset005_Prostate",
    "configurations": {
        "3d_fullres": {"patch_size": [16, 320, 320], "normalization_schemes": ["ZScoreNormalization"] * 2},
        "3d_cascade": {"inherits_from": "3d_fullres"},
    },
}
LLAVA = {
    "model_type": "llava",
    "architectures": ["LlavaForConditionalGeneration"],
    "vision_config": {"model_type": "clip_vision_model"},
    "text_config": {"model_type": "llama"},
    "quantization_config": {"quant_method": "awq"},
}


def written(folder: Path, **files: Any) -> Path:
    """A folder of weights and JSON; names with __ for a slash."""
    for name, content in files.items():
        path = folder / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    save_file(
        {"model.backbone.weight": torch.ones(2, 3), "head.weight": torch.ones(1, 2)}, folder / "model.safetensors"
    )
    return folder


def inputs(folder: Path) -> list[tuple[str, str, str | None]]:
    found = describe_beside(folder)
    assert found is not None
    return [(f.name, f.key, f.part) for f in found.inputs]


def test_lerobot(tmp_path: Path) -> None:
    found = describe_beside(written(tmp_path, config=ACT))
    assert found is not None
    assert (found.maker, found.task, found.label, found.call) == ("LeRobot policy act", "regression", "action", "dict")
    assert inputs(tmp_path) == [
        ("top", "observation.images.top", None),
        ("wrist", "observation.images.wrist", None),
        ("state", "observation.state", None),
    ]
    assert [f.about for f in found.inputs][1:] == ["VISUAL, 3×480×640, MEAN_STD", "STATE, 14, MIN_MAX"]
    assert "from lerobot.policies.act.modeling_act import ACTPolicy" in found.code


def test_lerobot_before_features(tmp_path: Path) -> None:
    found = describe_beside(written(tmp_path, config=OLD_DIFFUSION))
    assert found is not None
    assert inputs(tmp_path) == [("image", "observation.image", None), ("state", "observation.state", None)]
    assert [f.about for f in found.inputs] == ["3×96×96, mean_std", "2, min_max"]
    assert (found.label, found.code) == ("action", ())


def test_keys_that_end_alike_keep_more_of_their_names(tmp_path: Path) -> None:
    features = {f"observation.{side}.image": {"type": "VISUAL", "shape": [3, 8, 8]} for side in ("left", "right")}
    assert [name for name, *_ in inputs(written(tmp_path, config=ACT | {"input_features": features}))] == [
        "left.image",
        "right.image",
    ]


@pytest.mark.parametrize("where", ["configs__metadata", "metadata"])
def test_monai_bundles(tmp_path: Path, where: str) -> None:
    folder = written(tmp_path, **{where: BUNDLE})
    found = describe_beside(folder)
    assert found is not None
    assert (found.maker, found.task) == ("MONAI bundle BraTS MRI segmentation 0.5.0", "dense")
    assert inputs(folder) == [(n, "image", f"[{i}]") for i, n in enumerate(("t1c", "t1", "t2", "flair"))]
    models = folder / "models"
    models.mkdir()
    save_file({"w": torch.ones(2)}, models / "model.safetensors")
    assert inputs(models / "model.safetensors") == inputs(folder)  # as bundles keep them


def test_a_monai_bundle_of_two_inputs_that_classifies(tmp_path: Path) -> None:
    layout = {
        "inputs": {"ct": {"type": "image", "num_channels": 1}, "ehr": {"type": "tuples"}},
        "outputs": {"pred": {"type": "probabilities", "format": "classes"}},
    }
    found = describe_beside(written(tmp_path, metadata={"network_data_format": layout}))
    assert found is not None
    assert found.task == "classification"
    assert inputs(tmp_path) == [("ct", "ct", None), ("ehr", "ehr", None)]


def test_nnunet(tmp_path: Path) -> None:
    folder = written(tmp_path, dataset=DATASET, plans=PLANS)
    found = describe_beside(folder)
    assert found is not None
    assert (found.maker, found.task) == ("nnU-Net Dataset005_Prostate", "dense")
    assert inputs(folder) == [("t2", "image", "[0]"), ("adc", "image", "[1]")]
    assert found.sentences == (
        "its labels: background, PZ, TZ",
        "configuration 3d_fullres: patches of 16×320×320, scaled by ZScoreNormalization, ZScoreNormalization",
    )
    fold = folder / "fold_0"
    fold.mkdir()
    torch.save({"network_weights": {"w": torch.ones(2)}}, fold / "checkpoint_final.pth")
    assert inputs(fold / "checkpoint_final.pth") == inputs(folder)
    old = {"modality": {"0": "MRI"}, "labels": {"0": "background"}}
    (tmp_path / "old").mkdir()
    assert inputs(written(tmp_path / "old", dataset=old)) == [("mri", "image", None)]


def test_hugging_face(tmp_path: Path) -> None:
    found = describe_beside(written(tmp_path, config=LLAVA))
    assert found is not None
    assert (found.maker, found.inputs) == ("Hugging Face model llava", ())
    assert found.sentences[:2] == (
        "its class: LlavaForConditionalGeneration",
        "its parts: vision (clip_vision_model), text (llama)",
    )
    assert "quantised (awq): let model.factory build the model without quantisation" in found.sentences[2]
    other = {**LLAVA, "quantization_config": {"quant_method": "hqq"}}
    told = describe_beside(written(tmp_path, config=other))
    assert told is not None
    assert "quantised (hqq), and have no gradient: load it where it was made" in told.sentences[2]
    assert found.code[0] == "from transformers import LlavaForConditionalGeneration"


@pytest.mark.parametrize(
    "content", [{}, {"a": 1}, {"input_features": []}, {"labels": {}}, {"architectures": ["no name"]}]
)
def test_other_files_say_nothing(tmp_path: Path, content: Any) -> None:
    assert describe_beside(written(tmp_path, config=content, dataset=content, metadata=content, plans=content)) is None


ODD: list[Any] = [
    None,
    True,
    3,
    1e300,
    "x",
    "\x1b[31m\n`",
    [],
    [[[]]],
    {},
    {"a": {"b": [1]}},
    ["a", {"shape": 3}],
    "é" * 10_000,
]


@pytest.mark.parametrize("number", range(len(ODD)))
@pytest.mark.parametrize("content", [ACT, OLD_DIFFUSION, BUNDLE, DATASET | PLANS, LLAVA])
def test_no_value_in_any_place_is_a_fault_or_acts(tmp_path: Path, content: dict[str, Any], number: int) -> None:
    """Every value, and every name, is once the odd one."""

    def changed(value: Any, path: tuple[Any, ...]) -> Any:
        if not path:
            return ODD[number]
        return {k: changed(v, path[1:]) if k == path[0] else v for k, v in value.items()}

    def paths(value: Any) -> list[tuple[Any, ...]]:
        inner = value.items() if isinstance(value, dict) else ()
        return [(), *((k, *rest) for k, v in inner for rest in paths(v))]

    for path in paths(content)[1:]:
        odd = changed(content, path)
        for name in ("config", "dataset", "metadata", "plans"):
            (tmp_path / f"{name}.json").write_text(json.dumps(odd))
        for read in READERS:
            found = read(tmp_path)
            if found is not None:
                shown = [found.maker, *found.sentences, *found.code, *(f.key + f.about for f in found.inputs)]
                assert all(line.isprintable() for line in shown), shown
                assert all(plain_name(f.name) == f.name for f in found.inputs)


@pytest.mark.parametrize("text", ["{", "[]", "\xff", '{"a": NaN}', "[" * 2000, '{"a": "' + "x" * 1_000_001 + '"}'])
def test_damaged_files_are_named(tmp_path: Path, text: str) -> None:
    folder = written(tmp_path, config=ACT)
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RefusedError, match=r"config\.json.*from beside the weights\.$"):
        describe_beside(folder)
    (told,) = describe(folder).beside
    assert "config.json" in told
    assert describe(folder).refused is None


def test_init_writes_all_that_a_policy_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written(tmp_path / "policy", config=ACT)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["init", str(folder)])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "collapsekit.yaml").read_text()
    config = parse_yaml(text, "c")
    assert config["modalities"] == {
        "top": {"input": "observation.images.top"},
        "wrist": {"input": "observation.images.wrist"},
        "state": {"input": "observation.state"},
    }
    assert (config["task"], config["call"], config["data"]["label"]) == ("regression", "dict", "action")
    assert config["model"]["checkpoint"] == "policy"
    assert "# LeRobot policy act, as the files beside the weights say." in text
    assert "#   from lerobot.policies.act.modeling_act import ACTPolicy" in text
    assert "backbone" in text


def test_init_cuts_stacked_channels_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written(tmp_path / "b", metadata=BUNDLE)
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["init", str(folder)]).exit_code == 0
    config = parse_yaml((tmp_path / "collapsekit.yaml").read_text(), "c")
    assert config["modalities"]["flair"] == {"input": "image", "slice": "[3]"}
    assert config["task"] == "dense"


def test_init_adds_to_names_what_says_no_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written(tmp_path / "hf", config=LLAVA)
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["init", str(folder)]).exit_code == 0
    text = (tmp_path / "collapsekit.yaml").read_text()
    assert "# - its class: LlavaForConditionalGeneration" in text
    assert "call: kwargs" in text


def test_inspect_shows_it(tmp_path: Path) -> None:
    folder = written(tmp_path, config=ACT)
    shown = CliRunner().invoke(app, ["inspect", str(folder)])
    assert "Beside the weights\n  LeRobot policy act\n  input top: observation.images.top (VISUAL" in shown.stdout
    told = json.loads(CliRunner().invoke(app, ["inspect", "--json", str(folder)]).stdout)
    assert told["beside"][0] == "LeRobot policy act"


def test_inspect_shows_what_an_adapter_touches(tmp_path: Path) -> None:
    """Two directions of one strength in one part, and one in the other."""
    part = "base_model.model.model.{}.layers.{}.q.lora_{}.weight"
    tensors = {
        part.format("vision", 0, "A"): torch.eye(2, 6),
        part.format("vision", 0, "B"): 3 * torch.eye(4, 2),
        part.format("text", 0, "A"): torch.eye(2, 6),
        part.format("text", 0, "B"): torch.tensor([[5.0, 0.0], [0.0, 0.0]]),
        part.format("text", 1, "A"): torch.eye(2, 6),
        part.format("text", 1, "B"): torch.zeros(4, 2),
        "base_model.model.score.weight": torch.ones(2, 2),
    }
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "lora_alpha": 4, "base_model_name_or_path": "some/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(about))
    assert describe(tmp_path).beside == (
        "LoRA, trained on 'some/base'",
        "'model.text.layers': 2 weights of rank 2, effective rank 1.0, norm 10",
        "'model.vision.layers': 1 weight of rank 2, effective rank 2.0, norm 8.485",
        "1 weight in full, such as 'score.weight'",
    )


def test_fields_of_one_name_get_names_of_their_own() -> None:
    rows = [("image", "a", None, ""), ("image", "b", None, ""), ("image", "c", None, "")]
    assert [field.name for field in fields_of(rows)] == ["image", "image_2", "image_2_2"]


def test_a_hugging_face_folder_of_one_part(tmp_path: Path) -> None:
    found = describe_beside(written(tmp_path, config={"model_type": "bert", "architectures": ["BertModel"]}))
    assert found is not None
    assert "its parts" not in " ".join(found.sentences)


def test_an_adapter_of_peft_may_be_saved_by_torch(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    assert find_in_folder(tmp_path).name == "adapter_model.bin"
