"""LLaVA of the transformers library, at a size that trains in seconds; nothing is downloaded."""

from __future__ import annotations

from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

QUESTION = ["<pad>", "<image>", "what", "colour", "how", "bright", "is", "the", "banana", "grass", "fire", "sea"]
WORDS = [*QUESTION, "yellow", "green", "red", "blue", "light", "dark"]
PATCHES = 4  # image tokens of a picture


def build() -> LlavaForConditionalGeneration:
    """The untrained model."""
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    text = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=WORDS.index("<image>"), vision_feature_layer=-1
    )
    return LlavaForConditionalGeneration(config)
