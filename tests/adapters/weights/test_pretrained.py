"""Folders that transformers writes, in the names that it writes: loaded into models that its classes make."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from collapsekit.adapters.weights.load import load_weights
from collapsekit.adapters.weights.pretrained import read_as_pretrained
from collapsekit.checkpoint.read import read_checkpoint
from collapsekit.errors import ConfigError

SMALL: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION: dict[str, Any] = {"image_size": 8, "patch_size": 4, **SMALL}
TEXT: dict[str, Any] = {"vocab_size": 50, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, **SMALL}


def llava() -> nn.Module:
    t = pytest.importorskip("transformers")
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**VISION), text_config=t.LlamaConfig(**TEXT), image_token_index=49
    )
    made: nn.Module = t.LlavaForConditionalGeneration(config)
    return made


def paligemma() -> nn.Module:
    """Its embedding is tied to its head."""
    t = pytest.importorskip("transformers")
    vision = {"model_type": "siglip_vision_model", **VISION}
    text = {"model_type": "gemma", "head_dim": 8, **TEXT}
    made: nn.Module = t.PaliGemmaForConditionalGeneration(
        t.PaliGemmaConfig(vision_config=vision, text_config=text, image_token_index=49)
    )
    return made


def clip() -> nn.Module:
    t = pytest.importorskip("transformers")
    text = {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, **SMALL}
    made: nn.Module = t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))
    return made


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.vlm = inner


def drawn(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return make()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [llava, paligemma, clip])
def test_what_save_pretrained_writes_is_loaded(
    tmp_path: Path, make: Callable[[], Any], capfd: pytest.CaptureFixture[str]
) -> None:
    source, model, wrapped = drawn(make, 1), drawn(make, 2), Wrapped(drawn(make, 3))
    source.save_pretrained(tmp_path)  # type: ignore[operator]
    checkpoint = read_checkpoint(tmp_path)
    capfd.readouterr()
    assert load_weights(model, checkpoint).left_out == ()
    assert load_weights(wrapped, checkpoint).left_out == ()
    expected = source.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(v, expected[k.removeprefix("vlm.")]) for k, v in wrapped.state_dict().items())
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore")
def test_what_the_library_would_draw_at_random_or_ignore_is_refused(tmp_path: Path) -> None:
    source, model = drawn(llava, 1), drawn(llava, 2)
    source.save_pretrained(tmp_path)  # type: ignore[operator]
    before = copy.deepcopy(model.state_dict())
    whole = load_file(tmp_path / "model.safetensors")
    lacking = {k: v for k, v in whole.items() if "lm_head" not in k}
    name = next(k for k in whole if k.endswith("q_proj.weight"))
    for odd in (lacking, whole | {"aux.weight": torch.ones(2)}, whole | {name: torch.ones(3, 3)}):
        save_file(odd, tmp_path / "odd.safetensors")
        with pytest.raises(ConfigError, match="does not fit the model"):
            load_weights(model, read_checkpoint(tmp_path / "odd.safetensors"))
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    save_file(whole | {"criterion.weight": torch.ones(2)}, tmp_path / "odd.safetensors")
    assert load_weights(model, read_checkpoint(tmp_path / "odd.safetensors")).left_out == ("criterion.weight",)


@pytest.mark.filterwarnings("ignore")
def test_only_a_model_of_the_library_is_read_so() -> None:
    both = nn.ModuleDict({"vlm": drawn(clip, 1), "head": nn.Linear(2, 2)})
    assert read_as_pretrained(both, {}) is None
    assert read_as_pretrained(nn.Linear(2, 2), {}) is None
