"""What a device is waited for: never in a step of training, and at most once a batch in a pass over examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

import collapsekit
from benchmarks.gpu.checks import REPAIRS, briefly, project, repaired
from collapsekit import registry
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.repairs.training import loop
from tests.accelerator.standin import COUNTED, DOWN, HELD_UP, NAME, WAITS

FITTED = "late_fusion"  # takes no steps: its weights are set at once
# Beside the batches, what a device is asked once: whether the first forward wrote into its inputs, and into the model; by
# gradient_rank a layer's weights, twice.
ONCE, MORE = 2, {"gradient_rank": 2}
BACKWARD = {"collision"}  # derivatives neuron by neuron: each is a pass over the examples as well


@contextmanager
def _around(owner: Any, name: str, note: Callable[[], Any]) -> Iterator[None]:
    """Call ``note`` before and after each call of a method."""
    real = getattr(owner, name)

    def noted(*args: Any, **kwargs: Any) -> Any:
        note()
        try:
            return real(*args, **kwargs)
        finally:
            note()

    setattr(owner, name, noted)
    try:
        yield
    finally:
        setattr(owner, name, real)


def steps(method: str, folder: Path) -> None:
    """No step of a repair's training waits for the device, or copies anything back."""
    marks: list[list[int]] = []

    def note() -> None:
        marks.append([COUNTED[k] for k in (DOWN, WAITS, HELD_UP)])

    with briefly(), _around(loop._StageRun, "_step", note):
        repaired(NAME, folder, method=method)
    assert (len(marks) > 0) == (method != FITTED)
    assert marks[::2] == marks[1::2]


def passes(probe: str, folder: Path) -> None:
    """A probe copies back at most once a pass: a forward of the model, or one backward for a neuron."""
    forwards: list[None] = []
    config = project(folder, "attention")
    COUNTED.clear()
    with ExitStack() as stack:
        stack.enter_context(briefly())
        for owner, name in (ModuleAdapter, "forward"), *([(torch.autograd, "grad")] if probe in BACKWARD else []):
            stack.enter_context(_around(owner, name, lambda: forwards.append(None)))
        report = collapsekit.diagnose(config=config, device=NAME, profile="quick", probes=[probe])
    assert report.results
    batches = len(forwards) // 2
    assert COUNTED[DOWN] + COUNTED[WAITS] <= batches + ONCE + MORE.get(probe, 0), (dict(COUNTED), batches)


def _defaults() -> list[str]:
    registry.load_builtins()
    return [name for name, probe in registry.PROBES.items() if probe.default]


STEPS: dict[str, Callable[[Path], None]] = {f"steps of {m}": partial(steps, m) for m in REPAIRS}
PASSES: dict[str, Callable[[Path], None]] = {f"passes of {p}": partial(passes, p) for p in _defaults()}
