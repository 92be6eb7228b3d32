"""What the two kinds of model need beyond ModuleAdapter."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.ext import (
    Activations,
    Batch,
    Checkpoint,
    Config,
    ForwardPass,
    ModuleAdapter,
    Prediction,
    preserve_rng_state,
    seed_everything,
)
from collapsekit_transformers.hub_config import make_model

# Constants that transformers stored as weights before 4.31 and no longer knows.
_OLD_CONSTANTS = ("position_ids", "token_type_ids")
_TOWERS = {"text": "text_model", "image": "vision_model"}


class HubAdapter(ModuleAdapter):
    """ModuleAdapter over a model class of transformers. The model is built here and not by collapsekit's import of
    ``model.factory``, so that no Python file that lies beside the config can come in by an import."""

    def __init__(
        self,
        config: Config,
        *,
        checkpoint: Checkpoint | None = None,
        model: nn.Module | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        if model is None:
            with preserve_rng_state():
                seed_everything(seed)
                model = make_model(**config.model.kwargs)
        super().__init__(config, checkpoint=_without_constants(checkpoint), model=model, seed=seed, **kwargs)


class SingleStream(HubAdapter):
    """One transformer over the tokens of all modalities; their embeddings are the encoders."""

    def pool(self, modality: str, features: Tensor, batch: Batch) -> Tensor:
        """As ModuleAdapter; a mask of pixels is brought to the patches first, the way ViLT does it."""
        mask = self.config.modalities[modality].mask
        if mask is not None and features.ndim == 4:
            pixels = batch[mask].reshape(len(features), 1, *batch[mask].shape[-2:]).float()
            batch = {**batch, mask: F.interpolate(pixels, size=features.shape[-2:])}
        return super().pool(modality, features, batch)


class DualEncoder(HubAdapter):
    """Two towers whose embeddings are compared: nothing mixes them, so the joint representation is both side by
    side, which the probes that need a learned mixture recognise and say."""

    def run(self, batch: Batch) -> ForwardPass:
        done = super().run(batch)
        return replace(done, prediction=Prediction(self._side_by_side(done.recorded), done.prediction.outputs))

    def rerun(self, recorded: Mapping[str, Activations], inputs: Batch) -> Prediction:
        with self._asleep(self.modalities, inputs):
            done = super().rerun(recorded, inputs)
        return Prediction(self._side_by_side(recorded).to(done.outputs.device), done.outputs)

    def live(self, modality: str, recorded: Mapping[str, Activations], inputs: Batch) -> Tensor:
        with self._asleep([m for m in self.modalities if m != modality], inputs):
            return super().live(modality, recorded, inputs)

    def encoder_module(self, modality: str) -> nn.Module:
        """The tower and its projection."""
        return nn.ModuleList([self._tower(modality), super().encoder_module(modality)])

    def _tower(self, modality: str) -> nn.Module:
        return self.model.get_submodule(_TOWERS[modality])

    def _side_by_side(self, recorded: Mapping[str, Activations]) -> Tensor:
        return torch.cat([self.taps[m].feature(recorded[m]).float() for m in self.modalities], 1)

    @contextmanager
    def _asleep(self, modalities: Iterable[str], inputs: Batch) -> Iterator[None]:
        """Towers whose projection answers from a recording need not run: they return zeros that nothing reads."""
        output = importlib.import_module("transformers.modeling_outputs").BaseModelOutputWithPooling
        rows = len(next(iter(inputs.values())))

        def stand_in(*_args: Any, **_kwargs: Any) -> Any:
            nothing = torch.zeros(rows, 1, 1, device=self.device)
            return output(last_hidden_state=nothing, pooler_output=nothing[:, 0])

        own = [vars(self._tower(m)) for m in modalities]
        before = [attributes.get("forward") for attributes in own]
        for attributes in own:
            attributes["forward"] = stand_in
        try:
            yield
        finally:
            for attributes, forward in zip(own, before, strict=True):
                if forward is None:
                    del attributes["forward"]
                else:
                    attributes["forward"] = forward


def _without_constants(checkpoint: Checkpoint | None) -> Checkpoint | None:
    if checkpoint is None:
        return None
    kept = {k: v for k, v in checkpoint.tensors.items() if k.rpartition(".")[2] not in _OLD_CONSTANTS}
    return replace(checkpoint, tensors=kept)
