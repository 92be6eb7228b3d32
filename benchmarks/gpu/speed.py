"""How fast a device is at what collapsekit does there, each beside what it is held against: ratios, measured in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import collapsekit
from benchmarks.gpu.checks import project

Figures = dict[str, float | None]
ROUNDS = 5  # of each measurement, in turns
SLICES, BITS, ROWS = 4, 8, 256  # 256 rows of products of two 8-bit numbers add up in float32 without rounding


@dataclass(frozen=True)
class Speed:
    """One measurement of speed."""

    name: str
    figures: Callable[[str, Path], Figures]  # the device, and a folder to work in


def wait_for(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def medians(device: str, works: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Time several works in turns, after one of each that does not count; the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            wait_for(device)
            start = time.perf_counter()
            work()
            wait_for(device)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def count_passes(device: str, folder: Path) -> Figures:
    """A diagnosis by reliance and utilisation, in plain passes of the model over the same examples."""
    config = project(folder, "convolution")
    diagnose = partial(
        collapsekit.diagnose, config=config, device=device, profile="quick", probes=["reliance", "utilisation"]
    )
    from collapsekit.config.load import check_config
    from collapsekit.features.examples import SplitReader
    from collapsekit.io.spill import SpillBuffer
    from collapsekit.session.opening import build_adapter

    read = check_config(config, base=Path.cwd())
    adapter = build_adapter(read, read.model.checkpoint, device=device)
    columns = SplitReader(adapter, None, 0, SpillBuffer()).of("test").columns

    def plain() -> None:
        with torch.no_grad():
            for rows in torch.arange(len(columns["label"])).split(read.data.batch_size):
                adapter.forward(adapter.prepare({k: columns[k][rows] for k in adapter.columns}))

    found = medians(device, {"diagnosis": diagnose, "plain pass": plain}, rounds=2)
    return {**{f"{k}, s": v for k, v in found.items()}, "passes": found["diagnosis"] / found["plain pass"]}


def sliced_gram(x: Tensor) -> Tensor:
    """Compute xᵀx of float32 ``x`` (n, d) in float64 by products in float32 that do not round (Ozaki et al. 2012)."""
    scale = torch.exp2(torch.ceil(torch.log2(x.abs().amax(0).clamp_min(1e-30))))
    left, slices = x / scale, []
    for i in range(1, SLICES + 1):
        slices.append(torch.round(left * 2.0 ** (BITS * i)) / 2.0 ** (BITS * i))
        left = left - slices[-1]
    total = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    for i, a in enumerate(slices):
        for b in slices[i:]:
            parts = [p.T @ q for p, q in zip(a.split(ROWS), b.split(ROWS), strict=True)]
            product = torch.stack([part.double() for part in parts]).sum(0)
            total += product if a is b else product + product.T
    return total * scale.double()[:, None] * scale.double()[None]


def grams(device: str, _folder: Path) -> Figures:
    """XᵀX of features, in float64 on the CPU (what collapsekit does), in float64 on the device, and in slices of float32
    there; the device's own float32 product beside it. Errors are relative to the largest entry of the first."""
    rows, width = (1 << 16, 512) if device.startswith("cuda") else (1 << 11, 64)  # elsewhere, whether it runs
    g = torch.Generator().manual_seed(0)
    here = torch.randn(rows, width, generator=g) * torch.rand(width, generator=g).add(0.1)
    there = here.to(device)
    ways: dict[str, Callable[[], Tensor]] = {
        "float64 on the CPU": lambda: there.cpu().double().T @ there.cpu().double(),
        "float64 on the device": lambda: there.double().T @ there.double(),
        "sliced float32 on the device": lambda: sliced_gram(there),
        "float32 on the device": lambda: there.T @ there,
    }
    exact = ways["float64 on the CPU"]()
    found = medians(device, ways, rounds=3)
    figures: Figures = {}
    for name, way in ways.items():
        figures[f"{name}, s"] = found[name]
        figures[f"{name}, GFLOP/s"] = 2e-9 * rows * width**2 / found[name]
        figures[f"{name}, error"] = float((way().cpu().double() - exact).abs().max() / exact.abs().max())
    return figures


def _network(device: str, width: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [layer for _ in range(4) for layer in (nn.Linear(width, width), nn.ReLU())]
        return nn.Sequential(*layers, nn.Linear(width, 8)).to(device)


def _train_plain(device: str, width: int, steps: int, how: str) -> None:
    """Training as one would write it: ``how`` is the optimiser's kernel, and whether in bfloat16."""
    model = _network(device, width)
    kernels = {"fused": {"fused": True}, "each": {"foreach": False}}.get(how, {})
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, **kernels)  # type: ignore[arg-type]
    x, y = torch.randn(64, width, device=device), torch.zeros(64, dtype=torch.long, device=device)
    half: AbstractContextManager[object] = nullcontext()
    for _ in range(steps):
        if how == "bfloat16":
            half = torch.autocast(torch.device(device).type, torch.bfloat16)
        optimizer.zero_grad()
        with half:
            loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()


def steps_taken(device: str, _folder: Path) -> Figures:
    """A training step by each of AdamW's kernels, and in bfloat16."""

    width, steps = (1024, 20) if device.startswith("cuda") else (32, 3)
    works: dict[str, Callable[[], object]] = {
        how: partial(_train_plain, device, width, steps, how) for how in ("plain", "fused", "each", "bfloat16")
    }
    found = medians(device, works, rounds=3)
    return {f"{how}, ms a step": 1e3 * seconds / steps for how, seconds in found.items()}


def step_overhead(device: str, folder: Path) -> Figures:
    """A step of the one training loop beside the same step written out, on the small model of the checks."""
    from benchmarks.gpu.subjects import build
    from collapsekit.repairs.training import loop

    taken: list[float] = []
    real = loop._StageRun._round

    def timed(self: loop._StageRun, stop: int) -> bool:
        wait_for(device)
        before, start = self.state.step, time.perf_counter()
        sound = real(self, stop)
        wait_for(device)
        if self.state.step > before:
            taken.append((time.perf_counter() - start) / (self.state.step - before))
        return sound

    config = project(folder, "linear")
    loop._StageRun._round = timed  # type: ignore[method-assign]
    try:
        collapsekit.repair(
            **{"config": config, "method": "finetune", "modalities": ["c"], "output": folder / "steps", "keep": True},
            **{"training": {"epochs": 5, "batch": 16}, "control": False, "profile": "quick", "device": device},
            force=True,
        )
    finally:
        loop._StageRun._round = real  # type: ignore[method-assign]
    model = build("linear").to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    inputs = {m: torch.randn(16, n, device=device) for m, n in (("a", 6), ("b", 5), ("c", 4))}
    labels = torch.zeros(16, dtype=torch.long, device=device)

    def plain() -> None:
        for _ in range(6):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(**inputs), labels).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    written = medians(device, {"plain": plain})["plain"] / 6
    ours = statistics.median(taken[1:] or taken)
    return {"loop, ms a step": 1e3 * ours, "written out, ms a step": 1e3 * written, "ratio": ours / written}


def peak_memory(device: str, _folder: Path, *, width: int = 2048) -> Figures:
    """Most of the device's memory in a plain training of a model, in its weights' size; None where nobody counts it."""
    if not device.startswith("cuda"):
        return {"peak over weights": None}
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    _train_plain(device, width, 3, "plain")
    weights = sum(p.numel() * 4 for p in _network("cpu", width).parameters())
    return {"peak over weights": (torch.cuda.max_memory_allocated(device) - before) / weights}


def make_speeds() -> Sequence[Speed]:
    """All measurements of speed, the ones most worth knowing first."""
    return (
        Speed("speed: passes a diagnosis takes", count_passes),
        Speed("speed: steps of the training loop", step_overhead),
        Speed("speed: gram matrices", grams),
        Speed("speed: kernels of a step", steps_taken),
        Speed("speed: peak memory of training", peak_memory),
    )
