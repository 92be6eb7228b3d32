"""What a diagnosis really runs and trains, counted where it happens: by probe, on every adapter there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest
import torch
from torch import Tensor

from collapsekit import diagnosis
from collapsekit.adapters.base import Prediction
from collapsekit.adapters.module import ModuleAdapter

OPENING = "opening"


def rows_of(batch: Mapping[str, Tensor]) -> int:
    return len(next(iter(batch.values())))


@contextmanager
def counted() -> Iterator[dict[str, Counter[str]]]:
    """By probe, the numbers that a Cost has, but for how many networks are fitted; "opening": what is in no probe."""
    found: dict[str, Counter[str]] = {}
    where = [OPENING]

    def note(what: str, count: int) -> None:
        found.setdefault(where[-1], Counter())[what] += count

    def seen(tensor: Tensor, rows: int) -> Tensor:
        """The same tensor under another node of the graph, which notes each pass back."""
        if not tensor.requires_grad or torch._C._functorch.is_batchedtensor(tensor):
            return tensor
        other = tensor.view_as(tensor)
        other.register_hook(lambda _: note("gradients", rows))
        return other

    real = {name: getattr(ModuleAdapter, name) for name in ("run", "rerun", "outputs_of", "live")}

    def run(self: Any, batch: Any) -> Any:
        note("passes", rows_of(batch))
        return real["run"](self, batch)

    def rerun(self: Any, recorded: Any, inputs: Any) -> Any:
        rows = rows_of(inputs)
        note("replays", rows)
        said = real["rerun"](self, recorded, inputs)
        return Prediction(seen(said.fused, rows), seen(said.outputs, rows))

    def outputs_of(self: Any, recorded: Any, inputs: Any) -> Any:
        note("encodings", rows_of(inputs) * (len(self.modalities) - len(recorded)))
        note("replays", rows_of(inputs))
        return real["outputs_of"](self, recorded, inputs)

    def live(self: Any, modality: Any, recorded: Any, inputs: Any) -> Any:
        note("encodings", rows_of(inputs))
        return real["live"](self, modality, recorded, inputs)

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        big = sum(len(group["params"]) for group in self.param_groups)
        note("all_steps", 1)
        del big
        return real_step(self, *args, **kwargs)

    def run_probe(spec: Any, session: Any) -> Any:
        where.append(spec.name)
        try:
            return real_probe(spec, session)
        finally:
            where.pop()

    real_step, real_probe = torch.optim.AdamW.step, diagnosis.run_probe
    with pytest.MonkeyPatch.context() as patch:
        for name, own in {"run": run, "rerun": rerun, "outputs_of": outputs_of, "live": live}.items():
            patch.setattr(ModuleAdapter, name, wraps(real[name])(own))
        patch.setattr(torch.optim.AdamW, "step", step)
        patch.setattr(diagnosis, "run_probe", run_probe)
        yield found
