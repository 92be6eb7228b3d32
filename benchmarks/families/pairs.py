"""Families of two towers that are compared: CLIP, SigLIP, and the structure of open_clip.

Two sides of a pair are of no use without one another: where one is ignored, neither helps. So the planted truth lies within
a side. The left half of the image shows three bits, and so does the right half; half of the text tells the first three, the
other half the others. A model trained with the second half of texts exchanged reads half of its text: the image and the
first half are used, the second half is ignored.
"""

from __future__ import annotations

from math import log
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from benchmarks.families.family import Family, World, swap_fields
from benchmarks.families.reading import HIDDEN, IMAGE, TEXT, VISION, VOCABULARY, swap_where

SIGLIP_TEMPERATURE, SIGLIP_BIAS = 0.1, -10.0


def clip() -> nn.Module:
    """CLIP of one layer each, its temperature fixed at 0.07."""
    text = {**TEXT, "vocab_size": VOCABULARY, "max_position_embeddings": 13, "eos_token_id": IMAGE}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))
    model.logit_scale.requires_grad_(False)
    return model


def siglip() -> nn.Module:
    """SigLIP of one layer each, its temperature and bias fixed."""
    text = {
        **TEXT,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 13,
        "projection_size": HIDDEN,
        "bos_token_id": 61,
        "eos_token_id": 62,
    }
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))
    model.logit_scale.requires_grad_(False).fill_(log(1 / SIGLIP_TEMPERATURE))
    model.logit_bias.requires_grad_(False).fill_(SIGLIP_BIAS)
    return model


class OpenClip(nn.Module):
    """As open_clip has it: the text side is a method, its projection a parameter, and nothing fuses."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(nn.Conv2d(3, HIDDEN, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * HIDDEN, 8))
        self.token_embedding = nn.Embedding(VOCABULARY, HIDDEN)
        self.transformer = nn.TransformerEncoderLayer(HIDDEN, 2, 32, dropout=0.0, batch_first=True)
        self.ln_final = nn.LayerNorm(HIDDEN)
        self.text_projection = nn.Parameter(torch.randn(HIDDEN, 8) * 0.2)

    def encode_text(self, text: Tensor) -> Tensor:
        read = self.ln_final(self.transformer(self.token_embedding(text)))
        return read.mean(1) @ self.text_projection

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.visual(image), dim=-1), F.normalize(self.encode_text(text), dim=-1)


def _told(bits: Tensor, first: int, draw: torch.Generator) -> Tensor:
    """Each of three bits (n, 3) by two words, each one of three synonyms: (n, 6), ids from ``first`` on."""
    meaning = 3 * (2 * torch.arange(3) + bits).repeat(1, 2)
    return first + meaning + torch.randint(0, 3, meaning.shape, generator=draw)


def _shown(bits: Tensor, draw: torch.Generator) -> Tensor:
    """Half an image (n, 3, 8, 4), each channel of which is bright or dark."""
    return (2 * bits - 1.0)[:, :, None, None] + 0.5 * torch.randn(len(bits), 3, 8, 4, generator=draw)


def _pair(world: World) -> Any:
    n, draw = len(world.a), world.draw
    first, second = torch.randint(0, 2, (2, n, 3), generator=draw)
    ids = torch.cat([_told(first, 1, draw), _told(second, 21, draw), torch.full((n, 1), IMAGE)], 1)
    return {
        "pixel_values": torch.cat([_shown(first, draw), _shown(second, draw)], 3),
        "input_ids": ids,
        "part": torch.tensor([0] * 6 + [1] * 6 + [2]).repeat(n, 1),
    }


def _named_as_open_clip(world: World) -> Any:
    split = _pair(world)
    return {"image": split["pixel_values"], "text": split["input_ids"], "part": split["part"]}


def _pair_loss(model: nn.Module, batch: Any) -> Tensor:
    out = model(input_ids=batch["input_ids"], pixel_values=batch["pixel_values"], return_loss=True)
    loss: Tensor = out.loss
    return loss


def _own_loss(model: nn.Module, batch: Any) -> Tensor:
    image, text = model(batch["image"], batch["text"])
    similar, own = image @ text.T / 0.07, torch.arange(len(image))
    return (F.cross_entropy(similar, own) + F.cross_entropy(similar.T, own)) / 2


def _halves(image: dict[str, Any], text: str) -> dict[str, Any]:
    return {
        "image": image,
        "a": {"input": text, "where": "part == 0"},
        "b": {"input": text, "where": "part == 1"},
    }


PAIRS = (
    Family(
        "CLIP, half of the text",
        {
            "modalities": _halves({"encoder": "visual_projection", "input": "pixel_values"}, "input_ids"),
            "output": ["image_embeds", "text_embeds"],
            "task": "retrieval",
        },
        _pair,
        clip,
        _pair_loss,
        swap_where("input_ids", "part", 1),
        swaps={"image": swap_fields("pixel_values"), "a": swap_where("input_ids", "part", 0)},
    ),
    Family(
        "SigLIP, half of the text",
        {
            "modalities": _halves({"encoder": "vision_model", "input": "pixel_values"}, "input_ids"),
            "output": ["image_embeds", "text_embeds"],
            "task": "retrieval",
            "temperature": SIGLIP_TEMPERATURE,
            "task_options": {"loss": "siglip", "bias": SIGLIP_BIAS},
        },
        _pair,
        siglip,
        _pair_loss,
        swap_where("input_ids", "part", 1),
        swaps={"image": swap_fields("pixel_values"), "a": swap_where("input_ids", "part", 0)},
    ),
    Family(
        "open_clip, half of the text",
        {"modalities": _halves({"encoder": "visual", "input": "image"}, "text"), "task": "retrieval"},
        _named_as_open_clip,
        OpenClip,
        _own_loss,
        swap_where("text", "part", 1),
        swaps={"image": swap_fields("image"), "a": swap_where("text", "part", 0)},
    ),
)
