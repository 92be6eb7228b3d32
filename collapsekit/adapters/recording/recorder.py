"""Listens to every place of a model where something is recorded, and lets recordings answer there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from collapsekit.adapters.hooks import Attribute, Capture, Tap, cached_tensors
from collapsekit.adapters.recording.shared import assign_calls
from collapsekit.data.base import Batch
from collapsekit.errors import ConfigError

Forward = Callable[[Batch], Any]


@dataclass(frozen=True)
class Heard:
    """What one forward left behind: what passed each modality's place and the fusion's, and the model's output."""

    captures: dict[str, Capture]
    fused: Capture | None
    output: Any


@dataclass
class Recorder:
    """The places where modalities are recorded, those that have an encoder, and where the fusion is."""

    taps: dict[str, Tap]
    fusion: Tap | None
    forward: Forward
    altered: Callable[[str, Batch], Batch]  # inputs with those of a modality taken from other examples

    def heard(self, inputs: Batch) -> Heard:
        """Run one forward on prepared inputs with every place listening; the first one teaches what passes there."""
        if self.learned:
            return self._captured(self._pass(inputs))
        passed = self._pass(inputs)
        self._tell_calls_apart(inputs, passed)
        heard = self._captured(passed)
        self._learn(inputs, heard)
        return heard

    @property
    def learned(self) -> bool:
        """Whether what passes each place is known."""
        return all(tap.shape is not None for tap in self.all)

    @property
    def all(self) -> list[Tap]:
        """Every place that is listened to."""
        return [*self.taps.values(), *([self.fusion] if self.fusion is not None else [])]

    @contextmanager
    def replaying(self, recorded: Mapping[str, Sequence[Tensor]], device: torch.device) -> Iterator[list[Any]]:
        """Let recordings answer in the encoders' places for a while.

        Args:
            recorded: by modality, tensors (n, ...).
            device: where the model is.

        Yields:
            A list, to which what passes the fusion is added.
        """
        fused: list[Any] = []
        with ExitStack() as stack:
            for m, tensors in recorded.items():
                stack.enter_context(self.taps[m].replaying(tensors, device))
            if self.fusion is not None:
                stack.enter_context(self.fusion.recording(fused))
            yield fused

    def replays_all(self, recorded: Mapping[str, object]) -> bool:
        """Tell whether a replay answers each modality in place of an encoder that is called for it alone, and once."""
        return (
            self.fusion is not None
            and recorded.keys() == self.taps.keys()
            and all(tap.calls is None for tap in self.taps.values())
        )

    def know(self, other: Recorder) -> None:
        """Take over what another one learned of a model of the same architecture."""
        for mine, theirs in zip(self.all, other.all, strict=True):
            mine.shape, mine.calls, mine.total = theirs.shape, theirs.calls, theirs.total

    def fused_of(self, seen: Sequence[Any], rows: int) -> Tensor:
        """Pick the representation (n, ...) among what passed the fusion; (n, 0) of a model that names none."""
        if self.fusion is None:
            return torch.zeros(rows, 0)
        return self.fusion.live_feature(self.fusion.of_calls(seen))

    def _pass(self, inputs: Batch) -> _Passed:
        """One forward, and what passed each place, call by call."""
        seen: dict[str, list[Any]] = {m: [] for m in self.taps}
        fused: list[Any] = []
        before = {m: cached_tensors(t.module) for m, t in self.taps.items()}
        with ExitStack() as stack:
            for m, tap in self.taps.items():
                stack.enter_context(tap.recording(seen[m]))
            if self.fusion is not None:
                stack.enter_context(self.fusion.recording(fused))
            output = self.forward(inputs)
        cached = {}
        for m, tap in self.taps.items():
            # Only what this forward wrote; constants stay. After the first batch the shape decides.
            known = tap.shape is not None
            cached[m] = {k: v for k, v in cached_tensors(tap.module).items() if known or before[m].get(k) is not v}
        return _Passed(seen, cached, fused, output, len(next(iter(inputs.values()))))

    def _captured(self, passed: _Passed) -> Heard:
        rows = passed.rows
        captures = {m: Capture(t.of_calls(passed.seen[m]), rows, passed.cached[m]) for m, t in self.taps.items()}
        fused = None if self.fusion is None else Capture(self.fusion.of_calls(passed.fused), rows, {})
        return Heard(captures, fused, passed.output)

    def _learn(self, inputs: Batch, first: Heard) -> None:
        """Learn from the first batch which axis counts examples; from a second, tiny one where that leaves it open."""
        pairs = self._pairs(first)
        others: list[Capture | None] = [None] * len(pairs)
        if any(tap.ambiguous(one) for tap, one in pairs):
            some = next(iter(inputs.values()))
            rows = torch.arange(3 if len(some) == 2 else 2, device=some.device) % len(some)
            again = self._captured(self._pass({k: v[rows] for k, v in inputs.items()}))
            others = [one for _, one in self._pairs(again)]
        for (tap, one), other in zip(pairs, others, strict=True):
            tap.learn(one, other)
        shape = None if self.fusion is None else self.fusion.shape
        if self.fusion is not None and self.fusion.entering and shape is not None and shape.floating > 1:
            raise ConfigError(
                f"{self.fusion.what}: {shape.floating} tensors enter it, so it is what mixes them; name its output "
                f"({self.fusion.path!r}), or a later submodule, as `fusion`."
            )

    def _pairs(self, heard: Heard) -> list[tuple[Tap, Capture]]:
        pairs = [(tap, heard.captures[m]) for m, tap in self.taps.items()]
        if self.fusion is not None and heard.fused is not None:
            pairs.append((self.fusion, heard.fused))
        return pairs

    def _tell_calls_apart(self, inputs: Batch, passed: _Passed) -> None:
        """Of modules that are called several times, or are the encoder of several modalities, find whose calls are whose."""
        groups: dict[tuple[int, bool], list[str]] = {}
        for m, tap in self.taps.items():
            groups.setdefault(tap.place_key, []).append(m)
        several = {key: ms for key, ms in groups.items() if len(ms) > 1 or len(passed.seen[ms[0]]) > 1}
        moved = {m: self._pass(self.altered(m, inputs)).seen[m] for ms in several.values() for m in ms}
        for ms in several.values():
            what = {m: self.taps[m].what for m in ms}
            for m, calls in assign_calls(what, passed.seen[ms[0]], {m: moved[m] for m in ms}).items():
                self.taps[m].calls, self.taps[m].total = calls, len(passed.seen[m])


@dataclass(frozen=True)
class _Passed:
    """What passed each place in one forward, call by call."""

    seen: dict[str, list[Any]]
    cached: dict[str, dict[Attribute, Tensor]]
    fused: list[Any]
    output: Any
    rows: int
