"""What a config has to say for the model to be taken apart by submodule paths."""

from __future__ import annotations

from collapsekit.config.schema import Config
from collapsekit.errors import ConfigError


def check_described(config: Config) -> None:
    """Raises ConfigError unless it names two modalities, an encoder for each, and a fusion."""
    need_two(config)
    for name, section in config.modalities.items():
        if section.encoder is None:
            raise ConfigError(
                f"modality {name!r} has no `encoder`: name the submodule whose output is its features, "
                "or 'name:input' for what enters a submodule."
            )
    if config.fusion is None:
        raise ConfigError(
            f"{config.origin} has no `fusion`: name the submodule whose output is the multimodal representation "
            "('name:input' for what enters it)."
        )


def need_two(config: Config) -> None:
    """Raises ConfigError for fewer than two modalities."""
    if len(config.modalities) < 2:
        raise ConfigError(
            f"{config.origin} names {len(config.modalities)} modalities: a multimodal model has at least two; "
            "list them under `modalities`."
        )
