"""config.json as Hugging Face saves it, down to the plain settings that shape the model."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from collapsekit.ext import ConfigError
from collapsekit_transformers.architectures import Architecture, find_architecture

# Settings that do not shape the weights. The file may be a stranger's, so what could fetch or choose code
# (attention kernels, auto_map, quantisation) is left behind too: only the config class's own settings pass.
LEFT_BEHIND = (
    "architectures",
    "model_type",
    "transformers_version",
    "id2label",
    "label2id",
    "problem_type",
    "dtype",
    "torch_dtype",
    "torchscript",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
)


def read_hub_config(path: Path) -> dict[str, Any]:
    """The file's content. Raises ConfigError where there is none or it is no JSON object."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"there is no {path}: give the model's config.json, which save_pretrained puts beside the weights, "
            "as options.config."
        ) from None
    except (OSError, ValueError, RecursionError) as e:
        raise ConfigError(f"{path} cannot be read as JSON ({e}): give the model's config.json.") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds {type(raw).__name__}, expected the JSON object that save_pretrained writes.")
    return raw


def choose_architecture(wanted: str | None, raw: Mapping[str, Any], origin: str) -> Architecture:
    """The class ``wanted``, else the one the file names. Raises ConfigError where the two do not go together."""
    named = raw.get("architectures")
    if wanted is None and not (isinstance(named, list) and len(named) == 1 and isinstance(named[0], str)):
        raise ConfigError(
            f"{origin} does not name one model class under `architectures` (found {named!r}): say which it is as "
            "options.architecture, e.g. ViltForQuestionAnswering."
        )
    architecture = find_architecture(wanted if wanted is not None else str(named[0]))  # type: ignore[index]
    expected = _transformers_class(architecture.config_class).model_type
    if raw.get("model_type", expected) != expected:
        raise ConfigError(
            f"{origin} is of model_type {raw['model_type']!r}, but {architecture.name} needs {expected!r}: give that "
            "model's config.json, or another options.architecture."
        )
    return architecture


def model_settings(architecture: Architecture, raw: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """What of ``raw`` differs from the config class's defaults. Raises ConfigError where the class refuses it."""
    make = _transformers_class(architecture.config_class)
    settings = _known_settings(raw, make().to_dict())
    try:
        made = make(**settings)
    except Exception as e:
        reason = " ".join(str(e).split())
        raise ConfigError(
            f"{origin} does not make a {architecture.config_class}: {type(e).__name__}: {reason}; correct that value."
        ) from e
    _check_supported(architecture, made, origin)
    return settings


def _known_settings(raw: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for key, default in defaults.items():
        if key.endswith("_config") and isinstance(default, Mapping):
            # Early CLIP files hold the towers' settings twice; the "_dict" one counts.
            inner = raw.get(f"{key}_dict") or raw.get(key)
            if isinstance(inner, Mapping):
                settings[key] = _known_settings(inner, default)
        elif key in raw and not key.startswith("_") and key not in LEFT_BEHIND and raw[key] != default:
            settings[key] = raw[key]
    labels = raw.get("id2label")
    count = len(labels) if isinstance(labels, Mapping) and labels else raw.get("num_labels")
    if isinstance(count, int):
        settings["num_labels"] = count
    return settings


def _check_supported(architecture: Architecture, made: Any, origin: str) -> None:
    sampled = getattr(made, "max_image_length", -1)
    if sampled is not None and sampled >= 0:
        raise ConfigError(
            f"{origin} has max_image_length {sampled}, so ViLT would look at a random {sampled} patches of larger "
            "images even in eval mode, and no answer could be reproduced: set it to -1 (all patches)."
        )
    if architecture.name == "ViltForImagesAndTextClassification" and made.num_images != 1:
        raise ConfigError(
            f"{origin} has num_images {made.num_images}: ViltForImagesAndTextClassification is adapted for one image, as "
            "with more its encoders run once an image; write a Python adapter for it."
        )
    if getattr(made, "bypass_transformer", False):
        raise ConfigError(
            f"{origin} has bypass_transformer set, which no VisualBERT head of transformers runs with: set it to false."
        )


def make_model(architecture: str, settings: dict[str, Any]) -> nn.Module:
    """The model class with random weights, float32, built from settings alone; nothing is looked up or fetched.

    Raises ConfigError where the settings do not make a model.
    """
    known = find_architecture(architecture)
    try:
        model = _transformers_class(known.name)(_transformers_class(known.config_class)(**settings))
    except Exception as e:
        reason = " ".join(str(e).split())
        raise ConfigError(
            f"{architecture} cannot be built from its config.json ({type(e).__name__}: {reason}): correct that value."
        ) from e
    assert isinstance(model, nn.Module)
    return model


def _transformers_class(name: str) -> Any:
    # Imported when a model is wanted: it takes seconds, and loading the plugin should not.
    return getattr(importlib.import_module("transformers"), name)
