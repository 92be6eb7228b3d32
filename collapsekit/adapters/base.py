"""Adapter: what every probe sees of a user's model."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from collapsekit.adapters.build import (
    build_model,
    features_path,
    insert_into,
    need_same_architecture,
    need_two,
    to_eval,
)
from collapsekit.adapters.inserts import channel_axis, inserted_in
from collapsekit.adapters.live.fields import InputFields
from collapsekit.adapters.live.state import State, same_bits
from collapsekit.adapters.live.unwrap import unprefixed, unwrapped
from collapsekit.adapters.pooling import Channels, layout_at, pool_features, tokens_of
from collapsekit.adapters.weights.load import WeightsTaken, load_weights
from collapsekit.checkpoint.read import Checkpoint
from collapsekit.config.schema import Config
from collapsekit.data.base import Batch, Source
from collapsekit.data.factory import make_source
from collapsekit.errors import ConfigError
from collapsekit.io.transfer import to_cpu
from collapsekit.tasks.base import Task
from collapsekit.tasks.make import further_tasks, task_of

PARTS = ("encode", "fuse", "head")
# What has to be kept of one modality's encoder to run the rest of the model again; first axis the example.
Activations = tuple[Tensor, ...]


class OwnedActivations(tuple[Tensor, ...]):
    """Recordings that nobody else holds: a model may write into them, so they need not be copied."""

    __slots__ = ()


@dataclass(frozen=True)
class Prediction:
    """The multimodal representation (n, D) and the model's outputs (n, ...), as its task reads them."""

    fused: Tensor
    outputs: Tensor

    def on_cpu(self) -> Prediction:
        """Return the same on the CPU, by one copy."""
        return Prediction(*to_cpu((self.fused, self.outputs)))

    def single(self) -> Prediction:
        """Return the same in float32."""
        return Prediction(self.fused.float(), self.outputs.float())


@dataclass(frozen=True)
class ForwardPass:
    """What one run of encoders, fusion and head left behind for one batch."""

    recorded: dict[str, Activations]
    pooled: dict[str, Tensor]  # per modality, (n, d)
    prediction: Prediction

    def on_cpu(self) -> ForwardPass:
        """Return the same on the CPU, by one copy."""
        said = self.prediction
        parts = [t for r in self.recorded.values() for t in r]
        found = iter(to_cpu((*parts, *self.pooled.values(), said.fused, said.outputs)))
        recorded = {m: tuple(next(found) for _ in r) for m, r in self.recorded.items()}
        return ForwardPass(recorded, {m: next(found) for m in self.pooled}, Prediction(*found))


Change = Callable[[Tensor], Tensor]  # what an encoder gave, first axis the example, to something of the same shape


@dataclass(frozen=True)
class TrainPass:
    """What one training run of a batch gave, gradient kept: pooled features (n, d) by modality, before any change,
    and the model's outputs (n, ...)."""

    pooled: dict[str, Tensor]
    outputs: Tensor


@dataclass(frozen=True)
class Elsewhere:
    """What is known of a model that ran elsewhere: its name, a digest of its answers, and what ran it."""

    name: str
    sha256: str
    engine: str


class BatchKeys:
    """What of a batch is whose, by the config and the task."""

    config: Config
    fields: InputFields
    modalities: tuple[str, ...]
    task: Task

    def input_keys(self, modality: str) -> tuple[str, ...]:
        """List the batch keys that belong to ``modality`` and are replaced with it."""
        return self.fields.of(modality)

    @property
    def batch_keys(self) -> list[str]:
        """Every batch key that is kept of an example, without the label: what the model is given, and parts of that."""
        return self.fields.columns

    @property
    def carried(self) -> tuple[str, ...]:
        """What goes beside the inputs for the task to read outputs by, and is never given to the model: the label's key."""
        label = self.config.data.label
        return (label,) if self.task.needs_targets and label not in self.batch_keys else ()

    @property
    def columns(self) -> list[str]:
        """Every batch key that a run needs: what the model is given, and what is ``carried`` beside it."""
        return [*self.batch_keys, *self.carried]

    def need_label_apart(self) -> None:
        """Raise ConfigError where the task reads outputs by labels that a modality takes along when it is exchanged."""
        label = self.config.data.label
        owner = next((m for m in self.modalities if label in self.input_keys(m)), None)
        if self.task.needs_targets and owner is not None:
            raise ConfigError(
                f"data.label {label!r} is an input of modality {owner!r}, with which it would be taken from other examples: "
                f"task {self.task.name!r} reads answers by the labels of their own examples; name another array."
            )

    def pool_input(self, modality: str, features: Tensor, batch: Batch) -> Tensor | None:
        """Pool inputs of a modality without encoder.

        Args:
            modality: whose they are.
            features: its first input, (n, ...).
            batch: all inputs by key.

        Returns:
            (n, d); None where inputs are pooled as features are.
        """
        del modality, features, batch
        return None

    def scores_of(self, prediction: Tensor, inputs: Batch) -> Tensor:
        """Let the task read a prediction (n, ...) for these inputs at once: outputs (n, ...), which are kept."""
        return self.task.read(prediction, self.targets_for(prediction, inputs))

    def targets_for(self, prediction: Tensor, inputs: Batch) -> Tensor | None:
        """Return the labels (n, ...) that a prediction (n, ...) for these inputs is read by; None where it needs none."""
        return inputs[self.config.data.label].to(prediction.device) if self.task.needs_targets else None


class Adapter(BatchKeys, ABC):
    """A user's model as a thing that runs, answers again from recordings, and trains. ``self.model`` is the config's model
    with the checkpoint's weights. Where it is encoders, a fusion and a head, subclass EncodeFuseHeadAdapter."""

    _by_parts: ClassVar[type[Adapter] | None] = None  # EncodeFuseHeadAdapter, which sets it
    elsewhere: Elsewhere | None = None  # of a model whose answers came through files; ``self.model`` is then nobody's
    # Why there is no ``fresh`` model, and what to do about it; follows "as".
    why_not_fresh: ClassVar[str] = "the model cannot be built afresh: give model.factory in the config"

    def __init_subclass__(cls, *, by_parts: bool = False, **kwargs: Any) -> None:
        """Give a class that has ``encode``, ``fuse`` and ``head``, as version 0.1.0 asked for, the base that runs them."""
        super().__init_subclass__(**kwargs)
        base_for_parts = Adapter._by_parts
        if by_parts:
            Adapter._by_parts = cls
        elif base_for_parts is not None and cls.run is Adapter.run and any(hasattr(cls, part) for part in PARTS):
            warnings.warn(
                f"{cls.__name__} has {', '.join(PARTS)}: make it a subclass of collapsekit.{base_for_parts.__name__}, and "
                "not of collapsekit.Adapter.",
                DeprecationWarning,
                stacklevel=3,  # the class statement, behind ABCMeta's own frame
            )
            cls.__bases__ = tuple(base_for_parts if base is Adapter else base for base in cls.__bases__)

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
        self.at_input: frozenset[str] = frozenset()  # modalities that are recorded, and edited, at the model's input
        need_two(config)
        self.fields = InputFields(config)
        self.task: Task = task_of(config)
        further_tasks(self.task, config)  # raises where it lacks one of them
        self.source = source if source is not None else make_source(config)
        model = unwrapped(build_model(config, seed)) if model is None else model
        self.config = config = unprefixed(config, model)
        self.model = insert_into(model, config.structure)
        self.weights = load_weights(self.model, checkpoint, config.model.ignore) if checkpoint else WeightsTaken()
        to_eval(self.model, self.device)
        self.task = self.task.for_model(self.model)
        self.need_label_apart()
        self.unsteady: State | None = None  # what each forward changes of the weights, as it was found
        self.cast: frozenset[str] = frozenset()  # batch keys of integers that the model reads as floating values
        self.written: frozenset[str] | None = None  # batch keys that forward writes into; None: not known yet
        self.fillers: dict[
            str, float
        ] = {}  # by modality, once known: what numbers of the others become beside it alone

    def steady(self) -> None:
        """Put back what a forward before this one changed of the weights."""
        if self.unsteady is not None:
            self.unsteady.put_back()

    @contextmanager
    def still(self) -> Iterator[None]:
        """Take the weights as they are now, after training, for what each forward's changes are put back to."""
        self.unsteady = None if self.unsteady is None else self.unsteady.renewed()
        try:
            yield
        finally:
            self.steady()

    def apart(self, inputs: Batch) -> Batch:
        """Return inputs with copies of those that a forward is known to write into, or, before the first one, of all."""
        return {k: v.clone() if self.written is None or k in self.written else v for k, v in inputs.items()}

    def note_written(self, inputs: Batch, given: Batch) -> None:
        """Note after the first forward which inputs hold something else in ``given``, the copies it was run on."""
        if self.written is None:
            found = to_cpu([*inputs.values(), *(given[k] for k in inputs)])
            pairs = zip(inputs, found, found[len(inputs) :], strict=False)
            self.written = frozenset(k for k, before, now in pairs if not same_bits(before, now))

    def insert(self, structure: Sequence[Mapping[str, Any]]) -> None:
        """Put a repair's modules into the model (collapsekit.adapters.inserts), and let the config say so; of a kind
        that is there already, nothing. Raises ConfigError where they do not fit."""
        known = {record["kind"] for record in self.config.structure}
        new = [dict(record) for record in structure if record["kind"] not in known]
        self.config = self.config.model_copy(update={"structure": (*self.config.structure, *new)})
        insert_into(self.model, new).to(self.device)

    @abstractmethod
    def run(self, batch: Batch) -> ForwardPass:
        """Run the whole model once on a batch: what it takes to answer again, and the answer."""

    @abstractmethod
    def rerun(self, recorded: Mapping[str, Activations], inputs: Batch) -> Prediction:
        """Answer recorded (and possibly altered) features of every modality; encoders do not run. ``inputs`` are for
        models that read something of them past the encoders."""

    @abstractmethod
    def run_live(self, batch: Batch, change: Mapping[str, Change] | None = None) -> TrainPass:
        """Run once with gradient to every weight, for training; what a modality's encoder gives, every floating tensor of
        it, passes ``change`` on its way to the fusion. The weights move on with it: nothing of them is put back any more."""

    def outputs_of(self, recorded: Mapping[str, Activations], inputs: Batch) -> Tensor:
        """Compute outputs (n, ...) on ``inputs``; where it can be told apart, encoders of those ``recorded`` do not run."""
        del recorded
        return self.run(inputs).prediction.outputs

    def live(self, modality: str, recorded: Mapping[str, Activations], inputs: Batch) -> Tensor:
        """Compute features of one modality with gradient to its encoder, for training it alone.

        Args:
            modality: whose encoder runs.
            recorded: of the others, which need not run.
            inputs: a batch.

        Returns:
            Pooled features (n, d).
        """
        del recorded
        return self.run_live(inputs).pooled[modality]

    def feature_index(self, modality: str) -> int:
        """Say which of the tensors recorded of ``modality`` is its features."""
        del modality
        return 0

    def floating_index(self, modality: str, recorded: Activations) -> int:
        """Say which of the floating ones among the tensors ``recorded`` of ``modality`` is its features."""
        return sum(t.is_floating_point() for t in recorded[: self.feature_index(modality)])

    def features_of(self, modality: str, recorded: Activations) -> Tensor:
        """Pick the features (n, ...) of ``modality`` among the tensors ``recorded`` of it."""
        return recorded[self.feature_index(modality)]

    def layout(self, modality: str, features: Tensor) -> Channels:
        """Say where ``features`` (n, ...) have channels: config, else the encoder's layers; None: neither says."""
        section = self.config.modalities[modality]
        return section.channels or layout_at(self.model, section.encoder, features.shape)

    def channel_axis(self, modality: str, features: Tensor) -> int:
        """Say which axis of ``features`` (n, ...) of ``modality`` holds their channels."""
        return channel_axis(features.ndim, self.layout(modality, features))

    def tokens_of(self, modality: str, features: Tensor) -> Tensor:
        """Lay features (n, ...) of ``modality``, of three or more axes, out as tokens (n, t, d), one a position."""
        return tokens_of(features, self.layout(modality, features))

    def need_encoders(self) -> None:
        """Raise ConfigError where a repair can put nothing behind an encoder."""
        for m, section in self.config.modalities.items():
            if section.encoder is None or section.encoder.endswith(":input"):
                raise ConfigError(
                    f"this repair puts modules behind each encoder, and modality {m!r} names none that is a submodule of "
                    "its own: put an nn.Identity where its features pass and name that as `encoder`."
                )

    def pool(self, modality: str, features: Tensor, batch: Batch) -> Tensor:
        """Pool a modality's features as the config says.

        Args:
            modality: whose they are.
            features: (n, ...).
            batch: which holds the modality's mask, where it has one.

        Returns:
            One vector an example, (n, d).
        """
        if modality in self.at_input and (found := self.pool_input(modality, features, batch)) is not None:
            return found
        section = self.config.modalities[modality]
        mask = batch[section.mask] if section.mask is not None else None
        return pool_features(features, section.pool, self.layout(modality, features), mask, f"modality {modality!r}")

    def fresh(self, seed: int, *, trained: Checkpoint | None = None) -> Adapter | None:
        """Build the same architecture newly initialised (or with ``trained`` weights); None where it can't be built.

        Raises ConfigError where ``model.factory`` builds another architecture than the model at hand.
        """
        if self.config.model.factory is None:
            return None
        twin = type(self)(self.config, checkpoint=trained, source=self.source, device=str(self.device), seed=seed)
        need_same_architecture(self.model, twin.model, self.config.model.factory)
        twin.written, twin.cast, twin.task = self.written, self.cast, self.task
        return twin

    def fusion_parameters(self) -> list[nn.Parameter]:
        """List the parameters of fusion and head: everything that is no encoder's."""
        inside = {id(p) for m in self.modalities for p in self.encoder_module(m).parameters()}
        return [p for p in self.model.parameters() if id(p) not in inside]

    def encoder_module(self, modality: str) -> nn.Module:
        """Find ``modality``'s encoder, with a head inserted behind it; an empty module where it has none of its own."""
        path = self.config.modalities[modality].encoder
        if path is None or path.endswith(":input"):
            return nn.Module()
        return self.model.get_submodule(features_path(self.model, path))
