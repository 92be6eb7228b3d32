"""The adapter's door: a short config and a config.json in, a ModuleAdapter's whole description out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from torch import nn
from torch.utils.data import Dataset

from collapsekit.ext import (
    ArraySource,
    Checkpoint,
    Config,
    ConfigError,
    LoaderSource,
    ModalityConfig,
    ModelConfig,
    ModuleAdapter,
    Options,
    Source,
    adapter,
    did_you_mean,
    make_source,
    preserve_rng_state,
)
from collapsekit_transformers.adapters import DualEncoder, SingleStream
from collapsekit_transformers.architectures import Architecture, Stream
from collapsekit_transformers.hub_config import choose_architecture, model_settings, read_hub_config

# Says that the model can be built afresh, and by what; HubAdapter calls it.
FACTORY = "collapsekit_transformers.hub_config:make_model"


class TransformersOptions(Options):
    """What ``options`` may hold in collapsekit.yaml; both are found out where they are not given."""

    architecture: str | None = None  # the model class; default: what config.json names
    config: str | None = None  # default: config.json beside the checkpoint


@adapter("transformers", summary="Hugging Face CLIP, ViLT and VisualBERT: a checkpoint and its config.json")
def build(
    config: Config,
    *,
    checkpoint: Checkpoint | None = None,
    model: nn.Module | None = None,
    source: Source | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> ModuleAdapter:
    """Adapt a supported model class of transformers, from its saved weights or live. Raises ConfigError.

    The model is built from config.json with random weights and gets the checkpoint's: nothing is downloaded and no
    code of a model repository runs.
    """
    options = _options(config)
    if model is not None:
        raw, origin = _live_config(model)
        raw = {**raw, "architectures": [type(model).__name__]}
    else:
        assert checkpoint is not None  # collapsekit asks for one wherever there is no live model
        beside = checkpoint.path.parent / "config.json"
        path = config.resolve(options.config) if options.config is not None else beside
        raw, origin = read_hub_config(path), str(path)
    architecture = choose_architecture(options.architecture, raw, origin)
    settings = model_settings(architecture, raw, origin)
    if source is None:
        source = make_source(config)
    # A live model of a class of its own can be diagnosed, but not built afresh for baselines.
    own_class = model is None or type(model).__name__ == architecture.name
    described = describe(config, architecture, settings if own_class else None, _keys(source))
    if architecture.kind == "dual":
        described = _contrastive(described, architecture, checkpoint, model)
    made = SingleStream if architecture.kind == "single" else DualEncoder
    return made(described, checkpoint=checkpoint, model=model, source=source, device=device, seed=seed)


def describe(
    config: Config, architecture: Architecture, settings: Mapping[str, Any] | None, keys: set[str] | None
) -> Config:
    """``config`` with everything filled in that ModuleAdapter wants to know; ``keys`` are the data's columns.

    What the user said of a modality's inputs, scale, pooling and mask stays. Raises ConfigError where the config
    says what the model class already decides.
    """
    _reject_decided(config, architecture)
    known = architecture.streams
    for name in config.modalities:
        if name not in known:
            raise ConfigError(
                f"{config.origin} has a modality {name!r}{did_you_mean(name, known)}: those of {architecture.name} are "
                f"{' and '.join(known)}."
            )
    modalities = {m: _section(s, config.modalities.get(m, ModalityConfig()), keys) for m, s in known.items()}
    kwargs = {"architecture": architecture.name, "settings": settings}
    factory = ModelConfig(
        factory=FACTORY if settings is not None else None, kwargs=kwargs, checkpoint=config.model.checkpoint
    )
    return config.model_copy(
        update={
            "model": factory,
            "modalities": modalities,
            "fusion": config.fusion or architecture.fusion,
            "output": architecture.output,
        }
    )


def _section(stream: Stream, said: ModalityConfig, keys: set[str] | None) -> ModalityConfig:
    """One modality's section: the class's own, under whatever the user set."""
    there = [k for k in stream.takes if k not in stream.needs and k in (keys or ())]
    inputs = said.input if said.input is not None else (*stream.needs, *there)
    mask = stream.mask if stream.mask in ([inputs] if isinstance(inputs, str) else inputs) else None
    filled = {"encoder": stream.encoder, "input": inputs, "mask": said.mask or mask}
    return said.model_copy(update=filled)


def _reject_decided(config: Config, architecture: Architecture) -> None:
    said = [f"modalities.{m}.{k}" for m, s in config.modalities.items() for k in ("encoder", "select") if _set(s, k)]
    said += [f"model.{k}" for k in ("factory", "kwargs") if _set(config.model, k)]
    decided = ("call", "output") if architecture.kind == "single" else ("call", "output", "fusion", "head")
    said += [k for k in decided if _set(config, k)]
    if said:
        raise ConfigError(
            f"{config.origin} sets {', '.join(said)}, which follows from {architecture.name} under `adapter: transformers`: "
            "remove it, or describe the model yourself with `adapter: module`."
        )


def _set(section: Config | ModelConfig | ModalityConfig, key: str) -> bool:
    return key in section.model_fields_set and bool(getattr(section, key))


def _contrastive(
    config: Config, architecture: Architecture, checkpoint: Checkpoint | None, model: nn.Module | None
) -> Config:
    """The task of a dual encoder, at the temperature it was trained to where the config names no other."""
    task = config.task if "task" in config.model_fields_set else "contrastive"
    if task not in ("contrastive", "retrieval") and ":" not in task:
        raise ConfigError(
            f"{architecture.name} gives two embeddings and no {task} output: leave `task` out or set it to retrieval, "
            "or name a 'module:callable' loss of the embeddings."
        )
    weights = checkpoint.tensors if checkpoint is not None else model.state_dict() if model is not None else {}
    scale = next((float(v) for k, v in weights.items() if k.endswith("logit_scale") and v.numel() == 1), None)
    update: dict[str, Any] = {"task": task}
    if scale is not None and math.isfinite(scale) and "temperature" not in config.model_fields_set:
        update["temperature"] = math.exp(-scale)
    return config.model_copy(update=update)


def _options(config: Config) -> TransformersOptions:
    known = list(TransformersOptions.model_fields)
    for key in config.options:
        if key not in known:
            raise ConfigError(
                f"{config.origin} has an unknown key 'options.{key}'{did_you_mean(key, known)}: the transformers adapter "
                f"knows {', '.join(known)}."
            )
    try:
        return TransformersOptions(**config.options)
    except ValidationError as e:
        first = e.errors()[0]
        raise ConfigError(
            f"{config.origin} at 'options.{first['loc'][0]}': {first['msg']}, found {first['input']!r}."
        ) from None


def _live_config(model: nn.Module) -> tuple[dict[str, Any], str]:
    own: Any = getattr(model, "config", None)
    if not hasattr(own, "to_dict"):
        raise ConfigError(
            f"the live model is {type(model).__name__}, expected a model of transformers with its config: for any other "
            "module use `adapter: module`."
        )
    return own.to_dict(), "model.config"


def _keys(source: Source) -> set[str] | None:
    """Columns of the data, so that masks are passed on where there are any; None where they can't be looked at."""
    if isinstance(source, ArraySource):
        columns = [set(arrays) for arrays in source.arrays.values()]
        return set.intersection(*columns) if columns else None
    if isinstance(source, LoaderSource):
        with preserve_rng_state():
            for loader in source.loaders.values():
                first = loader[0] if isinstance(loader, Dataset) else next(iter(loader), None)
                return set(first) if isinstance(first, Mapping) else None
    return None
