"""ModuleAdapter: any nn.Module by submodule paths, without code from the user."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, nn

from collapsekit.adapter.base import Adapter, Pass, Prediction, Recorded
from collapsekit.adapter.build import find_submodule
from collapsekit.adapter.pooling import pool_features
from collapsekit.adapter.taps import Reached, Tap, cached_tensors, select_part
from collapsekit.config import Config
from collapsekit.errors import CollapsekitError, ConfigError
from collapsekit.registry import adapter
from collapsekit.sources import Batch


@adapter("module", summary="any torch.nn.Module, described by submodule paths in collapsekit.yaml")
class ModuleAdapter(Adapter):
    """Encoders and fusion named by submodule path. What-if questions run the model's own forward with the
    encoders answering from their recordings, so the answers are the model's, not an imitation of it."""

    def __init__(self, config: Config, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        if config.fusion is None:
            raise ConfigError(
                f"{config.origin} has no `fusion`: name the submodule whose output is the multimodal representation "
                "('name:input' for what enters it)."
            )
        self.taps = {m: self._tap(m) for m in self.modalities}
        self._reject_overlap()
        self.fusion_tap = _make_tap(self.model, config.fusion, f"fusion {config.fusion!r}")
        if config.head is not None:
            find_submodule(self.model, config.head.removesuffix(":input"), "head")

    def _tap(self, modality: str) -> Tap:
        section = self.config.modalities[modality]
        if section.encoder is None:
            raise ConfigError(
                f"modality {modality!r} has no `encoder`: name the submodule whose output is its features, "
                "or 'name:input' for what enters a submodule."
            )
        tap = _make_tap(self.model, section.encoder, f"encoder {section.encoder!r} of modality {modality!r}")
        tap.select = section.select
        return tap

    def _reject_overlap(self) -> None:
        taken: list[tuple[str, Tap]] = []
        for name, tap in self.taps.items():
            for other, earlier in taken:
                same = tap.module is earlier.module
                nested = tap.module in list(earlier.module.modules()) or earlier.module in list(tap.module.modules())
                if same or (nested and not (tap.entering or earlier.entering)):
                    raise ConfigError(
                        f"modalities {other!r} and {name!r} share the encoder {self.config.modalities[name].encoder!r}: "
                        "each needs a submodule of its own; put an nn.Identity behind each use in your model and name "
                        "those, or write a Python adapter."
                    )
            taken.append((name, tap))

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        recorded = self.run(batch).recorded
        return {m: self.taps[m].feature(recorded[m]) for m in self.modalities}

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        raise ConfigError("a ModuleAdapter fuses inside the model's own forward: call rerun.")

    def head(self, fused: Tensor) -> Tensor:
        raise ConfigError("a ModuleAdapter's head runs inside the model's own forward: call rerun.")

    def prepare(self, batch: Batch) -> Batch:
        """Inputs as the model wants them: on its device, scaled, floating values in its own precision."""
        dtype = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)
        scales = {k: s.scale for m, s in self.config.modalities.items() for k in self.input_keys(m) if k != s.mask}
        out = {}
        for key in self.batch_keys:
            value = batch[key].to(self.device)
            scale = scales.get(key, 1.0)
            if value.is_floating_point() or scale != 1.0:
                value = value.to(dtype)
            out[key] = value / scale if scale != 1.0 else value
        return out

    def forward(self, inputs: Batch) -> Any:
        """The model's own forward on prepared inputs, called as the config says."""
        keys = [k for k in self.batch_keys if k not in self._only_for_pooling()]
        match self.config.call:
            case "kwargs":
                return self.model(**{k: inputs[k] for k in keys})
            case "dict":
                return self.model({k: inputs[k] for k in keys})
            case "positional":
                return self.model(*(inputs[k] for k in keys))
            case "list":
                return self.model([inputs[k] for k in keys])

    def _only_for_pooling(self) -> set[str]:
        """Masks that were named for pooling but not as inputs of the model."""
        sections = self.config.modalities
        named = {k for m, s in sections.items() for k in ([s.input] if isinstance(s.input, str) else s.input or [m])}
        return {s.mask for s in sections.values() if s.mask is not None} - named - set(self.config.data.also)

    def run(self, batch: Batch) -> Pass:
        inputs = self.prepare(batch)
        rows = len(next(iter(inputs.values())))
        seen: dict[str, list[Any]] = {m: [] for m in self.modalities}
        before = {m: {k: id(v) for k, v in cached_tensors(t.module).items()} for m, t in self.taps.items()}
        fused: list[Any] = []
        with ExitStack() as stack:
            for m, tap in self.taps.items():
                stack.enter_context(tap.recording(seen[m]))
            stack.enter_context(self.fusion_tap.recording(fused))
            output = self._guarded_forward(inputs)
        recorded: dict[str, Recorded] = {}
        pooled = {}
        for m, tap in self.taps.items():
            value = _once(seen[m], tap.what)
            now = cached_tensors(tap.module)
            # Only what this forward wrote; constants stay. After the first batch the shape decides.
            fresh = {k: v for k, v in now.items() if tap.shape is not None or before[m].get(k) != id(v)}
            recorded[m] = tap.take(value, rows, fresh)
            pooled[m] = self.pool(m, tap.feature(recorded[m]), inputs).float()
        return Pass(recorded, pooled, self._prediction(_once(fused, self.fusion_tap.what), output, rows))

    def _prediction(self, fused: Any, output: Any, rows: int) -> Prediction:
        feature = self.fusion_tap.feature(self.fusion_tap.take(fused, rows, {}))
        return Prediction(pool_features(feature, what="the fusion").float(), self._outputs(output, rows))

    def rerun(self, recorded: Mapping[str, Recorded], inputs: Batch) -> Prediction:
        ready = self.prepare(inputs)
        fused: list[Any] = []
        with ExitStack() as stack:
            for m, tap in self.taps.items():
                stack.enter_context(tap.replaying(recorded[m], self.device))
            stack.enter_context(self.fusion_tap.recording(fused))
            output = self._guarded_forward(ready)
        # With gradient where the caller asks for it: `take` detaches, so the features are read off directly.
        shape = self.fusion_tap
        rows = len(next(iter(ready.values())))
        value = _once(fused, shape.what)
        if not torch.is_grad_enabled():
            return self._prediction(value, output, rows)
        return Prediction(pool_features(_live_feature(shape, value, rows)), self._outputs(output, rows))

    def live(self, modality: str, recorded: Mapping[str, Recorded], inputs: Batch) -> Tensor:
        ready = self.prepare(inputs)
        tap = self.taps[modality]
        rows = len(next(iter(ready.values())))
        with ExitStack() as stack:
            for m, other in self.taps.items():
                if m != modality:
                    stack.enter_context(other.replaying(recorded[m], self.device))
            stack.enter_context(tap.recording([], stop=True))
            try:
                self.forward(ready)
            except Reached as stop:
                return self.pool(modality, _live_feature(tap, stop.value, rows), ready)
        raise ConfigError(f"{tap.what} was not reached in a forward pass: name a submodule the model calls.")

    def fresh(self, seed: int, *, trained: Any = None) -> Adapter | None:
        twin = cast("ModuleAdapter | None", super().fresh(seed, trained=trained))
        if twin is not None:  # the same architecture, so the recordings' shapes are the same
            for m, tap in self.taps.items():
                twin.taps[m].shape = tap.shape
            twin.fusion_tap.shape = self.fusion_tap.shape
        return twin

    def _outputs(self, output: Any, rows: int) -> Tensor:
        """The prediction out of whatever the model returns."""
        wanted = self.config.output
        if wanted is not None:
            parts = [wanted] if isinstance(wanted, str | int) else list(wanted)
            return torch.cat([select_part(output, p, "the model's output") for p in parts], -1)
        if self.config.task == "contrastive" and isinstance(output, tuple | list) and len(output) >= 2:
            return torch.cat([output[0], output[1]], -1)
        if isinstance(output, Mapping) or hasattr(output, "logits"):
            output = select_part(output, "logits", "the model's output")
        while isinstance(output, tuple | list) and output:
            output = output[0]
        if not isinstance(output, Tensor) or output.ndim == 0 or len(output) != rows:
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ConfigError(f"the model returns {found} for {rows} examples: name its prediction with `output`.")
        return output

    def _guarded_forward(self, inputs: Batch) -> Any:
        try:
            return self.forward(inputs)
        except CollapsekitError:
            raise
        except Exception as e:
            shapes = ", ".join(f"{k} {tuple(v.shape)} {str(v.dtype).removeprefix('torch.')}" for k, v in inputs.items())
            raise ConfigError(
                f"the model's forward failed, called with {self.config.call} ({shapes}): {type(e).__name__}: {e}; "
                "check `call`, the modalities' `input` and `scale`, and `data.also`."
            ) from e


def _make_tap(model: nn.Module, path: str, what: str) -> Tap:
    entering = path.endswith(":input")
    return Tap(what, find_submodule(model, path.removesuffix(":input"), what.split(" ")[0]), entering)


def _live_feature(tap: Tap, value: Any, rows: int) -> Tensor:
    """The features inside a tapped value, gradient kept."""
    from torch.utils._pytree import tree_leaves

    if tap.shape is None:
        tap.take(value, rows, {})
    shape = tap.shape
    assert shape is not None
    moving = [leaf for leaf, axis in zip(tree_leaves(value), shape.axes, strict=True) if axis is not None]
    axes = [axis for axis in shape.axes if axis is not None]
    return cast(Tensor, moving[shape.feature].movedim(axes[shape.feature], 0))


def _once(seen: list[Any], what: str) -> Any:
    if len(seen) == 1:
        return seen[0]
    if not seen:
        raise ConfigError(
            f"{what} is never called in a forward pass: name the submodule that the model calls "
            "(a container whose parts are called one by one is not called itself)."
        )
    raise ConfigError(
        f"{what} is called {len(seen)} times in one forward pass: give each use a submodule of its own, "
        "e.g. an nn.Identity behind it, and name that."
    )
