"""Modalities that some examples lack: such an example gives none and takes none; the model sees it as data spell it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from collapsekit import diagnose
from collapsekit.adapters.live.presence import lend, run_groups
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.context import Progress
from collapsekit.data.memory import MemorySource
from collapsekit.errors import CollapsekitError, DataError
from collapsekit.features.extraction import extract
from collapsekit.games.coalitions import CoalitionGame
from collapsekit.interventions.replay import predict

N = 24
LACK = torch.arange(N) % 3 == 0


class Model(nn.Module):
    """Adds what b says, where it is there."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        out = self.a(a)
        if b is None:
            return out
        gone = b.isnan().all(1, keepdim=True)
        return out + torch.where(gone, torch.zeros_like(out), self.b(b.nan_to_num(0)))


def rows() -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    return {"a": torch.randn(N, 4, generator=g), "b": torch.randn(N, 4, generator=g), "label": torch.arange(N) % 2}


def as_nan() -> Any:
    r = rows()
    r["b"][LACK] = float("nan")
    return r


def as_none() -> Any:
    """Examples one by one, some of which have None."""
    r = rows()
    return [[{"a": r["a"][i], "b": None if LACK[i] else r["b"][i], "label": r["label"][i]} for i in range(N)]]


def none_by_batch() -> Any:
    """Batches that have the modality, and batches that have None in its place."""
    r = rows()
    parts = [{k: v[part] for k, v in r.items()} for part in (~LACK, LACK)]
    parts[1]["b"] = None
    return parts


@pytest.mark.parametrize("make", [as_nan, as_none, none_by_batch])
def test_who_lacks_it_gives_none_and_takes_none(make: Any) -> None:
    adapter = ModuleAdapter(
        check_config({"modalities": {"a": None, "b": None}}, base=Path()),
        model=Model(),
        source=MemorySource({"test": make()}),
    )
    features = extract(adapter, "test")
    there = features.present["b"]
    assert int((~there).sum()) == int(LACK.sum())
    assert "b" in {w.name: w for w in features.warnings}["modalities_missing"].sentence
    model, r = Model().eval(), rows()
    place = [int((r["a"] == row).all(1).nonzero()) for row in features.inputs["a"]]
    a, b = r["a"][place], r["b"][place]
    gone = LACK[place]
    plain = model(a, b) * ~gone[:, None] + model(a) * gone[:, None]
    assert torch.allclose(features.outputs, plain, atol=1e-6)
    others = torch.arange(N).roll(1)
    moved = predict(adapter, features, swap={"b": others}).outputs
    assert torch.allclose(moved[gone], model(a)[gone], atol=1e-6)  # takes none
    given_by = lend(there, torch.arange(N), others)
    assert bool(there[given_by[there]].all())  # and gives none
    assert torch.allclose(moved[~gone], model(a, b[given_by])[~gone], atol=1e-6)


class Listed(nn.Module):
    """Adds what b says, a list of tensors, some of which may be None."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.whole = nn.Linear(4, 3), nn.Linear(4, 3), whole

    def forward(self, a: Tensor, b: Any) -> Tensor:
        if b is None:
            assert self.whole
            return self.a(a)
        if self.whole:
            return self.a(a) + self.b(torch.stack(b))
        rows = [torch.zeros(3) if one is None else self.b(one) for one in b]
        return self.a(a) + torch.stack(rows)


def listed(whole: bool) -> list[dict[str, Any]]:
    """Batches with lists that hold None, or batches with lists and batches with None."""
    r = rows()
    values = [None if LACK[i] else r["b"][i] for i in range(N)]
    if not whole:
        return [{**r, "b": values}]
    parts = [{k: v[part] for k, v in r.items()} for part in (~LACK, LACK)]
    return [{**parts[0], "b": [v for v in values if v is not None]}, {**parts[1], "b": None}]


@pytest.mark.parametrize("whole", [False, True])
def test_a_list_in_which_all_are_none_stays_what_the_data_have(whole: bool) -> None:
    model = Listed(whole)
    sections = {"a": None, "b": {"absent": "missing"}}
    adapter = ModuleAdapter(
        check_config({"modalities": sections}, base=Path()), model=model, source=MemorySource({"test": listed(whole)})
    )
    features = extract(adapter, "test")
    place = [int((rows()["a"] == row).all(1).nonzero()) for row in features.inputs["a"]]
    a, b, gone = rows()["a"][place], rows()["b"][place], LACK[place]
    plain = model.a(a) + model.b(b) * ~gone[:, None]
    assert torch.allclose(features.outputs, plain, atol=1e-6)
    without = CoalitionGame(adapter, features, 3, 0, Progress(), lambda: None).value(1).expected
    assert torch.allclose(without, model.a(a).double().softmax(1), atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=3, max_size=20), st.integers(0, 2**31 - 1))
def test_lenders(present: list[bool], seed: int) -> None:
    there, n = torch.tensor(present), len(present)
    own = torch.arange(n)
    lenders = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    found = lend(there, own, lenders)
    assert torch.equal(found[~there], own[~there])
    assert bool(there[found[there]].all())
    kept = there & there[lenders]
    assert torch.equal(found[kept], lenders[kept])
    if int(there.sum()) > 1:
        replaced = there & ~there[lenders]
        assert bool((found[replaced] != own[replaced]).all())


def test_groups_come_back_in_order() -> None:
    x = torch.arange(6)
    groups = [torch.tensor([4, 0]), torch.tensor([1, 5, 2, 3])]
    found = run_groups(groups, lambda r: {"x": x[r], "pair": (x[r], x[r] * 2)})
    assert torch.equal(found["x"], x)
    assert torch.equal(found["pair"][1], x * 2)


@pytest.mark.parametrize("encoders", [{}, {"a": "a"}])
def test_what_is_trained_on_a_modality_alone_takes_none_as_well(encoders: dict[str, str]) -> None:
    """Each example alone gives what all give together, with gradient, and in a step of training as well."""
    config = {"modalities": {"a": encoders.get("a") and {"encoder": "a"}, "b": None}}
    adapter = ModuleAdapter(check_config(config, base=Path()), model=Model(), source=MemorySource({"test": as_none()}))
    features = extract(adapter, "test")
    for m in "ab":
        both = adapter.live(m, features.recorded, features.inputs)
        one = [
            adapter.live(m, {k: (r[0][i : i + 1],) for k, r in features.recorded.items()}, row(features.inputs, i))
            for i in range(N)
        ]
        assert torch.allclose(both, torch.cat(one), atol=1e-6)
        assert both.requires_grad
    trained = adapter.run_live(features.inputs).outputs
    each = [adapter.run_live(row(features.inputs, i)).outputs for i in range(N)]
    assert torch.allclose(trained, torch.cat(each), atol=1e-6)


def row(inputs: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    return {k: v[i : i + 1] for k, v in inputs.items()}


def test_half_an_example_of_nan_is_no_missing_modality() -> None:
    r = rows()
    r["b"][3, 1] = float("nan")
    with pytest.raises(DataError, match="'b' of example 3 in split 'test' holds NaN"):
        diagnose(model=Model(), config={"modalities": {"a": None, "b": None}}, data={"test": r}, profile="quick")


def test_a_diagnosis_says_how_many_lack_it() -> None:
    splits = {s: as_nan() for s in ("train", "val", "test")}
    report = diagnose(
        model=Model(), config={"modalities": {"a": None, "b": None}}, data=splits, profile="quick", probes=["reliance"]
    )
    told = [w.sentence for w in report.warnings if w.name == "modalities_missing"]
    assert told
    assert "'b' in 8" in told[0]


class Deaf(Model):
    """Takes neither None nor NaN."""

    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        return self.a(a) + self.b(b)


@pytest.mark.parametrize("make", [as_nan, as_none])
def test_a_model_that_does_not_take_it_is_told_who_lacks_what(make: Any) -> None:
    adapter = ModuleAdapter(
        check_config({"modalities": {"a": None, "b": None}}, base=Path()),
        model=Deaf(),
        source=MemorySource({"test": make()}),
    )
    with pytest.raises(CollapsekitError, match=r"lack a modality.*\(modality 'b' in 8\).*fill or drop such examples"):
        extract(adapter, "test")
