"""Which model classes are adapted, and where in each the modalities enter and meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from collapsekit.ext import ConfigError, did_you_mean


@dataclass(frozen=True)
class Stream:
    """One modality of a model class: the submodule whose output it is, and the inputs that belong to it."""

    encoder: str
    needs: tuple[str, ...]  # inputs without which the model does not run
    takes: tuple[str, ...] = ()  # inputs that are passed on where the data has them
    mask: str | None = None  # which of them says what is padding


@dataclass(frozen=True)
class Architecture:
    """One model class of transformers, as ModuleAdapter needs it described."""

    name: str
    config_class: str
    kind: Literal["single", "dual"]  # one transformer over all tokens, or two towers that never meet
    streams: dict[str, Stream]
    fusion: str  # the representation the prediction is read from
    output: tuple[str, ...] | None = None  # parts of the model's output; None: its logits


def _vilt(name: str) -> Architecture:
    below = "vilt.embeddings"
    text = Stream(
        f"{below}.text_embeddings", ("input_ids",), ("attention_mask", "token_type_ids"), mask="attention_mask"
    )
    image = Stream(f"{below}.patch_embeddings", ("pixel_values",), ("pixel_mask",), mask="pixel_mask")
    return Architecture(name, "ViltConfig", "single", {"text": text, "image": image}, fusion="vilt.pooler")


def _visual_bert(name: str) -> Architecture:
    below = "visual_bert.embeddings"
    # Question answering reads the last word's position off the mask, so the mask is no option there.
    needs = ("input_ids", "attention_mask") if "Question" in name else ("input_ids",)
    text = Stream(f"{below}.word_embeddings", needs, ("attention_mask", "token_type_ids"), mask="attention_mask")
    image = Stream(
        f"{below}.visual_projection",
        ("visual_embeds",),
        ("visual_attention_mask", "visual_token_type_ids", "image_text_alignment"),
        mask="visual_attention_mask",
    )
    return Architecture(name, "VisualBertConfig", "single", {"text": text, "image": image}, fusion="cls:input")


def _clip() -> Architecture:
    streams = {
        "text": Stream("text_projection", ("input_ids",), ("attention_mask",)),
        "image": Stream("visual_projection", ("pixel_values",)),
    }
    # ModuleAdapter wants some fusion named; DualEncoder puts the two embeddings side by side in its place.
    return Architecture("CLIPModel", "CLIPConfig", "dual", streams, "vision_model", ("text_embeds", "image_embeds"))


ARCHITECTURES: dict[str, Architecture] = {
    a.name: a
    for a in (
        _clip(),
        _vilt("ViltForQuestionAnswering"),
        _vilt("ViltForImageAndTextRetrieval"),
        _vilt("ViltForImagesAndTextClassification"),
        _visual_bert("VisualBertForQuestionAnswering"),
        _visual_bert("VisualBertForVisualReasoning"),
    )
}


def find_architecture(name: str) -> Architecture:
    """The model class of that name. Raises ConfigError with those there are."""
    if name not in ARCHITECTURES:
        raise ConfigError(
            f"architecture {name!r} is not adapted by the transformers plugin{did_you_mean(name, ARCHITECTURES)}: "
            f"it knows {', '.join(ARCHITECTURES)}; describe another model by its submodules with `adapter: module`."
        )
    return ARCHITECTURES[name]
