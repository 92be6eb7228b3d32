"""What the stand-in itself has to do: refuse what a device refuses, count, draw; and catch what it was made for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import Tensor, nn

import collapsekit
from benchmarks.gpu.checks import numbers_of, project
from collapsekit.io import transfer
from collapsekit.io.transfer import to_cpu
from collapsekit.probes.neurons import gradient_rank
from tests.accelerator.standin import COUNTED, DOWN, HELD_UP, NAME, UP, WAITS, without_doubles
from tests.problems import make_problem


def refuses(_folder: Path) -> None:
    """What CUDA does not take."""
    x, index = torch.randn(4, 3).to(NAME), torch.tensor([0, 1])
    mixed: list[Callable[[], Any]] = [
        lambda: x + torch.randn(3),
        lambda: torch.randn(4, 3) * x[0, 0],
        lambda: x @ torch.randn(3, 2),
        lambda: nn.Linear(3, 2)(x),
        lambda: torch.cat([x, torch.randn(1, 3)]),
        lambda: torch.stack([x[0, 0], torch.tensor(1.0)]),
        lambda: torch.where(x > 0, x, torch.zeros(4, 3)),
        lambda: x.index_select(0, index),
        lambda: x.index_add(0, index, torch.randn(2, 3)),
        lambda: torch.randn(4)[index.to(NAME)],
        lambda: torch.zeros(()).add_(x[0, 0]),
        lambda: torch.zeros(4, 3).add_(x),
        lambda: torch.rand(3, generator=torch.Generator(), device=NAME),
    ]
    for make in mixed:
        with pytest.raises(RuntimeError, match=r"same device|for generator"):
            make()
    for read in (x.numpy, lambda: np.asarray(x), lambda: x.detach().numpy()):
        with pytest.raises(TypeError, match="to numpy"):
            read()


def takes(_folder: Path) -> None:
    """What CUDA does take, with the CPU's numbers."""
    raw = torch.randn(4, 3)
    x, index = raw.to(NAME), torch.tensor([3, 1])
    assert x.device == torch.device(NAME, 0)
    pairs: list[tuple[Tensor, Tensor]] = [
        (x * torch.tensor(2.0), raw * 2),
        (torch.tensor(2.0) - x, 2 - raw),
        (x[index], raw[index]),
        (x[index.to(NAME)], raw[index]),
        (x.masked_fill(x > 0, 0.0), raw.masked_fill(raw > 0, 0.0)),
        (torch.arange(4, device=NAME)[:, None] * x, torch.arange(4)[:, None] * raw),
        (torch.tensor([1.0, 2.0, 3.0], device=NAME) + x, torch.tensor([1.0, 2.0, 3.0]) + raw),
        (x.new_zeros(3), torch.zeros(3)),
        (x.double(), raw.double()),
    ]
    for there, here in pairs:
        assert there.device.type == NAME
        assert torch.equal(there.cpu(), here)
    assert torch.zeros_like(x, device="cpu").device.type == "cpu"
    here, model = torch.randn(2, 3, requires_grad=True), nn.Linear(3, 2)
    there = copy.deepcopy(model).to(NAME)
    for one in (model(here), there(here.to(NAME))):
        one.square().sum().backward()
    assert torch.allclose(there.weight.grad.cpu(), model.weight.grad)
    model(again := here.detach().clone().requires_grad_()).square().sum().backward()
    assert torch.allclose(here.grad, 2 * again.grad)  # both came back to it


def counts(_folder: Path) -> None:
    """Copies up and down, and what is waited for."""
    COUNTED.clear()
    x = torch.randn(4, 3).to(NAME)
    x.to(NAME)
    assert COUNTED == {UP: 1, HELD_UP: 1}
    torch.zeros(2).to(NAME, non_blocking=True)
    assert COUNTED == {UP: 2, HELD_UP: 1}
    x.cpu()
    torch.empty(4, 3).copy_(x)
    x.copy_(torch.zeros(4, 3))
    assert COUNTED == {UP: 3, HELD_UP: 2, DOWN: 2}
    float(x.sum())
    x.tolist()
    bool((x > 0).any())
    torch.equal(x, x)
    x[x > 0]
    assert COUNTED == {UP: 3, HELD_UP: 2, DOWN: 2, WAITS: 5}


def packs(_folder: Path) -> None:
    """Tensors of several kinds come back as they are, by one copy a pack."""
    here = [torch.randn(3, 5), torch.arange(7), torch.tensor([True, False, True]), torch.zeros(0, 4), torch.tensor(1.5)]
    here += [torch.randn(2, 3).bfloat16(), torch.randn(4, 6).double().T]
    there = [*(x.to(NAME) for x in here), here[0]]
    COUNTED.clear()
    found = to_cpu(there)
    assert COUNTED == {DOWN: 1}
    for a, b in zip([*here, here[0]], found, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert torch.equal(a, b)
    large = [torch.zeros(transfer.PACK // 8).to(NAME) for _ in range(4)]
    COUNTED.clear()
    assert len(list(transfer.stream_to_cpu(large))) == 4
    assert COUNTED == {DOWN: 2}


def draws(_folder: Path) -> None:
    """By a generator of its own."""
    torch.manual_seed(0)
    first = torch.rand(3, device=NAME)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert torch.equal(torch.rand(3, device=NAME), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(torch.rand(3, device=NAME), first)


def lacks_doubles(_folder: Path) -> None:
    """Where it is told to."""
    x = torch.randn(3).to(NAME)
    with without_doubles():
        for make in (x.double, lambda: torch.randn(3, dtype=torch.float64).to(NAME)):
            with pytest.raises(TypeError, match="float64"):
                make()
        assert x.cpu().double().dtype == torch.float64


def catches(folder: Path) -> None:
    """A basis that lies on the device, beside weights on the CPU: what ended every diagnosis on a device."""
    real = gradient_rank.gr.row_basis
    gradient_rank.gr.row_basis = lambda weight: real(weight).to(NAME)
    try:
        report = collapsekit.diagnose(
            config=project(folder, "attention"), device=NAME, profile="quick", probes=["gradient_rank", "vif"]
        )
    finally:
        gradient_rank.gr.row_basis = real
    (result,) = [r for r in report.results if r.error is not None]
    assert str(result.error).startswith("RuntimeError in collapsekit/interventions/gradients.py line ")


def dispatched(folder: Path) -> None:
    """A model over two devices, as accelerate's device_map leaves it: the CPU's numbers, and every weight where it was."""
    problem = make_problem(folder / "dispatched", noise=["audio"])
    alone = numbers_of(problem.diagnose())
    for part in (problem.model.fusion, problem.model.encoders["audio"]):
        hook = AlignDevicesHook(execution_device=torch.device(NAME, 0), io_same_device=True)
        add_hook_to_module(part.to(NAME), hook)
    places = {k: p.device for k, p in problem.model.named_parameters()}
    assert {d.type for d in places.values()} == {"cpu", NAME}
    COUNTED.clear()
    found = numbers_of(problem.diagnose())
    assert COUNTED[UP] > 0
    assert found.keys() == alone.keys()
    assert {k: v for k, v in found.items() if v is None} == {k: v for k, v in alone.items() if v is None}
    assert {k: v for k, v in found.items() if v is not None} == pytest.approx(
        {k: v for k, v in alone.items() if v is not None}, rel=1e-4, abs=1e-5
    )
    assert {k: p.device for k, p in problem.model.named_parameters()} == places


OWN: dict[str, Callable[[Path], None]] = {
    f.__name__: f for f in (refuses, takes, counts, packs, draws, lacks_doubles, catches, dispatched)
}
