"""The user's model is given back exactly as it was found, whatever happened to it."""

from __future__ import annotations

import random
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from collapsekit import registry
from collapsekit.adapters.build import preserve_rng_state, seed_everything
from collapsekit.adapters.live.preserve import preserve_model
from collapsekit.errors import ConfigError
from collapsekit.registry import probe
from tests.problems import Late, Problem, make_problem


class Marked(Late):
    """Everything a module may hold or write in forward."""

    def __init__(self) -> None:
        super().__init__({"image": 5, "audio": 4})
        self.register_buffer("steps", torch.zeros(1))
        self.register_buffer("late", None)
        self.norm = nn.BatchNorm1d(12)
        self.calls, self.log, self.seen, self.queue = 0, ["start"], {"n": 0}, deque([1], maxlen=3)
        self.ring = torch.zeros(2)
        self.fail_at: int | None = None

    def forward(self, **x: Tensor) -> Tensor:
        self.calls += 1
        self.steps += 1  # in place
        self.late = torch.ones(3)
        self.log.append("call")
        self.seen["n"] = self.calls
        self.queue.append(self.calls)
        self.ring.add_(1.0)
        self._fresh = x["image"]
        if self.fail_at is not None and self.calls >= self.fail_at:
            raise ValueError("midway")
        parts = [encoder(x[m]) for m, encoder in self.encoders.items()]
        return self.head(self.norm(self.fusion(torch.cat(parts, 1))))


def snapshot(model: nn.Module) -> dict[str, Any]:
    return {
        "weights": {k: (v.clone(), id(v)) for k, v in [*model.named_parameters(), *model.named_buffers()]},
        "storage": [p.data_ptr() for p in model.parameters()],
        "grad": [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        "dict": [sorted(vars(m)) for m in model.modules()],
        "calls": model.calls,
        "log": list(model.log),
        "seen": dict(model.seen),
        "queue": list(model.queue),
        "ring": (model.ring.clone(), id(model.ring)),
        "late": model.late,
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def prepared(tmp_path: Path) -> tuple[Marked, Problem]:
    problem = make_problem(tmp_path, steps=0)
    model = Marked()
    model.train()
    model.encoders["image"].eval()  # a mode of its own
    model.head.weight.requires_grad_(False)
    model.fusion[0].weight.grad = torch.ones_like(model.fusion[0].weight)
    model.encoders["audio"].register_forward_hook(lambda *_: None)
    return model, problem


@probe("breaks", summary="-", definition="-", source="-", cannot="-")
def _breaks(adapter: Any, features: Any, *, settings: Any) -> Any:
    from collapsekit.interventions.replay import predict

    predict(adapter, features)
    raise RuntimeError("a probe of the user's own")
    yield


@pytest.fixture(autouse=True)
def _registered() -> Any:
    spec = registry.PROBES.pop("breaks", None) or SPEC
    registry.PROBES["breaks"] = spec
    yield
    registry.PROBES.pop("breaks", None)


SPEC = registry.PROBES.pop("breaks")


@pytest.mark.parametrize("how", ["done", "forward raises at once", "forward raises midway", "probe raises"])
def test_model_and_random_state_are_left_as_found(how: str, tmp_path: Path) -> None:
    model, problem = prepared(tmp_path)
    model.fail_at = {"forward raises at once": 1, "forward raises midway": 6}.get(how)
    before = snapshot(model)
    seed_everything(123)
    expected = (torch.rand(2), np.random.rand(2), random.random())
    seed_everything(123)
    probes = ["breaks"] if how == "probe raises" else ["reliance", "vif"]
    if how == "done":
        problem.diagnose(model=model, probes=probes)
    else:
        with pytest.raises(ConfigError, match=r"midway|a probe of the user's own"):
            problem.diagnose(model=model, probes=probes)
    drawn = (torch.rand(2), np.random.rand(2), random.random())
    assert torch.equal(expected[0], drawn[0])
    assert (expected[1] == drawn[1]).all()
    assert expected[2] == drawn[2]
    after = snapshot(model)
    for part in before:
        assert same(before[part], after[part]), part


def test_a_checkpoint_never_reaches_the_live_model(tmp_path: Path) -> None:
    model, problem = prepared(tmp_path)
    other = Marked()
    torch.save(other.state_dict(), tmp_path / "other.pt")
    before = snapshot(model)
    report = problem.diagnose(model=model, checkpoint=tmp_path / "other.pt", probes=["vif"])
    assert same(before, snapshot(model))
    own = problem.diagnose(model=model, probes=["vif"])
    assert report.find("vif.mean") != own.find("vif.mean")


def test_model_kept_undoes_moves_and_gradients() -> None:
    model = Late({"a": 2, "b": 2})
    before = {k: (v, v.clone()) for k, v in model.state_dict().items()}

    def disturbed() -> None:
        with preserve_model(model):
            model.double()
            model(a=torch.ones(1, 2).double(), b=torch.ones(1, 2).double()).sum().backward()
            raise KeyError

    with pytest.raises(KeyError):
        disturbed()
    after = model.state_dict()
    for key, (tensor, value) in before.items():
        assert after[key].data_ptr() == tensor.data_ptr()
        assert torch.equal(after[key], value)
    assert all(p.grad is None for p in model.parameters())


def test_random_state_kept_also_when_an_error_passes() -> None:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()

    def disturbed() -> None:
        with preserve_rng_state():
            seed_everything(5)
            raise KeyError

    with pytest.raises(KeyError):
        disturbed()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]


def test_seed_everything_is_torch_manual_seed() -> None:
    with preserve_rng_state():
        torch.manual_seed(7)
        expected = torch.rand(4)
        seed_everything(7)
        assert torch.equal(torch.rand(4), expected)
