"""Which submodules may have their weights gathered for their own calls only."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit import registry
from collapsekit.adapters.inserts import WrappedEncoder
from collapsekit.repairs.training import fsdp_units as units
from collapsekit.repairs.training.fsdp_units import units_of
from collapsekit.repairs.training.job import Stage, Step
from tests.repairs.making import differing, make_job, make_model


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "UNIT", 10)  # a batch norm here has 8


class Two(nn.Module):
    """Two blocks and a head; ``how`` runs them."""

    def __init__(self, how: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.b = nn.Linear(4, 4)
        self.head = nn.Linear(4, 1)  # too few weights
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.how(self, x))


def stage_of(model: nn.Module, cycle: int = 1) -> Stage:
    x = torch.randn(8, 4)
    given = {"loss": lambda step: model(x[step.rows]).square().mean(), "held": lambda: 0.0}
    return Stage("made", model, list(model.parameters()), cycle=cycle, **given)


def found(how: Callable[[Any, Tensor], Tensor]) -> list[str]:
    """The names of the units of ``Two``, in their order."""
    return named(Two(how))


def named(model: nn.Module, **stage: Any) -> list[str]:
    names = {m: name for name, m in model.named_modules()}
    return [names[m] for m in units_of(stage_of(model, **stage), torch.arange(4), list(model.parameters()))]


@dataclass
class Said:
    value: Tensor


class Saying(nn.Module):
    """Whose output torch does not look into."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Said:
        return Said(self.inner(x))


class Keeping(nn.Module):
    """Leaves what it computed on itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.kept = self.part = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        self.kept = x @ self.weight
        self.part = self.kept[:, :2]
        return self.kept.tanh()


def swapped(module: str, other: nn.Module, how: Callable[[Any, Tensor], Tensor]) -> list[str]:
    model = Two(how)
    setattr(model, module, other)
    return named(model)


def test_submodules_called_once_are_units_in_the_order_of_calls() -> None:
    assert found(lambda m, x: m.b(m.a(x))) == ["a.0", "b"]
    assert found(lambda m, x: m.a(m.b(x))) == ["b", "a.0"]
    model = Two(lambda m, x: m.b(m.a(x)))
    few = [p for p in model.parameters() if p is not model.b.weight]
    assert units_of(stage_of(model), torch.arange(4), few) == [model.a[0]]  # its bias alone is too little


@pytest.mark.parametrize(
    ("how", "left"),
    [
        (lambda m, x: m.b(m.a(x)) + m.b(x), ["a.0"]),  # twice
        (lambda m, x: m.a(x), ["a.0"]),  # never
        (lambda m, x: F.linear(m.a(x), m.b.weight), ["a.0"]),  # its weights without it
        (lambda m, x: m.b(m.a(x)) + m.b.weight.sum(), ["a.0"]),
        (lambda m, x: m.b(m.a(x)) + m.b.weight.detach().norm(), ["a.0"]),
        (lambda m, x: m.b.forward(m.a(x)), ["a.0"]),  # without its hooks
        (lambda m, x: m.b(m.a(x)[:, None]).mean(1), ["a.0"]),  # what it returns is a view
        (lambda m, x: m.b(m.a(x)[:, None])[:, 0], ["a.0"]),
        (lambda m, x: m.a[0](x) + m.b(m.a(x)), ["b"]),
    ],
)
def test_a_submodule_that_is_used_otherwise_is_no_unit(how: Callable[[Any, Tensor], Tensor], left: list[str]) -> None:
    assert found(how) == left


def test_a_submodule_that_keeps_tensors_beside_its_output_is_no_unit() -> None:
    assert swapped("b", Keeping(), lambda m, x: m.b(m.a(x))) == ["a.0", "b"]
    assert swapped("b", Keeping(), lambda m, x: m.b(m.a(x)) + m.b.kept) == ["a.0"]
    assert swapped("b", Keeping(), lambda m, x: m.b(m.a(x)) + m.b.part.sum()) == ["a.0"]
    assert swapped("b", Saying(), lambda m, x: m.b(m.a(x)).value) == ["a.0", "b.inner"]
    # In a block of its own, whose weights no smaller unit has.
    for out, wanted in ((lambda y: y, ["b"]), (Said, []), (lambda y: {"y": (y, 1, None)}, ["b"])):
        made = Keeping()
        forward = made.forward
        made.forward = lambda x, f=forward, o=out: o(f(x))  # type: ignore[method-assign]
        get = lambda y: y.value if isinstance(y, Said) else y["y"][0] if isinstance(y, dict) else y  # noqa: E731
        assert swapped("b", made, lambda m, x, get=get: get(m.b(x))) == wanted


def test_a_weight_in_two_places_is_no_units() -> None:
    model = Two(lambda m, x: m.b(m.a(x)))
    model.spare = nn.Linear(4, 4)
    model.spare.weight = model.b.weight
    assert named(model) == ["a.0"]


def test_submodules_called_in_another_order_in_another_epoch_are_no_units() -> None:
    turn = SimpleNamespace(epoch=1)

    def how(m: Any, x: Tensor) -> Tensor:
        return m.b(m.a(x)) if turn.epoch == 1 else m.a(m.b(x))

    model = Two(how)
    stage = stage_of(model, cycle=2)
    plain = stage.loss

    def loss(step: Step) -> Tensor:
        turn.epoch = step.epoch
        return plain(step)

    stage.loss = loss
    assert units_of(stage, torch.arange(4), list(model.parameters())) == []
    turn.epoch = 1
    stage.loss, stage.cycle = plain, 1
    assert len(units_of(stage, torch.arange(4), list(model.parameters()))) == 2


def test_small_parts_go_with_what_holds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "UNIT", 25)
    model = Two(lambda m, x: m.b(m.a(x)))
    model.a = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))  # 20 weights each
    assert named(model) == ["a"]


def test_the_module_is_as_it_was_and_so_is_chance() -> None:
    model = Two(lambda m, x: m.b(m.a(x))).eval()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    held = [(type(m), dict(vars(m)), m.training) for m in model.modules()]
    stage = stage_of(model)
    torch.set_rng_state(state)
    assert units_of(stage, torch.arange(4), list(model.parameters()))
    assert torch.equal(torch.get_rng_state(), state)
    assert not differing(model.state_dict(), before)  # batch norm's numbers among them
    for (kind, own, training), m in zip(held, model.modules(), strict=True):
        assert (type(m), m.training) == (kind, training)
        assert vars(m).keys() == own.keys()
    assert all(p.grad is None for p in model.parameters())


def test_a_loss_that_fails_has_none() -> None:
    assert found(lambda m, x: m.nothing(x)) == []


def test_stopped_forwards_have_units_inside() -> None:
    """With substitution a forward pass is stopped when all encoders have run: they are called once, what holds them is
    not; and of the discriminator weights are taken out of its hands."""
    job = make_job(make_model(), method="ebr", options={"adversary": 0.5, "interleave": 1})
    stage = next(iter(registry.get_repair("ebr").stages(job)))
    names = {m: name for name, m in stage.module.named_modules()}
    made = units_of(stage, job.at.fit[:4], stage.parameters)
    assert {names[m] for m in made} == {
        *(f"0.encoders.{m}.encoder" for m in ("image", "audio")),
        *(f"0.encoders.{m}.insert.{part}.{i}" for m in ("image", "audio") for part in ("h", "back") for i in (0, 2)),
    } | {"0.fusion.0", "0.head"}
    assert [names[m] for m in made][:2] == ["0.encoders.image.encoder", "0.encoders.audio.encoder"]
    assert not any(isinstance(m, WrappedEncoder) for m in made)


def test_latent_encodings_that_are_read_lead_out() -> None:
    """Without substitution a head is called once, but what it has encoded is read by the adversary."""
    job = make_job(make_model(), method="ebr", options={"adversary": 0.5, "substitution": 0.0})
    stage = next(iter(registry.get_repair("ebr").stages(job)))
    seen = units._Seen(stage.module)
    with units.preserve_model(stage.module), seen.watching(), seen:
        stage.module.train()
        stage.loss(Step(job.at.fit[:4], 1))
    seen.judge()
    posts = {m for m in stage.module.modules() if isinstance(m, WrappedEncoder)}
    assert posts & seen.fit() == set()
    assert {m.insert.h for m in posts} <= seen.fit()
