"""ModuleAdapter: any nn.Module by submodule paths, without code from the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from collapsekit.adapters.base import Activations, Adapter, Change, ForwardPass, Prediction, TrainPass
from collapsekit.adapters.build import check_described, features_path, find_submodule, need_bare
from collapsekit.adapters.hooks import Capture, Reached, Tap, cached_tensors, shape_behind
from collapsekit.adapters.inserts import WithEvidence
from collapsekit.adapters.live.inputs import prepare_inputs, run_prepared
from collapsekit.adapters.outputs import prediction_in
from collapsekit.adapters.pooling import pool_fused
from collapsekit.adapters.pruning.find import NOTHING, Pruning, find_pruning
from collapsekit.config.imports import one_line
from collapsekit.config.schema import Config
from collapsekit.data.base import Batch
from collapsekit.errors import CollapsekitError, ConfigError
from collapsekit.registry import adapter
from collapsekit.user_code.process_state import user_code


@adapter("module", summary="any torch.nn.Module, described by submodule paths in collapsekit.yaml")
class ModuleAdapter(Adapter):
    """Encoders and fusion named by submodule path. What-if questions run the model's own forward with the
    encoders answering from their recordings, so the answers are the model's, not an imitation of it."""

    def __init__(self, config: Config, **kwargs: Any) -> None:
        check_described(config)
        super().__init__(config, **kwargs)
        config = self.config
        self.taps = {m: self._tap(m) for m in self.modalities}
        self.fusion_tap = _make_tap(self.model, str(config.fusion), f"fusion {config.fusion!r}")
        _need_apart(self.taps, self.fusion_tap, config)
        self.pruning: Pruning | None = None  # what replays leave out; None: not found out yet, so nothing
        if config.head is not None:
            find_submodule(self.model, config.head.removesuffix(":input"), "head")

    def _tap(self, modality: str) -> Tap:
        section = self.config.modalities[modality]
        assert section.encoder is not None
        path = features_path(self.model, section.encoder)
        tap = _make_tap(self.model, path, f"encoder {section.encoder!r} of modality {modality!r}")
        tap.select = section.select
        if isinstance(tap.module, WithEvidence) and section.select is not None:
            tap.select = (0, section.select)
        return tap

    def insert(self, structure: Sequence[Mapping[str, Any]]) -> None:
        super().insert(structure)
        self.pruning = None
        for m, before in self.taps.items():
            self.taps[m] = self._tap(m)
            self.taps[m].shape = shape_behind(before, self.taps[m].module)

    def feature_index(self, modality: str) -> int:
        return self.taps[modality].place

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
        left_out = _only_for_pooling(self.config)
        inputs = {k: inputs[k] for k in self.batch_keys if k not in left_out}
        self.steady()
        given = self.apart(inputs)
        answer = self._called(dict(given))
        self.note_written(inputs, given)
        return answer

    def _called(self, given: Batch) -> Any:
        match self.config.call:
            case "kwargs":
                return self.model(**given)
            case "dict":
                return self.model(given)
            case "positional":
                return self.model(*given.values())
            case "list":
                return self.model(list(given.values()))

    def _listen(self, inputs: Batch) -> tuple[dict[str, Capture], Capture, Any]:
        """One forward with every tap listening: what each modality's, and the fusion's, heard; and the output."""
        rows = len(next(iter(inputs.values())))
        seen: dict[str, list[Any]] = {m: [] for m in self.modalities}
        fused: list[Any] = []
        before = {m: cached_tensors(t.module) for m, t in self.taps.items()}
        with ExitStack() as stack:
            for m, tap in self.taps.items():
                stack.enter_context(tap.recording(seen[m]))
            stack.enter_context(self.fusion_tap.recording(fused))
            output = self._guarded_forward(inputs)
        heard = {}
        for m, tap in self.taps.items():
            # Only what this forward wrote; constants stay. After the first batch the shape decides.
            known = tap.shape is not None
            now = {k: v for k, v in cached_tensors(tap.module).items() if known or before[m].get(k) is not v}
            heard[m] = Capture(_once(seen[m], tap.what), rows, now)
        return heard, Capture(_once(fused, self.fusion_tap.what), rows, {}), output

    def _learn(self, inputs: Batch, heard: dict[str, Capture], fused: Capture) -> None:
        """Learn from the first batch which axis counts examples; from a second, tiny one where that leaves it open."""
        pairs = [(tap, heard[m]) for m, tap in self.taps.items()] + [(self.fusion_tap, fused)]
        others: list[Capture | None] = [None] * len(pairs)
        if any(tap.ambiguous(one) for tap, one in pairs):
            rows = torch.arange(3 if fused.rows == 2 else 2, device=self.device) % fused.rows
            again, fused_again, _ = self._listen({k: v[rows] for k, v in inputs.items()})
            others = [*(again[m] for m in self.taps), fused_again]
        for (tap, one), other in zip(pairs, others, strict=True):
            tap.learn(one, other)
        shape = self.fusion_tap.shape
        if self.fusion_tap.entering and shape is not None and shape.floating > 1:
            raise ConfigError(
                f"{self.fusion_tap.what}: {shape.floating} tensors enter it, so it is what mixes them; name its output "
                f"({str(self.config.fusion).removesuffix(':input')!r}), or a later submodule, as `fusion`."
            )

    def run(self, batch: Batch) -> ForwardPass:
        return run_prepared(self, self.prepare, batch, self._run)

    def _run(self, inputs: Batch) -> ForwardPass:
        heard, fused, output = self._listen(inputs)
        if self.fusion_tap.shape is None:
            self._learn(inputs, heard, fused)
        recorded = {m: tap.take(heard[m]) for m, tap in self.taps.items()}
        pooled = {m: self.pool(m, self.features_of(m, recorded[m]), inputs).float() for m in self.modalities}
        feature = self.fusion_tap.feature(self.fusion_tap.take(fused))
        return ForwardPass(recorded, pooled, self._prediction(feature, output, inputs))

    def _prediction(self, fused: Tensor, output: Any, inputs: Batch) -> Prediction:
        return Prediction(pool_fused(self.model, self.config.fusion, fused).float(), self._outputs(output, inputs))

    def _outputs(self, output: Any, inputs: Batch) -> Tensor:
        """What the task reads in whatever the model returned for prepared inputs."""
        rows = len(next(iter(inputs.values())))
        return self.scores_of(prediction_in(output, self.config.output, self.task, rows), inputs)

    def rerun(self, recorded: Mapping[str, Activations], inputs: Batch) -> Prediction:
        return run_prepared(
            self, self.prepare, inputs, partial(self._replayed, {m: recorded[m] for m in self.modalities})
        )

    def outputs_of(self, recorded: Mapping[str, Activations], inputs: Batch) -> Tensor:
        return run_prepared(self, self.prepare, inputs, partial(self._replayed, recorded)).outputs

    def _replayed(self, recorded: Mapping[str, Activations], ready: Batch) -> Prediction:
        """The model's own forward on prepared inputs, the encoders of ``recorded`` answering with that."""
        fused: list[Any] = []
        with ExitStack() as stack:
            stack.enter_context((self.pruning or NOTHING).applied(recorded, len(next(iter(ready.values())))))
            for m in recorded:
                stack.enter_context(self.taps[m].replaying(recorded[m], self.device))
            stack.enter_context(self.fusion_tap.recording(fused))
            output = self._guarded_forward(ready)
        feature = self.fusion_tap.live_feature(_once(fused, self.fusion_tap.what))
        return self._prediction(feature, output, ready)

    def prune(self, batch: Batch, recorded: Mapping[str, Activations]) -> tuple[str, ...]:
        """Find out what replays may leave out, on the first ``batch`` and what was ``recorded`` of it. Returns paths of what
        seemed not to be needed, where the model answered otherwise without it: all of it runs then."""
        if self.pruning is None:
            self.pruning = find_pruning(self, batch, recorded, self.taps, self.fusion_tap)
        return self.pruning.refused

    def live(self, modality: str, recorded: Mapping[str, Activations], inputs: Batch) -> Tensor:
        return run_prepared(self, self.prepare, inputs, partial(self._live, modality, recorded))

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
        return run_prepared(self, self.prepare, batch, partial(self._run_live, change or {}))

    def _run_live(self, change: Mapping[str, Change], ready: Batch) -> TrainPass:
        seen: dict[str, list[Tensor]] = {m: [] for m in self.modalities}
        with ExitStack() as stack:
            for m, tap in self.taps.items():
                stack.enter_context(tap.changing(change.get(m), seen[m]))
            output = self._guarded_forward(ready)
        pooled = {m: self.pool(m, _once(seen[m], tap.what), ready) for m, tap in self.taps.items()}
        return TrainPass(pooled, self._outputs(output, ready))

    def fresh(self, seed: int, *, trained: Any = None) -> Adapter | None:
        twin = cast("ModuleAdapter | None", super().fresh(seed, trained=trained))
        if twin is not None:  # the same architecture, so the recordings' shapes are the same
            for m, tap in self.taps.items():
                twin.taps[m].shape = tap.shape
            twin.fusion_tap.shape = self.fusion_tap.shape
        return twin

    def _guarded_forward(self, inputs: Batch) -> Any:
        try:
            with user_code("the model's forward"):
                return self.forward(inputs)
        except CollapsekitError:
            raise
        except Exception as e:
            given = ((k, v) for k, v in inputs.items() if k not in self.carried)
            shapes = ", ".join(f"{k} {tuple(v.shape)} {str(v.dtype).removeprefix('torch.')}" for k, v in given)
            raise ConfigError(
                f"the model's forward failed, called with {self.config.call} ({shapes}): {one_line(e)}; "
                "check `call`, the modalities' `input` and `scale`, and `data.also`."
            ) from e


def _only_for_pooling(config: Config) -> set[str]:
    """Masks that were named for pooling but not as inputs of the model."""
    sections = config.modalities
    named = {k for m, s in sections.items() for k in ([s.input] if isinstance(s.input, str) else s.input or [m])}
    return {s.mask for s in sections.values() if s.mask is not None} - named - set(config.data.also)


def _make_tap(model: nn.Module, path: str, what: str) -> Tap:
    entering = path.endswith(":input")
    return Tap(what, find_submodule(model, path.removesuffix(":input"), what.split(" ")[0]), entering)


def _need_apart(taps: Mapping[str, Tap], fusion_tap: Tap, config: Config) -> None:
    """Raises ConfigError where one tap lies inside an encoder: a replay leaves out all that lies inside of it."""
    named = [*taps.items(), (None, fusion_tap)]
    for m, tap in taps.items():
        for other, inner in named:
            if inner is tap:
                continue
            if inner.module is tap.module and inner.entering == tap.entering and other is not None:
                raise ConfigError(
                    f"modalities {m!r} and {other!r} share the encoder {config.modalities[m].encoder!r}: "
                    "each needs a submodule of its own; put an nn.Identity behind each use in your model and name "
                    "those, or write a Python adapter."
                )
            if not tap.entering and any(inner.module is sub for sub in tap.module.modules()):
                raise ConfigError(
                    f"{inner.what} lies inside {tap.what}: the two must not contain one another; name submodules "
                    "side by side, or put an nn.Identity behind each and name those."
                )


def _once(seen: list[Any], what: str) -> Any:
    if len(seen) == 1:
        return seen[0]
    if not seen:
        raise ConfigError(
            f"{what} is never called in a forward pass: name the submodule that the model calls "
            "(neither a container whose parts are called one by one nor a module whose .forward or another method is "
            "called directly is called itself)."
        )
    raise ConfigError(
        f"{what} is called {len(seen)} times in one forward pass: give each use a submodule of its own, "
        "e.g. an nn.Identity behind it, and name that."
    )
