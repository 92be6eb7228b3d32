"""What a diagnosis really runs and trains, counted where it happens: by probe, on every adapter there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapsekit import diagnosis
from collapsekit.adapters.base import Prediction
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.probes.neurons import polysemanticity
from collapsekit.readouts import choosing, poolings, raw, synergy, unimodal
from collapsekit.report.cost import COUNTED, CostRow
from collapsekit.session import layouts, readouts
from collapsekit.stats.solvers.adamw import LightAdamW

OPENING = "opening"  # what is in no probe


def differing(row: CostRow, real: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Numbers of an estimate that are not the real ones, or, where they are bounds, under them: by name, both."""
    pairs = {name: (getattr(row, name), real.get(name, 0)) for name in COUNTED}
    return {
        name: pair for name, pair in pairs.items() if (pair[0] < pair[1] if name in row.at_most else pair[0] != pair[1])
    }


class Counts:
    """Counts by probe, of what is running."""

    def __init__(self) -> None:
        self.by_probe: dict[str, Counter[str]] = {}
        self.where = [OPENING]
        self.fitting = ["steps"]  # what a step of an optimiser is one of

    def of(self, probe: str) -> Counter[str]:
        return self.by_probe.get(probe, Counter())

    def add(self, what: str, count: int) -> None:
        self.by_probe.setdefault(self.where[-1], Counter())[what] += count

    def watched(self, tensor: Tensor, rows: int) -> Tensor:
        """The same numbers under a node of their own, through which each pass back is counted."""
        if not tensor.requires_grad:
            return tensor
        other = tensor.view_as(tensor)
        other.register_hook(lambda _: self.add("gradients", rows))
        return other


@contextmanager
def counted() -> Iterator[Counts]:
    """Count, on every ModuleAdapter that is there or is built, and whatever is trained, by the names of CostRow."""
    counts = Counts()
    with pytest.MonkeyPatch.context() as patch:
        _count_model(counts, patch)
        _count_training(counts, patch)
        real_probe = diagnosis.run_probe

        def run_probe(spec: Any, session: Any) -> Any:
            counts.where.append(spec.name)
            try:
                return real_probe(spec, session)
            finally:
                counts.where.pop()

        patch.setattr(diagnosis, "run_probe", run_probe)
        yield counts


def _rows(batch: Mapping[str, Tensor]) -> int:
    return len(next(iter(batch.values())))


def _count_model(counts: Counts, patch: pytest.MonkeyPatch) -> None:
    real = {name: getattr(ModuleAdapter, name) for name in ("run", "rerun", "outputs_of", "live")}

    def run(self: Any, batch: Any) -> Any:
        counts.add("passes", _rows(batch))
        return real["run"](self, batch)

    def rerun(self: Any, recorded: Any, inputs: Any) -> Any:
        rows = _rows(inputs)
        counts.add("replays", rows)
        said = real["rerun"](self, recorded, inputs)
        return Prediction(counts.watched(said.fused, rows), counts.watched(said.outputs, rows))

    def outputs_of(self: Any, recorded: Any, inputs: Any) -> Any:
        counts.add("encodings", _rows(inputs) * (len(self.modalities) - len(recorded)))
        counts.add("replays", _rows(inputs))
        return real["outputs_of"](self, recorded, inputs)

    def live(self: Any, modality: Any, recorded: Any, inputs: Any) -> Any:
        counts.add("encodings", _rows(inputs))
        return real["live"](self, modality, recorded, inputs)

    for name, own in {"run": run, "rerun": rerun, "outputs_of": outputs_of, "live": live}.items():
        patch.setattr(ModuleAdapter, name, own)


def _count_training(counts: Counts, patch: pytest.MonkeyPatch) -> None:
    def counted(kind: Any) -> None:
        real_step = kind.step

        def step(self: Any, *args: Any, **kwargs: Any) -> Any:
            counts.add(counts.fitting[-1], 1)
            return real_step(self, *args, **kwargs)

        patch.setattr(kind, "step", step)

    def fitted(real: Callable[..., Any], encoders: Callable[[nn.Module, tuple[Any, ...]], int]) -> Callable[..., Any]:
        def fit(model: nn.Module, *args: Any) -> Any:
            number = encoders(model, args)
            counts.add("encoders", number)
            counts.add("heads", 0 if number == 1 else 1)
            counts.fitting.append("encoder_steps" if number else "steps")
            try:
                return real(model, *args)
            finally:
                counts.fitting.pop()

        return fit

    def one_head(real: Callable[..., Any]) -> Callable[..., Any]:
        def make(*args: Any, **kwargs: Any) -> Any:
            counts.add("heads", 1)
            return real(*args, **kwargs)

        return make

    for kind in (torch.optim.AdamW, LightAdamW):
        counted(kind)
    patch.setattr(unimodal, "fit", fitted(unimodal.fit, lambda *_: 1))
    patch.setattr(polysemanticity, "fit", fitted(polysemanticity.fit, lambda *_: 0))
    together = fitted(
        synergy.fit, lambda model, args: 0 if isinstance(model, synergy.SynergyNet) else len(args[2].train.modalities)
    )
    patch.setattr(synergy, "fit", together)
    patch.setattr(polysemanticity, "_train_classifier", one_head(polysemanticity._train_classifier))
    for module in (readouts, layouts, raw, unimodal):
        patch.setattr(module, "choose_features", one_head(choosing.choose_features))
    patch.setattr(poolings, "fit", fitted(poolings.fit, lambda *_: 0))
