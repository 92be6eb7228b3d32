"""A generative model of transformers from its folder: vision- and audio-language models, by their config alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from collapsekit.ext import ConfigError
from collapsekit_transformers.hub_config import LEFT_BEHIND, read_hub_config

CODE = (
    "auto_map",
    "quantization_config",
    "compression_config",
    "attn_implementation",
)  # what could fetch or choose code
SHAPES = "model_type"  # of a part of the config: which class it is of


def build_model(config: str) -> nn.Module:
    """Build the class that ``config`` names with random weights, as ``factory`` of ``model``.

    Args:
        config: path of config.json, or of the folder that it lies in. What it says of attention kernels, remote code,
            quantisation and precision is left out, and nothing is fetched: a quantised or sharded model is given live.

    Returns:
        The model, float32.

    Raises:
        ConfigError: where the file names no generative class of transformers, or one that its settings do not fit.
    """
    path = Path(config)
    path = path / "config.json" if path.is_dir() else path
    raw = read_hub_config(path)
    import transformers  # takes seconds, which loading the plugin should not

    named = raw.get("architectures")
    name = named[0] if isinstance(named, list) and len(named) == 1 else None
    kind = getattr(transformers, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)) or not hasattr(kind, "generate"):
        raise ConfigError(
            f"{path} names {named!r} under `architectures`, expected one generative class of transformers, such as "
            "LlavaForConditionalGeneration: give the config.json of such a model, or the model itself as model=."
        )
    try:
        return kind(kind.config_class(**_settings(raw)))
    except Exception as e:
        why = f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
        raise ConfigError(
            f"{name} cannot be built from {path} ({why}): correct that value, or give the model itself as model=."
        ) from e


def _settings(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What shapes weights, of all parts: no kernels, no code, no precision."""
    return {
        key: _settings(value) if isinstance(value, Mapping) else value
        for key, value in raw.items()
        if not key.startswith("_") and (key == SHAPES or key not in (*LEFT_BEHIND, *CODE))
    }
