"""ModuleAdapter: any nn.Module by submodule paths, without code from the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from collapsekit.adapters.base import (
    Activations,
    Adapter,
    Change,
    ForwardPass,
    Prediction,
    TrainPass,
)
from collapsekit.adapters.build import features_path, find_submodule, need_bare
from collapsekit.adapters.hooks import Reached, Tap, attribute_set, features_by_call, shape_behind
from collapsekit.adapters.inserts import WithEvidence
from collapsekit.adapters.live.alone import answer_alone, answer_features, hide_answers
from collapsekit.adapters.live.collated import collated_arguments
from collapsekit.adapters.live.hints import explain_call
from collapsekit.adapters.live.inputs import (
    change_inputs,
    give_values,
    pool_inputs,
    prepare_inputs,
    record_inputs,
    run_prepared,
    shape_of,
)
from collapsekit.adapters.live.presence import by_presence, filled, missing_note
from collapsekit.adapters.outputs import prediction_in, shapes_in
from collapsekit.adapters.pooling import pool_fused
from collapsekit.adapters.predictions.sampling import answer_over_seeds, average_passes, average_predictions
from collapsekit.adapters.pruning.find import NOTHING, Pruning, find_pruning
from collapsekit.adapters.pytree import nest_arguments
from collapsekit.adapters.recording.recorder import Recorder
from collapsekit.config.schema import Config
from collapsekit.data.base import EXAMPLE, Batch
from collapsekit.errors import CollapsekitError, ConfigError
from collapsekit.registry import adapter
from collapsekit.user_code.frames import one_line
from collapsekit.user_code.process_state import user_code


@adapter("module", summary="any torch.nn.Module, described by submodule paths in collapsekit.yaml")
class ModuleAdapter(Adapter):
    """Encoders and fusion named by submodule path. What-if questions run the model's own forward with the
    encoders answering from their recordings, so the answers are the model's, not an imitation of it. A modality without an
    encoder is recorded, and edited, at the model's input."""

    hides_answers = False  # whether answers in the model's input are kept from it, as behind them its logits say them

    def __init__(self, config: Config, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        taps = {m: _tap_of(self, m) for m, section in self.config.modalities.items() if section.encoder is not None}
        self.at_input = frozenset(self.modalities) - taps.keys()
        config = self.config
        fusion = None if config.fusion is None else _make_tap(self.model, config.fusion, f"fusion {config.fusion!r}")
        _need_apart(taps, fusion)
        self.recorder = Recorder(taps, fusion, self._guarded_forward, self.fields.altered)
        self.returned: tuple[tuple[int, ...], ...] | None = (
            None  # shapes of a tuple's tensors over examples, once known
        )
        self.pruning: Pruning | None = None  # what replays leave out; None: not found out yet, so nothing
        if config.head is not None:
            find_submodule(self.model, config.head.removesuffix(":input"), "head")

    @property
    def taps(self) -> dict[str, Tap]:
        """Where modalities are recorded, those that have an encoder."""
        return self.recorder.taps

    def insert(self, structure: Sequence[Mapping[str, Any]]) -> None:
        super().insert(structure)
        self.pruning = None
        for m, before in self.taps.items():
            self.taps[m] = _tap_of(self, m)
            self.taps[m].shape = shape_behind(before, self.taps[m].module)

    def feature_index(self, modality: str) -> int:
        return self.taps[modality].place if modality in self.taps else 0

    def features_of(self, modality: str, recorded: Activations) -> Tensor:
        tap = self.taps.get(modality)
        if tap is None or tap.calls is None:
            return super().features_of(modality, recorded)
        parts = features_by_call(tap, recorded)  # of several inputs through one encoder: their channels side by side
        return torch.cat(list(parts), self.channel_axis(modality, parts[0])) if len(parts) > 1 else parts[0]

    def pool_input(self, modality: str, features: Tensor, batch: Batch) -> Tensor | None:
        if not features.is_floating_point():
            return pool_inputs(self, modality, batch)
        known = filled(features)
        return None if known is features else super().pool(modality, known, batch)

    def need_encoders(self) -> None:
        need_bare(self.config)
        super().need_encoders()
        for m, tap in self.taps.items():
            tap.need_place_behind(m)

    def prepare(self, batch: Batch) -> Batch:
        """Make inputs as the model wants them: on its device, scaled, floating values in its own precision."""
        return prepare_inputs(self, batch)

    def forward(self, inputs: Batch) -> Any:
        """Run the model's own forward on prepared inputs, called as the config says."""
        if EXAMPLE in inputs:
            self.steady()
            given = hide_answers(self, collated_arguments(self, inputs), inputs)
            return call_model(self.model, self.config.call, given)
        left_out = _only_for_pooling(self.config)
        columns, inputs = inputs, {k: inputs[k] for k in self.fields.model_keys if k not in left_out}
        self.steady()
        given = self.apart(hide_answers(self, inputs, columns))
        answer = call_model(self.model, self.config.call, give_values(self, given), self.config.batch)
        self.note_written(inputs, given)
        return answer

    def run(self, batch: Batch) -> ForwardPass:
        def run(some: Batch, _: object) -> ForwardPass:
            return run_prepared(self, self.prepare, some, partial(self._run, some))

        return answer_over_seeds(self, lambda: by_presence(self, batch, {}, run), average_passes)

    def _run(self, batch: Batch, inputs: Batch) -> ForwardPass:
        heard = self.recorder.heard(inputs)
        recorded: dict[str, Activations] = {
            m: record_inputs(self, m, batch) if m in self.at_input else self.taps[m].take(heard.captures[m])
            for m in self.modalities
        }
        pooled = {
            m: self.pool(m, self.features_of(m, recorded[m]), {**inputs, **batch}).float() for m in self.modalities
        }
        fused = [] if heard.fused is None else [heard.fused.value]
        return ForwardPass(recorded, pooled, self._prediction(fused, heard.output, inputs))

    def _prediction(self, fused: Sequence[Any], output: Any, inputs: Batch) -> Prediction:
        found = self.recorder.fused_of(fused, len(next(iter(inputs.values()))))
        return Prediction(pool_fused(self.model, self.config.fusion, found).float(), self._outputs(output, inputs))

    def _outputs(self, output: Any, inputs: Batch) -> Tensor:
        """What the task reads in whatever the model returned for prepared inputs."""
        rows = len(next(iter(inputs.values())))
        self.returned = shapes_in(output, rows) if self.returned is None else self.returned
        return self.scores_of(prediction_in(output, self.config.output, self.task, rows), inputs)

    def rerun(self, recorded: Mapping[str, Activations], inputs: Batch) -> Prediction:
        return self._answered({m: recorded[m] for m in self.modalities}, inputs)

    def outputs_of(self, recorded: Mapping[str, Activations], inputs: Batch) -> Tensor:
        return self._answered(recorded, inputs).outputs

    def _answered(self, recorded: Mapping[str, Activations], inputs: Batch) -> Prediction:
        """The model's own forward, the encoders of ``recorded`` answering with that, and other modalities at the input."""
        at_input = {
            k: t for m, r in recorded.items() if m in self.at_input for k, t in zip(self.fields.of(m), r, strict=True)
        }
        replayed, inputs = {m: r for m, r in recorded.items() if m in self.taps}, {**inputs, **at_input}

        def run(some: Batch, mine: Mapping[str, Activations]) -> Prediction:
            return run_prepared(self, self.prepare, some, partial(self._replayed, mine))

        return answer_over_seeds(self, lambda: by_presence(self, inputs, replayed, run), average_predictions)

    def _replayed(self, recorded: Mapping[str, Activations], ready: Batch) -> Prediction:
        with ExitStack() as stack:
            stack.enter_context((self.pruning or NOTHING).applied(recorded, len(next(iter(ready.values())))))
            fused = stack.enter_context(self.recorder.replaying(recorded, self.device))
            output = self._guarded_forward(ready)
        return self._prediction(fused, output, ready)

    def prune(self, batch: Batch, recorded: Mapping[str, Activations]) -> tuple[str, ...]:
        """Find out what replays may leave out, on the first ``batch`` and what was ``recorded`` of it. Returns paths of what
        seemed not to be needed, where the model answered otherwise without it: all of it runs then."""
        if self.pruning is None:
            whole = self.recorder.replays_all(recorded)
            self.pruning = find_pruning(self, batch, recorded, self.recorder) if whole else NOTHING
        return self.pruning.refused

    def live(self, modality: str, recorded: Mapping[str, Activations], inputs: Batch) -> Tensor:
        def run(some: Batch, mine: Mapping[str, Activations]) -> Tensor:
            answer = partial(self._live, modality, mine) if modality in self.taps else partial(_answer_features, self)
            return run_prepared(self, self.prepare, some, answer)

        if modality in self.taps:
            return by_presence(self, inputs, recorded, run)
        with attribute_set(self, "hides_answers", self.task.needs_targets):  # the whole model stands for its encoder
            return answer_features(
                answer_alone(self, modality, inputs, lambda alone: by_presence(self, alone, {}, run))
            )

    def _live(self, modality: str, recorded: Mapping[str, Activations], ready: Batch) -> Tensor:
        tap = self.taps[modality]
        with ExitStack() as stack:
            for m, other in self.taps.items():
                if m != modality:
                    stack.enter_context(other.replaying(recorded[m], self.device))
            stack.enter_context(tap.recording([], stop=True))
            try:
                self._guarded_forward(ready)
            except Reached as stop:
                return self.pool(modality, tap.live_feature(stop.value), ready)
        raise ConfigError(f"{tap.what} was not reached in a forward pass: name a submodule the model calls.")

    def run_live(self, batch: Batch, change: Mapping[str, Change] | None = None) -> TrainPass:
        self.unsteady = None  # as the weights move on
        change = change or {}
        batch = {**batch, **change_inputs(self, batch, {m: c for m, c in change.items() if m in self.at_input})}

        def run(some: Batch, _: object) -> TrainPass:
            return run_prepared(self, self.prepare, some, partial(self._run_live, change, some))

        # A change of what encoders give is of all examples at once.
        return by_presence(self, batch, {}, run) if self.taps.keys().isdisjoint(change) else run(batch, {})

    def _run_live(self, change: Mapping[str, Change], batch: Batch, ready: Batch) -> TrainPass:
        seen: dict[str, list[Tensor]] = {m: [] for m in self.taps}
        with ExitStack() as stack:
            for m, tap in self.taps.items():
                stack.enter_context(tap.changing(change.get(m), seen[m]))
            output = self._guarded_forward(ready)
        features = {m: tap.only(seen[m]) for m, tap in self.taps.items()}
        features |= {m: record_inputs(self, m, batch)[0] for m in self.at_input}
        pooled = {m: self.pool(m, features[m], {**ready, **batch}) for m in self.modalities}
        return TrainPass(pooled, self._outputs(output, ready))

    def fresh(self, seed: int, *, trained: Any = None) -> Adapter | None:
        twin = cast("ModuleAdapter | None", super().fresh(seed, trained=trained))
        if twin is not None:  # the same architecture, so the recordings' shapes are the same
            twin.recorder.know(self.recorder)
        return twin

    def _guarded_forward(self, inputs: Batch) -> Any:
        try:
            with user_code("the model's forward"):
                return self.forward(inputs)
        except CollapsekitError:
            raise
        except Exception as e:
            shapes = ", ".join(shape_of(self, k, v) for k, v in inputs.items() if k not in self.carried)
            raise ConfigError(
                f"the model's forward failed, called with {self.config.call} ({shapes}): {one_line(e)}; "
                f"{explain_call(self, inputs, self.forward)}{missing_note(self, inputs)}."
            ) from e


def _answer_features(adapter: ModuleAdapter, inputs: Batch) -> Tensor:
    """What is read out of the model's answer for prepared inputs, where it stands for an encoder."""
    rows = len(next(iter(inputs.values())))
    prediction = prediction_in(adapter._guarded_forward(inputs), adapter.config.output, adapter.task, rows)
    return adapter.task.to_features(prediction, adapter.targets_for(prediction, inputs))


def call_model(model: nn.Module, how: str, given: Any, parts: Sequence[str] = ()) -> Any:
    """Call a model as the config says.

    Args:
        model: the model.
        how: ``call`` of the config.
        given: a mapping of names to what it takes; with ``dict`` anything.
        parts: names of the parts of tuple batches, of which forward may take one whole.

    Returns:
        What the model returns.
    """
    match how:
        case "kwargs":
            return model(**nest_arguments(model, given, parts))
        case "positional":
            return model(*given.values())
        case "list":
            return model(list(given.values()))
        case _:
            return model(given)


def _only_for_pooling(config: Config) -> set[str]:
    """Masks that were named for pooling but not as inputs of the model."""
    sections = config.modalities
    named = {k for m, s in sections.items() for k in ([s.input] if isinstance(s.input, str) else s.input or [m])}
    return {s.mask for s in sections.values() if s.mask is not None} - named - set(config.data.also)


def _tap_of(adapter: ModuleAdapter, modality: str) -> Tap:
    section = adapter.config.modalities[modality]
    assert section.encoder is not None
    path = features_path(adapter.model, section.encoder)
    tap = _make_tap(adapter.model, path, f"encoder {section.encoder!r} of modality {modality!r}")
    tap.select = section.select
    if isinstance(tap.module, WithEvidence) and section.select is not None:
        tap.select = (0, section.select)
    return tap


def _make_tap(model: nn.Module, path: str, what: str) -> Tap:
    entering = path.endswith(":input")
    plain = path.removesuffix(":input")
    return Tap(what, find_submodule(model, plain, what.split(" ")[0]), entering, path=plain)


def _need_apart(taps: Mapping[str, Tap], fusion: Tap | None) -> None:
    """Raises ConfigError where one tap lies inside an encoder: a replay leaves out all that lies inside of it."""
    for tap in taps.values():
        for inner in [*taps.values(), *([] if fusion is None else [fusion])]:
            if inner is tap or (inner is not fusion and inner.place_key == tap.place_key):
                continue  # one module may be called for several modalities
            if not tap.entering and any(inner.module is sub for sub in tap.module.modules()):
                raise ConfigError(
                    f"{inner.what} lies inside {tap.what}: the two must not contain one another; name submodules "
                    "side by side, put an nn.Identity behind each and name those, or leave `encoder` out, and the modality "
                    "is edited at the model's input."
                )
