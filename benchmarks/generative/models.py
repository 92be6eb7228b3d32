"""Three vision-language architectures of transformers at tiny configs with random weights; nothing is downloaded.

Each is what users hold: LLaVA takes a tensor of pictures, Idefics3 (SmolVLM) several pictures an example, Qwen2-VL the
patches of all pictures in one tensor, whose rows are no examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from benchmarks.generative.worlds import ANSWERS, END, IMAGE, START, VOCABULARY, Examples

HIDDEN, PATCH, MERGED = 24, 2, 2  # width of states; Qwen2-VL's patches, and how many a side are merged to one token
PLACES = 4  # image tokens of LLaVA and Idefics3
TEXT: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 2 * HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": START,
    "eos_token_id": END,
}
VISION: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 2 * HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "patch_size": 4,
}


def llava() -> nn.Module:
    """LLaVA of a CLIP tower and a Llama."""
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(**VISION, image_size=8, projection_dim=HIDDEN),
            text_config=LlamaConfig(**TEXT),
            image_token_index=IMAGE,
            image_seq_length=PLACES,
            vision_feature_layer=-1,
        )
    )


def idefics() -> nn.Module:
    """Idefics3, which is SmolVLM's architecture, with one picture an example."""
    return Idefics3ForConditionalGeneration(
        Idefics3Config(
            image_token_id=IMAGE,
            scale_factor=2,
            pad_token_id=0,
            vision_config={**VISION, "image_size": 16},
            text_config={"model_type": "llama", **TEXT},
        )
    )


def qwen() -> nn.Module:
    """Qwen2-VL."""
    return Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(
            text_config={**TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 2]}},
            vision_config={
                "depth": 1,
                "embed_dim": HIDDEN,
                "hidden_size": HIDDEN,
                "num_heads": 2,
                "mlp_ratio": 2,
                "patch_size": PATCH,
                "temporal_patch_size": 1,
            },
            image_token_id=IMAGE,
            vision_start_token_id=START,
            vision_end_token_id=END,
        )
    )


@dataclass(frozen=True)
class Architecture:
    """A model class; ``batch`` makes its inputs of examples, with 0 in the mask at image tokens where these are masked."""

    build: Callable[[], nn.Module]
    size: tuple[int, ...]  # height of pictures, and widths
    pixels: int  # that one image token is made of
    patches: str  # the module that reads pixels
    tower: str  # the module of which that is part
    projector: str  # whose output is image tokens
    config: Mapping[str, Any]  # lines of YAML
    batch: Callable[[Examples, bool], dict[str, Tensor]]
    in_examples: bool = False  # whether collapsekit exchanges fields of examples, before they are collated


def _ids(places: int, words: Tensor) -> Tensor:
    return torch.tensor([START, *[IMAGE] * places, END, *words.tolist()])


def _prompts(counts: list[int], words: Tensor, masked: bool) -> dict[str, Tensor]:
    """Prompts padded on the left, (n, T), so that the last place answers."""
    rows = [_ids(count, one) for count, one in zip(counts, words, strict=True)]
    longest = max(map(len, rows))
    ids = torch.stack([F.pad(row, (longest - len(row), 0)) for row in rows])
    seen = (ids != 0) & ~((ids == IMAGE) & masked)
    return {"input_ids": ids, "attention_mask": seen.long()}


def _stacked(examples: Examples, masked: bool) -> dict[str, Tensor]:
    prompts = _prompts([PLACES] * len(examples), examples.words, masked)
    return {**prompts, "pixel_values": torch.stack(examples.images)}


def _in_lists(examples: Examples, masked: bool) -> dict[str, Tensor]:
    stacked = _stacked(examples, masked)
    return {**stacked, "pixel_values": stacked["pixel_values"][:, None]}


def _packed(examples: Examples, masked: bool) -> dict[str, Tensor]:
    """Patches of all pictures in the order in which Qwen2-VL merges them, four at a time."""
    grids = [[1, *(n // PATCH for n in image.shape[1:])] for image in examples.images]
    counts = [h * w // MERGED**2 for _, h, w in grids]
    prompts = _prompts(counts, examples.words, masked)
    types = (prompts["input_ids"] == IMAGE).long()
    patches = torch.cat([_merged_order(image) for image in examples.images])
    return {**prompts, "mm_token_type_ids": types, "pixel_values": patches, "image_grid_thw": torch.tensor(grids)}


def _merged_order(image: Tensor) -> Tensor:
    """Patches (n, numbers) of one picture (3, h, w)."""
    channels, height, width = image.shape
    blocks = image.reshape(
        channels, height // (PATCH * MERGED), MERGED, PATCH, width // (PATCH * MERGED), MERGED, PATCH
    )
    return blocks.permute(1, 4, 2, 5, 0, 3, 6).reshape(-1, channels * PATCH * PATCH)


def labels_of(examples: Examples, length: int) -> Tensor:
    """Labels (n, T): the answer is due at the last place, and is not in the input."""
    labels = torch.full((len(examples), length), -100)
    labels[:, -1] = ANSWERS + examples.answers
    return labels


_TENSORS: dict[str, Any] = {
    "modalities": {"text": {"input": ["input_ids", "attention_mask"]}},
    "output": "logits",
    "task": "tokens",
    "task_options": {"shift": False},
    "data": {"label": "labels"},
}


def _with_encoder(path: str) -> dict[str, Any]:
    image = {"encoder": path, "input": "pixel_values"}
    return {**_TENSORS, "modalities": {"image": image, **_TENSORS["modalities"]}}


ARCHITECTURES = {
    "LLaVA": Architecture(
        llava,
        (8, 8),
        16,
        "model.vision_tower.embeddings.patch_embedding",
        "model.vision_tower",
        "model.multi_modal_projector",
        _with_encoder("model.multi_modal_projector"),
        _stacked,
    ),
    "Idefics3": Architecture(
        idefics,
        (16, 16),
        64,
        "model.vision_model.embeddings.patch_embedding",
        "model.vision_model",
        "model.connector",
        _with_encoder("model.connector"),
        _in_lists,
    ),
    "Qwen2-VL": Architecture(
        qwen,
        (8, 8, 12),
        16,
        "model.visual.patch_embed.proj",
        "model.visual",
        "model.visual.merger",
        {
            **_TENSORS,
            "modalities": {"image": {"input": "image"}, "text": {"input": "question"}},
            "data": {"edit": "examples", "label": "labels"},
        },
        _packed,
        in_examples=True,
    ),
}
