"""Hugging Face folders: config.json names the class, and the part of the model that each kind of input has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from collapsekit.checkpoint.sidecars.described import Described, is_identifier, mapping, text
from collapsekit.checkpoint.sidecars.document import read_document

_READ = ("awq", "bitsandbytes", "gptq")  # methods whose weights become floating ones where they are loaded
_PARTS = ("vision_config", "text_config", "audio_config", "speech_config", "qformer_config", "encoder", "decoder")


def read_hugging_face(folder: Path) -> Described | None:
    """Read a model's config.json; None where it is another's."""
    config = read_document(folder / "config.json") or {}
    kind, classes = text(config.get("model_type")), config.get("architectures")
    names = [name for name in classes if is_identifier(name)] if isinstance(classes, list) else []
    if not kind and not names:
        return None
    sentences = [f"its class: {', '.join(names[:3])}"] if names else []
    told = [
        f"{part.removesuffix('_config')} ({text(about.get('model_type')) or 'of no known type'})"
        for part in _PARTS
        if (about := mapping(config.get(part)))
    ]
    if told:
        sentences.append(f"its parts: {', '.join(told)}")
    method = _quantised(config)
    if method in _READ:
        sentences.append(
            f"its weights are quantised ({method}): let model.factory build the model without quantisation, and it is given "
            "the numbers that they stand for"
        )
    elif method:
        sentences.append(
            f"its weights are quantised ({method}), and have no gradient: load it where it was made, call "
            "`model.dequantize()` and save that, or give the weights from before"
        )
    code = (f"from transformers import {names[0]}", f"model = {names[0]}.from_pretrained(folder)") if names else ()
    return Described(f"Hugging Face model {kind}".strip(), tuple(sentences), code=code)


def _quantised(config: dict[str, Any]) -> str:
    about = mapping(config.get("quantization_config"))
    return (text(about.get("quant_method")) or "no method named") if about else ""
