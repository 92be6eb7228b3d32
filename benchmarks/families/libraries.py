"""Families whose classes are those of transformers: tiny configs, random weights, trained here, nothing downloaded.

Each is described by YAML keys alone. Images are patches whose mean says a bit, texts six tokens of which most do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    ViltConfig,
    ViltForQuestionAnswering,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from benchmarks.families.family import Family, World, swap_fields
from benchmarks.families.pairs import PAIRS
from benchmarks.families.policies import POLICIES
from benchmarks.families.reading import HIDDEN, IMAGE, TEXT, VISION, VOCABULARY, answers, image, swap_where, words
from benchmarks.families.zoo import Head


def classes_loss(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy of classes."""
    out = model(**{k: v for k, v in batch.items() if k != "label"})
    return F.cross_entropy(out if isinstance(out, Tensor) else out.logits, batch["label"])


# ViLT: image and text are one sequence from the first layer on, so neither has an encoder.


def vilt() -> nn.Module:
    """ViLT with a head for four answers."""
    return ViltForQuestionAnswering(
        ViltConfig(
            **{**VISION, "num_hidden_layers": 2},
            vocab_size=VOCABULARY,
            max_position_embeddings=8,
            num_labels=4,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def _question(world: World) -> Any:
    ids = words(world, world.b)
    return {
        "pixel_values": image(world, world.a),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "label": world.label,
    }


# CLIP with a classifier on what both towers say, as work on memes and on visual questions has it.


class ClipClassifier(nn.Module):
    """Both towers of CLIP, and a classifier on their embeddings side by side."""

    def __init__(self) -> None:
        super().__init__()
        text = {**TEXT, "vocab_size": VOCABULARY, "max_position_embeddings": 8, "eos_token_id": IMAGE}
        self.clip = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))
        self.head = Head(16, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> Tensor:
        out = self.clip(input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixel_values)
        logits: Tensor = self.head(out.image_embeds, out.text_embeds)
        return logits


def _captions(world: World) -> Any:
    split = _question(world)
    end = torch.full((len(world.a), 1), IMAGE)  # CLIP reads a text at its end token
    ids = torch.cat([split["input_ids"], end], 1)
    return {**split, "input_ids": ids, "attention_mask": torch.ones_like(ids)}


# LLaVA: the answer stands in the text that the model is given, and only the question is a modality.


def llava() -> nn.Module:
    """LLaVA of a CLIP tower and a Llama of two layers."""
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(**VISION, projection_dim=HIDDEN),
            text_config=LlamaConfig(
                **{**TEXT, "num_hidden_layers": 2},
                vocab_size=VOCABULARY,
                num_key_value_heads=2,
                max_position_embeddings=32,
            ),
            image_token_index=IMAGE,
            image_seq_length=4,
            vision_feature_layer=-1,
        )
    )


def _conversation(world: World) -> Any:
    """Four places of the image, six words of the question, two of the answer."""
    n, answer = len(world.a), answers(world)
    ids = torch.cat([torch.full((n, 4), IMAGE), words(world, world.a), answer], 1)
    part = torch.tensor([1] * 4 + [0] * 6 + [2] * 2).repeat(n, 1)
    labels = torch.where(part == 2, ids, -100)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": image(world, world.b),
        "part": part,
        "label": labels,
    }


def _causal_loss(model: nn.Module, batch: Any) -> Tensor:
    out = model(**{k: v for k, v in batch.items() if k not in ("part", "label")}, labels=batch["label"])
    loss: Tensor = out.loss
    return loss


# Whisper: what was said before stands in front of what the decoder is given of the answer.


def whisper() -> nn.Module:
    """Whisper of one layer each, 16 frames of 8 bands."""
    return WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=VOCABULARY,
            num_mel_bins=8,
            d_model=HIDDEN,
            encoder_layers=1,
            encoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_layers=1,
            decoder_attention_heads=2,
            decoder_ffn_dim=32,
            max_source_positions=8,
            max_target_positions=12,
            pad_token_id=0,
            bos_token_id=61,
            eos_token_id=62,
            decoder_start_token_id=61,
            init_std=0.1,  # with 0.02 most seeds have not left the plateau where only the sound is read
        )
    )


def _speech(world: World) -> Any:
    """Six tokens of what was said before, the start token, the first token of the answer; targets are the answer."""
    n, answer = len(world.a), answers(world)
    ids = torch.cat([words(world, world.b), torch.full((n, 1), 61), answer[:, :1]], 1)
    labels = torch.cat([torch.full((n, 6), -100), answer], 1)
    return {
        "input_features": world.noisy(world.a, 8, 16, size=0.3),
        "decoder_input_ids": ids,
        "part": torch.tensor([0] * 6 + [1] * 2).repeat(n, 1),
        "label": labels,
    }


def _speech_loss(model: nn.Module, batch: Any) -> Tensor:
    logits = model(input_features=batch["input_features"], decoder_input_ids=batch["decoder_input_ids"]).logits
    return F.cross_entropy(logits.transpose(1, 2), batch["label"])


# Qwen2-VL: patches of all images lie in one tensor, whose rows are no examples, images are of two sizes, and a text has as
# many places for its image as that asks for. So modalities are exchanged in examples, and this collate_fn runs on them.

PATCH, START, END = 2, 61, 62


def qwen() -> nn.Module:
    """Qwen2-VL of one layer each."""
    config = Qwen2VLConfig(
        text_config={
            **TEXT,
            "vocab_size": VOCABULARY,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
            "bos_token_id": START,
            "eos_token_id": END,
        },
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
    return Qwen2VLForConditionalGeneration(config)


def _asked(world: World) -> Any:
    """Images of 8 x 8 and of 8 x 12, a question as text, and the tokens of the answer."""
    wide = torch.rand(len(world.a), generator=world.draw) < 0.5
    pixels = world.noisy(world.b, 3, 8, 12, size=0.3)
    return {
        "image": [x if w else x[..., :8] for x, w in zip(pixels, wide.tolist(), strict=True)],
        "question": [" ".join(f"w{i}" for i in row) for row in words(world, world.a).tolist()],
        "answer": answers(world),
    }


def _examples(split: Any) -> list[Any]:
    return [dict(zip(split, values, strict=True)) for values in zip(*split.values(), strict=True)]


def _tokenised(example: Any) -> tuple[list[int], list[int]]:
    """Ids and labels: the answer behind the image's places and the question."""
    places = example["image"][0].numel() // (2 * PATCH) ** 2
    question = [int(word[1:]) for word in example["question"].split()]
    prompt, answer = [START, *[IMAGE] * places, END, *question], example["answer"].tolist()
    return [*prompt, *answer], [-100] * len(prompt) + answer


def collate_questions(examples: list[Any]) -> Any:
    """Make a batch as the model's processor would: packed patches and their grids, padded ids and labels."""
    grids = [[1, *(n // PATCH for n in e["image"].shape[1:])] for e in examples]
    patches = [F.unfold(e["image"][None], PATCH, stride=PATCH)[0].T for e in examples]
    ids, labels = ([torch.tensor(row) for row in rows] for rows in zip(*map(_tokenised, examples), strict=True))
    input_ids = nn.utils.rnn.pad_sequence(ids, batch_first=True)
    return {
        "input_ids": input_ids,
        "attention_mask": (input_ids > 0).long(),
        "mm_token_type_ids": (input_ids == IMAGE).long(),
        "pixel_values": torch.cat(patches),
        "image_grid_thw": torch.tensor(grids),
        "labels": nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100),
    }


def _asked_loss(model: nn.Module, batch: Any) -> Tensor:
    loss: Tensor = model(**collate_questions(_examples(batch))).loss
    return loss


def _as_questions(split: Any) -> Any:
    return torch.utils.data.DataLoader(_examples(split), batch_size=64, collate_fn=collate_questions)  # type: ignore[arg-type]


LIBRARIES = {
    family.name: family
    for family in (
        *PAIRS,
        *POLICIES,
        Family(
            "ViLT, questions",
            {
                "modalities": {
                    "a": {"input": "pixel_values"},
                    "b": {"input": ["input_ids", "attention_mask"]},
                },
                "task": "classification",
            },
            _question,
            vilt,
            classes_loss,
            swap_fields("input_ids"),
        ),
        Family(
            "CLIP with a classifier",
            {
                "modalities": {
                    "a": {"encoder": "clip.visual_projection", "input": "pixel_values"},
                    "b": {"encoder": "clip.text_projection", "input": ["input_ids", "attention_mask"]},
                },
                "fusion": "head.net.1",
                "task": "classification",
            },
            _captions,
            ClipClassifier,
            classes_loss,
            swap_fields("input_ids"),
        ),
        Family(
            "LLaVA, answers",
            {
                "modalities": {
                    "a": {"input": "input_ids", "where": "part == 0"},
                    "b": {"encoder": "model.multi_modal_projector", "input": "pixel_values"},
                },
                "output": "logits",
                "task": "tokens",
                "data": {"also": ["attention_mask"]},
            },
            _conversation,
            llava,
            _causal_loss,
            swap_fields("pixel_values"),
            swaps={"a": swap_where("input_ids", "part", 0)},
        ),
        Family(
            "Qwen2-VL, packed patches",
            {
                "modalities": {"a": {"input": "question"}, "b": {"input": "image"}},
                "output": "logits",
                "task": "tokens",
                "data": {"edit": "examples", "label": "labels"},
            },
            _asked,
            qwen,
            _asked_loss,
            swap_fields("image"),
            _as_questions,
            swaps={"a": swap_fields("question")},
        ),
        Family(
            "Whisper, prompted",
            {
                "modalities": {
                    "a": {"encoder": "model.encoder", "input": "input_features"},
                    "b": {"input": "decoder_input_ids", "where": "part == 0"},
                },
                "output": "logits",
                "task": "tokens",
            },
            _speech,
            whisper,
            _speech_loss,
            swap_where("decoder_input_ids", "part", 0),
            swaps={"a": swap_fields("input_features")},
        ),
    )
}
