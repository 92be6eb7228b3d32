"""Adapter: what every probe sees of a user's model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from collapsekit.adapters.build import build_model, features_path, insert_into, load_weights, to_eval
from collapsekit.adapters.described import need_two
from collapsekit.adapters.inserts import inserted_in
from collapsekit.adapters.live.state import State, same_bits
from collapsekit.adapters.live.unwrap import unprefixed, unwrapped
from collapsekit.adapters.pooling import pool_features
from collapsekit.checkpoint.read import Checkpoint
from collapsekit.config.schema import Config
from collapsekit.data.base import Batch, Source, make_source
from collapsekit.errors import ConfigError
from collapsekit.tasks.base import Task, make_task
from collapsekit.user_code.process_state import user_code

OWN = "the adapter's encode, fuse or head"
# What has to be kept of one modality's encoder to run the rest of the model again; first axis the example.
Recorded = tuple[Tensor, ...]


class Given(tuple[Tensor, ...]):
    """Recordings that nobody else holds: a model may write into them, so they need not be copied."""

    __slots__ = ()


@dataclass(frozen=True)
class Prediction:
    """The multimodal representation (n, D) and the model's outputs (n, ...)."""

    fused: Tensor
    outputs: Tensor


@dataclass(frozen=True)
class Pass:
    """What one run of encoders, fusion and head left behind for one batch."""

    recorded: dict[str, Recorded]
    pooled: dict[str, Tensor]  # per modality, (n, d)
    prediction: Prediction


Change = Callable[[Tensor], Tensor]  # what an encoder gave, first axis the example, to something of the same shape


@dataclass(frozen=True)
class Live:
    """What one training run of a batch gave, gradient kept: pooled features (n, d) by modality, before any change,
    and the model's outputs (n, ...)."""

    pooled: dict[str, Tensor]
    outputs: Tensor


class Adapter(ABC):
    """Subclass this where YAML is not enough: give ``encode``, ``fuse`` and ``head``, and name it in the config
    as ``adapter: my_module:MyAdapter``. ``self.model`` is the config's model with the checkpoint's weights."""

    def __init__(
        self,
        config: Config,
        *,
        checkpoint: Checkpoint | None = None,
        model: nn.Module | None = None,
        source: Source | None = None,
        device: str = "cpu",
        seed: int = 0,
    ) -> None:
        model = None if model is None else unwrapped(model)
        if model is not None and not config.structure:  # a repaired model, alive
            config = config.model_copy(update={"structure": tuple(inserted_in(model))})
        self.device, self.checkpoint = torch.device(device), checkpoint
        self.modalities: tuple[str, ...] = tuple(config.modalities)
        need_two(config)
        self.task: Task = make_task(config.task, metric=config.metric, temperature=config.temperature, base=config.base)
        self.source = source if source is not None else make_source(config)
        model = unwrapped(build_model(config, seed)) if model is None else model
        self.config = config = unprefixed(config, model)
        self.model = insert_into(model, config.structure)
        if checkpoint is not None:
            load_weights(self.model, checkpoint)
        to_eval(self.model, self.device)
        self.unsteady: State | None = None  # what each forward changes of the weights, as it was found
        self.written: frozenset[str] | None = None  # batch keys that forward writes into; None: not known yet

    def steady(self) -> None:
        """Put back what a forward before this one changed of the weights."""
        if self.unsteady is not None:
            self.unsteady.put_back()

    @contextmanager
    def still(self) -> Iterator[None]:
        """For a model that has been trained on since: what each forward changes is put back to what it is now."""
        self.unsteady = None if self.unsteady is None else self.unsteady.renewed()
        try:
            yield
        finally:
            self.steady()

    def apart(self, inputs: Batch) -> Batch:
        """Inputs that a forward may write into: copies of those it is known to write into, or, before the first forward,
        of all."""
        return {k: v.clone() if self.written is None or k in self.written else v for k, v in inputs.items()}

    def note_written(self, inputs: Batch, given: Batch) -> None:
        """After the first forward: which of its inputs, as ``given``, hold something else now."""
        if self.written is None:
            self.written = frozenset(k for k, v in inputs.items() if not same_bits(v, given[k]))

    def insert(self, structure: Sequence[Mapping[str, Any]]) -> None:
        """Put a repair's modules into the model (collapsekit.adapters.inserts), and let the config say so; of a kind
        that is there already, nothing. Raises ConfigError where they do not fit."""
        known = {record["kind"] for record in self.config.structure}
        new = [dict(record) for record in structure if record["kind"] not in known]
        self.config = self.config.model_copy(update={"structure": (*self.config.structure, *new)})
        insert_into(self.model, new).to(self.device)

    @abstractmethod
    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """Features of every modality, first axis the example."""

    @abstractmethod
    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        """The multimodal representation, first axis the example."""

    @abstractmethod
    def head(self, fused: Tensor) -> Tensor:
        """The prediction (logits, values, or two embeddings side by side)."""

    def input_keys(self, modality: str) -> tuple[str, ...]:
        """Batch keys that belong to ``modality`` and are replaced with it."""
        section = self.config.modalities[modality]
        own = section.input if section.input is not None else modality
        keys = (own,) if isinstance(own, str) else own
        return tuple(dict.fromkeys([*keys, *([section.mask] if section.mask is not None else [])]))

    @property
    def batch_keys(self) -> list[str]:
        """Every batch key the model is given, without the label."""
        keys = [k for m in self.modalities for k in self.input_keys(m)]
        return list(dict.fromkeys([*keys, *self.config.data.also]))

    def run(self, batch: Batch) -> Pass:
        """Encoders, fusion and head, once."""
        with user_code(OWN):
            features = self._encoded(batch)
            fused = self.fuse(features)
            outputs = self.head(fused)
        recorded: dict[str, Recorded] = {m: (features[m],) for m in self.modalities}
        pooled = {m: self.pool(m, features[m], batch) for m in self.modalities}
        return Pass(recorded, pooled, Prediction(pool_features(fused), outputs))

    def _encoded(self, batch: Batch) -> dict[str, Tensor]:
        self.steady()
        given = self.apart(batch)
        features = self.encode(given)
        self.note_written(batch, given)
        return features

    def rerun(self, recorded: Mapping[str, Recorded], inputs: Batch) -> Prediction:
        """Fusion and head alone, on recorded (and possibly altered) features; encoders do not run."""
        del inputs
        self.steady()
        with user_code(OWN):
            fused = self.fuse({m: recorded[m][0].to(self.device) for m in self.modalities})
            outputs = self.head(fused)
        return Prediction(pool_features(fused), outputs)

    def outputs_of(self, recorded: Mapping[str, Recorded], inputs: Batch) -> Tensor:
        """The model's outputs on ``inputs``, of which some modalities' recordings are at hand: where it can be told apart,
        their encoders do not run."""
        del recorded
        return self.run(inputs).prediction.outputs

    def pool(self, modality: str, features: Tensor, batch: Batch) -> Tensor:
        """One vector an example from a modality's features, as the config says."""
        section = self.config.modalities[modality]
        mask = batch[section.mask] if section.mask is not None else None
        return pool_features(features, section.pool, section.channels, mask, f"modality {modality!r}")

    def live(self, modality: str, recorded: Mapping[str, Recorded], inputs: Batch) -> Tensor:
        """Features (n, d) of one modality with gradient to its encoder, for training it alone."""
        del recorded
        with user_code(OWN):
            features = self._encoded(inputs)[modality]
        return self.pool(modality, features, inputs)

    def run_live(self, batch: Batch, change: Mapping[str, Change] | None = None) -> Live:
        """One run with gradient to every weight, for training; what a modality's encoder gives, every floating tensor of
        it, passes ``change`` on its way to the fusion. The weights move on with it: nothing of them is put back any more."""
        self.unsteady = None
        with user_code(OWN):
            features = self._encoded(batch)
        changed = {m: change[m](f) if change is not None and m in change else f for m, f in features.items()}
        with user_code(OWN):
            outputs = self.head(self.fuse(changed))
        return Live({m: self.pool(m, features[m], batch) for m in self.modalities}, outputs)

    def fresh(self, seed: int, *, trained: Checkpoint | None = None) -> Adapter | None:
        """The same architecture newly initialised (or with ``trained`` weights); None where it can't be built.

        Raises ConfigError where ``model.factory`` builds another architecture than the model at hand.
        """
        if self.config.model.factory is None:
            return None
        twin = type(self)(self.config, checkpoint=trained, source=self.source, device=str(self.device), seed=seed)
        ours, theirs = (
            {k: v.shape for k, v in a.model.state_dict().items() if isinstance(v, Tensor)} for a in (self, twin)
        )
        odd = next((k for k in [*ours, *theirs] if ours.get(k) != theirs.get(k)), None)
        if odd is not None:
            raise ConfigError(
                f"model.factory {self.config.model.factory!r} builds another architecture than the model at hand: they "
                f"differ in {odd!r}; give the factory and the model.kwargs that made it."
            )
        twin.written = self.written
        return twin

    def fusion_parameters(self) -> list[nn.Parameter]:
        """Parameters of fusion and head: everything that is no encoder's."""
        inside = {id(p) for m in self.modalities for p in self.encoder_module(m).parameters()}
        return [p for p in self.model.parameters() if id(p) not in inside]

    def encoder_module(self, modality: str) -> nn.Module:
        """The submodule that is ``modality``'s encoder, a head inserted behind it included; an empty module where it has
        none of its own."""
        path = self.config.modalities[modality].encoder
        if path is None or path.endswith(":input"):
            return nn.Module()
        return self.model.get_submodule(features_path(self.model, path))
