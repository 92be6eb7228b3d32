"""Where a modality is recorded makes no difference to what a model gets from it: behind an encoder of its own, behind one
that several share, or at the input, as whole fields or as parts of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapsekit import diagnose
from collapsekit.adapters.hooks import Tap, features_by_call
from collapsekit.errors import ConfigError
from collapsekit.features.extraction import extract
from collapsekit.interventions.replay import predict
from tests.problems import adapt

N = 40


class Joined(nn.Module):
    """Two encoders, one fusion; ``stacked``: both inputs are channels of one tensor; ``shared``: one encoder for both."""

    def __init__(self, *, stacked: bool = False, shared: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Sequential(nn.Linear(4, 5), nn.Tanh())
        self.b = self.a if shared else nn.Sequential(nn.Linear(4, 5), nn.Tanh())
        self.fusion = nn.Sequential(nn.Linear(10, 6), nn.Tanh())
        self.head = nn.Linear(6, 3)
        self.stacked = stacked

    def forward(self, a: Tensor | None = None, b: Tensor | None = None, x: Tensor | None = None) -> Tensor:
        if self.stacked:
            assert x is not None
            a, b = x[:, 0], x[:, 1]
        return self.head(self.fusion(torch.cat([self.a(a), self.b(b)], 1)))


def arrays(*, stacked: bool = False) -> dict[str, dict[str, Tensor]]:
    def part(seed: int) -> dict[str, Tensor]:
        g = torch.Generator().manual_seed(seed)
        y = torch.arange(N) % 3
        a, b = (torch.randn(N, 4, generator=g) + torch.nn.functional.one_hot(y, 4) for _ in "ab")
        return {"x": torch.stack([a, b], 1), "label": y} if stacked else {"a": a, "b": b, "label": y}

    return {split: part(i) for i, split in enumerate(("train", "val", "test"))}


PLAIN = {"modalities": {"a": "a", "b": "b"}, "fusion": "fusion"}
PARTS = {"a": {"input": "x", "slice": "[0]"}, "b": {"input": "x", "slice": "[1]"}}


def reliance(model: nn.Module, config: dict[str, Any], data: Mapping[str, Any]) -> dict[Any, Any]:
    """What reliance says of every coalition, over every other example: so that no order of draws matters."""
    report = diagnose(
        model=model,
        config=config,
        data=data,
        profile="quick",
        probes=["reliance"],
        options={"reliance": {"draws": N - 1}},
    )
    return {(r.name, r.modality): (r.value, *(r.interval or ())) for r in report.results if r.value is not None}


def close(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    assert one.keys() == other.keys()
    return all(v == pytest.approx(other[k], rel=1e-5, abs=1e-6) for k, v in one.items())


@pytest.mark.parametrize(
    "config",
    [
        {"modalities": {"a": "a", "b": "b"}},
        {"modalities": {"a": None, "b": None}, "fusion": "fusion"},
        {"modalities": {"a": "a", "b": None}},
        {"modalities": {"a": None, "b": None}},
        {"modalities": {"a": {"slice": "[:]"}, "b": None}},
    ],
    ids=["no fusion", "no encoders", "one encoder", "neither", "all of a field as a slice"],
)
def test_reliance_does_not_depend_on_where_modalities_are_recorded(config: dict[str, Any]) -> None:
    plain = reliance(Joined(), dict(PLAIN), arrays())
    assert close(reliance(Joined(), config, arrays()), plain)


def test_channels_of_one_tensor_are_what_two_tensors_are() -> None:
    data = arrays(stacked=True)
    at_input = predicted(Joined(stacked=True), {"modalities": PARTS}, data)
    encoded = predicted(
        Joined(stacked=True),
        {"modalities": {"a": {**PARTS["a"], "encoder": "a"}, "b": {**PARTS["b"], "encoder": "b"}}, "fusion": "fusion"},
        data,
    )
    apart = predicted(Joined(), dict(PLAIN), arrays())
    for one, other in ((at_input, apart), (encoded, apart)):
        assert torch.allclose(sorted_rows(one[0]), sorted_rows(other[0]), atol=1e-6)
    assert torch.allclose(at_input[1], encoded[1], atol=1e-6)


def predicted(model: nn.Module, config: dict[str, Any], data: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Outputs as they are, and with modality a taken from the example before."""
    adapter = adapt(model, config, data)
    features = extract(adapter, "test")
    other = torch.arange(N).roll(1)
    return features.outputs, predict(adapter, features, swap={"a": other}).outputs


def sorted_rows(x: Tensor) -> Tensor:
    """Rows in the order of their first number, since examples are ordered by what they hold."""
    return x[x[:, 0].argsort()]


def test_tokens_of_a_sequence_are_moved_and_nothing_else_is() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.table = nn.Embedding(20, 8)
            self.head = nn.Linear(8, 3)

        def forward(self, ids: Tensor) -> Tensor:
            place = torch.linspace(0.5, 1.5, ids.shape[1])[None, :, None]
            return self.head((self.table(ids) * place).mean(1))

    g = torch.Generator().manual_seed(0)
    ids, kind = torch.randint(0, 20, (N, 6), generator=g), torch.tensor([[0, 1, 0, 1, 1, 0]] * N)
    data = {s: {"ids": ids, "kind": kind, "label": torch.arange(N) % 3} for s in ("train", "val", "test")}
    modalities = {"text": {"input": "ids", "where": "kind == 0"}, "image": {"input": "ids", "where": "kind == 1"}}
    adapter = adapt(model := Tokens(), {"modalities": modalities}, data)
    features = extract(adapter, "test")
    other = torch.arange(N).roll(3)
    found = predict(adapter, features, swap={"image": other}).outputs
    by_hand = features.inputs["ids"].clone()
    by_hand[:, [1, 3, 4]] = by_hand[other][:, [1, 3, 4]]
    assert torch.allclose(found, model(by_hand), atol=1e-6)


def test_one_encoder_called_for_two_modalities_is_told_apart_by_what_reaches_it() -> None:
    class Backwards(Joined):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:  # type: ignore[override]
            second, first = self.a(b), self.a(a)  # the other way round than modalities are named
            return self.head(self.fusion(torch.cat([first, second], 1)))

    config = {"modalities": {"a": "a", "b": {"encoder": "a"}}, "fusion": "fusion"}
    shared = predicted(Backwards(shared=True), config, arrays())
    at_input = predicted(Joined(shared=True), {"modalities": {"a": None, "b": None}}, arrays())
    for one, other in zip(shared, at_input, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_an_encoder_called_for_several_inputs_of_one_modality_is_one() -> None:
    class Cameras(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.camera, self.state = nn.Linear(4, 5), nn.Linear(4, 5)
            self.head = nn.Linear(15, 3)

        def forward(self, left: Tensor, right: Tensor, b: Tensor) -> Tensor:
            return self.head(torch.cat([self.camera(left), self.camera(right), self.state(b)], 1).tanh())

    data = {s: {"left": v["a"], "right": v["a"].flip(1), "b": v["b"], "label": v["label"]} for s, v in arrays().items()}
    cameras = {"a": {"encoder": "camera", "input": ["left", "right"]}, "b": "state"}
    recorded = predicted(Cameras(), {"modalities": cameras}, data)
    at_input = predicted(Cameras(), {"modalities": {"a": {"input": ["left", "right"]}, "b": None}}, data)
    for one, other in zip(recorded, at_input, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    features = extract(adapt(Cameras(), {"modalities": cameras}, data), "test")
    left, right, camera = features.inputs["left"], features.inputs["right"], Cameras().camera
    assert torch.allclose(features.pooled["a"], torch.cat([camera(left), camera(right)], 1), atol=1e-6)


def test_maps_of_several_inputs_are_read_with_their_channels_side_by_side() -> None:
    class Cameras(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.camera, self.state, self.head = nn.Conv2d(1, 3, 1), nn.Linear(4, 5), nn.Linear(11, 3)

        def forward(self, left: Tensor, right: Tensor, b: Tensor) -> Tensor:
            seen = torch.cat([self.camera(left), self.camera(right)], 1).tanh().mean((2, 3))
            return self.head(torch.cat([seen, self.state(b)], 1))

    data = {
        s: {
            "left": v["a"].view(-1, 1, 2, 2),
            "right": v["a"].flip(1).view(-1, 1, 2, 2),
            "b": v["b"],
            "label": v["label"],
        }
        for s, v in arrays().items()
    }
    cameras = {"a": {"encoder": "camera", "input": ["left", "right"]}, "b": "state"}
    adapter = adapt(Cameras(), {"modalities": cameras}, data)
    features = extract(adapter, "test")
    maps = adapter.features_of("a", features.recorded["a"])
    assert maps.shape[1:] == (6, 2, 2)
    assert torch.allclose(maps[:, 3:], adapter.model.camera(features.inputs["right"]), atol=1e-6)
    assert features.pooled["a"].shape[1] == 6


def test_encoders_at_the_input_cannot_have_modules_put_behind_them() -> None:
    adapter = adapt(Joined(), {"modalities": {"a": None, "b": None}, "fusion": "fusion"}, arrays())
    with pytest.raises(ConfigError, match="modality 'a' names none"):
        adapter.need_encoders()


def test_uint8_inputs_can_be_held_and_scaled() -> None:
    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.head = nn.Linear(8, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(torch.cat([a, b], 1))

    data = {s: {**v, "a": (v["a"] * 20 + 100).to(torch.uint8)} for s, v in arrays().items()}
    adapter = adapt(model := Pixels(), {"modalities": {"a": {"scale": 255.0}, "b": None}}, data)
    features = extract(adapter, "test")
    a, b = features.inputs["a"].float() / 255, features.inputs["b"]
    halved = predict(adapter, features, scale={"a": 0.5}).outputs
    assert torch.allclose(halved, model(a * 0.5, b), atol=1e-6)
    held = predict(adapter, features, hold=["a"]).outputs
    assert torch.allclose(held, model(a.mean(0, keepdim=True).expand_as(a), b), atol=1e-5)


def test_a_modality_without_encoder_is_trained_alone_with_the_whole_model() -> None:
    adapter = adapt(model := Joined(), {"modalities": {"a": None, "b": None}}, arrays())
    features = extract(adapter, "test")
    alone = adapter.live("a", features.recorded, features.inputs)
    nothing = torch.zeros(N, 4)
    assert torch.allclose(alone, model(features.inputs["a"], nothing), atol=1e-6)
    others = {**features.inputs, "b": features.inputs["b"].roll(1, 0)}
    assert torch.equal(adapter.live("a", features.recorded, others), alone)  # b is not there, whatever it is
    alone.sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.head.parameters())


class Unpadded(Joined):
    """Takes what is 0 throughout for padding and leaves it out, as Idefics3 does with pictures; at none it fails."""

    def __init__(self, *, nor_ones: bool = False) -> None:
        super().__init__()
        self.nor_ones = nor_ones

    def forward(self, a: Tensor | None = None, b: Tensor | None = None, x: Tensor | None = None) -> Tensor:
        assert b is not None
        if not bool(b.any()) or (self.nor_ones and len(b) > 1 and bool((b == b[0]).all())):
            raise RuntimeError("nothing but padding")
        return super().forward(a, b, x)


def test_where_a_model_fails_at_nothing_but_0_the_other_modality_is_1() -> None:
    adapter = adapt(model := Unpadded(), {"modalities": {"a": None, "b": None}}, arrays())
    features = extract(adapter, "test")
    alone = adapter.live("a", features.recorded, features.inputs)
    assert torch.allclose(alone, model(features.inputs["a"], torch.ones(N, 4)), atol=1e-6)
    assert model.training == adapt(Joined(), {"modalities": {"a": None, "b": None}}, arrays()).model.training


def test_what_can_stand_beside_a_modality_is_found_once() -> None:
    adapter = adapt(model := Unpadded(), {"modalities": {"a": None, "b": None}}, arrays())
    features = extract(adapter, "test")
    adapter.live("a", features.recorded, features.inputs)
    calls: list[None] = []
    model.register_forward_pre_hook(lambda *_: calls.append(None))
    adapter.live("a", features.recorded, features.inputs)
    assert len(calls) == 1


def test_a_modality_that_no_constant_can_stand_beside_is_said_to_lack_its_reference(tmp_path: Path) -> None:
    torch.save(Unpadded().state_dict(), tmp_path / "ckpt.pt")
    report = diagnose(
        tmp_path / "ckpt.pt",
        config={
            "model": {"factory": "tests.adapters.test_places:Unpadded", "kwargs": {"nor_ones": True}},
            "modalities": {"a": None, "b": None},
        },
        data=arrays(),
        probes=["reliance", "utilisation", "prefix_gap"],
        options={"prefix_gap": {"epochs": 2, "rates": [1e-2]}},
    )
    lacks = {m: report.modalities[m].missing for m in "ab"}
    assert lacks["a"] is not None
    assert lacks["a"].startswith(
        "the model fails where the other modalities are the same in all examples (RuntimeError: nothing"
    )
    assert "the model fails" not in (lacks["b"] or "")


def test_the_reference_of_such_a_modality_is_the_model_trained_on_it(tmp_path: Path) -> None:
    torch.save(Joined().state_dict(), tmp_path / "ckpt.pt")
    config = {
        "model": {"factory": "tests.adapters.test_places:Joined"},
        "modalities": {"a": None, "b": None},
    }
    report = diagnose(
        tmp_path / "ckpt.pt",
        config=config,
        data={s: {k: v.repeat(3, *[1] * (v.ndim - 1)) for k, v in part.items()} for s, part in arrays().items()},
        probes=["utilisation", "prefix_gap"],
        cache=tmp_path / "cache",
        options={"prefix_gap": {"epochs": 3, "rates": [1e-2]}},
    )
    told = report.find("utilisation.strength", modality="a")
    assert told.curve is not None
    assert "the whole model trained on it alone" in told.curve.x
    assert "inputs as the model is given them" in told.curve.x
    assert "the checkpoint's own encoder" not in told.curve.x
    assert report.find("prefix_gap.gap", modality="a").skipped is not None
    assert "encoder" not in report.modalities["a"].reason


def test_a_table_called_for_each_range_of_tokens_is_told_apart() -> None:
    class Ranges(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.table, self.head = nn.Embedding(20, 8), nn.Linear(16, 3)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(torch.cat([self.table(ids[:, :3]).mean(1), self.table(ids[:, 3:]).mean(1)], 1))

    g = torch.Generator().manual_seed(0)
    ids, kind = torch.randint(0, 20, (N, 6), generator=g), torch.tensor([[0, 0, 0, 1, 1, 1]] * N)
    data = {s: {"ids": ids, "kind": kind, "label": torch.arange(N) % 3} for s in ("train", "val", "test")}
    parts = {"a": {"input": "ids", "where": "kind == 0"}, "b": {"input": "ids", "where": "kind == 1"}}
    encoded = {m: {**part, "encoder": "table"} for m, part in parts.items()}
    one, other = (predicted(Ranges(), {"modalities": m}, data) for m in (parts, encoded))
    assert torch.allclose(one[1], other[1], atol=1e-6)


def test_calls_that_give_other_things_are_read_by_the_first_features() -> None:
    """As of a module that is called once an example, one of whose calls has as many rows as there are examples."""
    tap = Tap("encoder", nn.Linear(2, 2), entering=False)
    tap.calls = (0, 1, 2)
    tap.shape = SimpleNamespace(feature=0)  # type: ignore[assignment]
    one, wide = torch.zeros(4, 2), torch.zeros(4, 3)
    assert [t is one for t in features_by_call(tap, (one,))] == [True]
    assert [t is one for t in features_by_call(tap, (one, wide, wide))] == [True]
    assert len(features_by_call(tap, (one, one, one))) == 3
    assert len(features_by_call(tap, (one, wide, one, wide, one, wide))) == 3
