"""The benchmark of families: what is exchanged, what a truth is, and that every family's model takes its data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.families import __main__ as command
from benchmarks.families.__main__ import costs, table, truths
from benchmarks.families.family import Family, World, swap_fields, train
from benchmarks.families.generating import GENERATING
from benchmarks.families.structures import STRUCTURES
from benchmarks.families.zoo import ZOO

FAMILIES = {**ZOO, **STRUCTURES, **GENERATING}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))
    return all(
        (a is None and b is None) or (a is not None and b is not None and same(a, b))
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_swap_moves_its_modality_and_no_label(name: str) -> None:
    family = FAMILIES[name]
    split = family.data(World.sample(40, 3))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    swaps = {**family.each_swap, "ignored": family.swap}
    moved = {m: {k for k, v in swap(split, order).items() if not same(v, split[k])} for m, swap in swaps.items()}
    assert all(fields and not fields & {"label", "action"} for fields in moved.values())
    for m in family.ignored if family.each_swap else ():  # what is ignored is moved by the one as by the other
        assert moved[m] <= moved["ignored"]
    assert set(family.ignored) <= set(family.modalities) == set(family.config["modalities"])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_has_a_loss_with_gradient_on_its_data(name: str) -> None:
    family = FAMILIES[name]
    torch.manual_seed(0)
    split = family.data(World.sample(30, 1))
    model = train(family, split, "untrained", 0)
    family.loss(model, split).backward()
    assert any(p.grad is not None and bool(p.grad.abs().sum()) for p in model.parameters())
    assert family.hand_over(split) is not None


class Sum(torch.nn.Module):
    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return a + 0.5 * b


def three() -> Family:
    def data(world: World) -> Any:
        n = len(world.a)
        parts = {m: torch.randn(n, generator=world.draw) for m in "abc"}
        return {**parts, "label": parts["a"] + 0.5 * parts["b"]}

    def loss(model: Any, split: Any) -> Tensor:
        return (model(split["a"], split["b"], split["c"]) - split["label"]).square().mean()

    swaps = {m: swap_fields(m) for m in "abc"}
    return Family("three", {}, data, Sum, loss, swaps["c"], swaps=swaps, ignored=("c",))


def test_costs_are_parts_of_what_exchanging_all_costs() -> None:
    """Of a sum of independent numbers these are the shares of variance."""
    found = costs(three(), Sum(), 0)
    assert found["a"] == pytest.approx(0.8, abs=0.05)
    assert found["b"] == pytest.approx(0.2, abs=0.05)
    assert found["c"] == 0.0


def test_a_truth_holds_where_costs_say_so() -> None:
    family = three()
    record = {
        "family": "three",
        "kind": "ignores",
        "costs": {"a": 0.8, "b": 0.2, "c": 0.0},
        "truth": family.truth("ignores"),
    }
    assert truths(record) == {"a": "used", "b": "used", "c": "ignored"}
    assert truths({**record, "costs": {"a": 0.88, "b": 0.12, "c": 0.0}}) is None  # below 2 / 3 of LEAST
    assert truths({**record, "costs": {"a": 0.8, "b": 0.2, "c": 0.03}}) is None
    untrained = {"family": "three", "kind": "untrained", "costs": None, "truth": family.truth("untrained")}
    assert truths(untrained) == dict.fromkeys("abc", "untrained")
    verdicts = {"a": "used", "b": "inconclusive", "c": "collapsed"}
    rows = [record | {"verdicts": verdicts}, untrained | {"verdicts": verdicts}]
    assert table(rows).splitlines()[2] == "| three | 2 of 2 | 2 of 3 | 2 of 2 | 1 | 1 |"


def test_two_modalities_are_exchanged_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "FRESH", 50)
    family = FAMILIES["early fusion, tuples"]
    split = family.data(World.sample(50, 0))
    swapped = command._two_swapped(family, split, 0)
    assert torch.equal(swapped["b"]["x"][:, :6], split["x"][:, :6])
    assert torch.equal(swapped["a"]["x"][:, 6:], split["x"][:, 6:])
    assert not torch.equal(swapped["a"]["x"][:, :6], split["x"][:, :6])
    assert torch.equal(swapped["all"]["label"], split["label"])
