"""What every adapter promises, however it takes a model apart: each test runs over all registered ones and over a user's
subclass, so a new one is covered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapsekit import registry
from collapsekit.adapters.base import Adapter
from collapsekit.adapters.encode_fuse_head import EncodeFuseHeadAdapter
from collapsekit.config.load import check_config
from collapsekit.config.schema import Config
from collapsekit.data.arrays import ArraySource
from collapsekit.errors import ConfigError

registry.load_builtins()
N = 12
Batch = dict[str, Tensor]


class Model(nn.Module):
    """A vector, tokens and a map, each with an encoder; a mixture; a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"state": nn.Linear(5, 6), "text": nn.Linear(3, 6), "image": nn.Conv2d(2, 6, 2)})
        self.fusion = nn.Sequential(nn.Linear(18, 7), nn.Tanh())
        self.head = nn.Linear(7, 3)

    def joined(self, z: Mapping[str, Tensor]) -> Tensor:
        out: Tensor = self.fusion(torch.cat([z["state"], z["text"].mean(1), z["image"].mean((2, 3))], 1))
        return out

    def forward(self, **x: Tensor) -> Tensor:
        out: Tensor = self.head(self.joined({m: encoder(x[m]) for m, encoder in self.encoders.items()}))
        return out


class Parts(EncodeFuseHeadAdapter):
    """As a user writes it."""

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        return {m: encoder(batch[m]) for m, encoder in self.model.encoders.items()}  # type: ignore[operator,union-attr]

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        return self.model.joined(features)  # type: ignore[operator,no-any-return]

    def head(self, fused: Tensor) -> Tensor:
        return self.model.head(fused)  # type: ignore[operator,no-any-return]


SHAPES = {"state": (5,), "text": (4, 3), "image": (2, 5, 5)}
AXES = {"state": 1, "text": 2, "image": 1}
MAKERS: dict[str, Callable[..., Any]] = {
    "encode, fuse, head": Parts,
    **{n: s.build for n, s in registry.ADAPTERS.items() if s.build.__module__.startswith("collapsekit.adapters.")},
}
CONFIG: dict[str, Any] = {
    "modalities": {m: f"encoders.{m}" for m in SHAPES},
    "fusion": "fusion",
    "head": "head",
    "model": {"factory": f"{__name__}:Model"},
}


def config(**changes: Any) -> Config:
    return check_config({**CONFIG, **changes}, base=Path.cwd())


def batch(n: int = N, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    return {m: torch.randn(n, *shape, generator=g) for m, shape in SHAPES.items()}


@pytest.fixture(params=sorted(MAKERS))
def adapter(request: pytest.FixtureRequest) -> Adapter:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Model()
    arrays = {"test": {**batch(), "label": torch.arange(N) % 3}}
    made: Adapter = MAKERS[request.param](config(), model=model, source=ArraySource(arrays, "memory"))
    with torch.no_grad():
        made.run(batch())
    return made


def taken(x: Batch, rows: Any) -> Batch:
    return {k: v[rows] for k, v in x.items()}


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-6)


def state_of(adapter: Adapter) -> tuple[dict[str, Tensor], list[Any]]:
    """Weights, and what a run may leave on modules."""
    plain = [
        (m.training, sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in adapter.model.modules()
    ]
    return {k: v.clone() for k, v in adapter.model.state_dict().items()}, plain


def test_a_run_is_the_replay_of_its_own_recordings(adapter: Adapter) -> None:
    with torch.no_grad():
        whole = adapter.run(batch())
        again = adapter.rerun(whole.recorded, batch())
        some = adapter.outputs_of({"text": whole.recorded["text"]}, batch())
        truth = adapter.model(**batch())
    assert torch.equal(whole.prediction.outputs, truth)
    assert torch.equal(again.outputs, truth)
    assert torch.equal(again.fused, whole.prediction.fused)
    assert torch.equal(some, truth)


def test_batch_size_and_row_order_do_not_matter(adapter: Adapter) -> None:
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = adapter.run(batch())
        for rows in (order, order[:5], order[:1]):
            part = adapter.run(taken(batch(), rows))
            assert close(part.prediction.outputs, whole.prediction.outputs[rows])
            assert close(part.prediction.fused, whole.prediction.fused[rows])
            for m in adapter.modalities:
                assert close(part.pooled[m], whole.pooled[m][rows])
                assert all(close(a, b[rows]) for a, b in zip(part.recorded[m], whole.recorded[m], strict=True))


@pytest.mark.parametrize("modality", SHAPES)
def test_an_edit_is_of_its_own_modality_only(adapter: Adapter, modality: str) -> None:
    edited = batch() | {modality: batch()[modality].flip(0)}
    with torch.no_grad():
        whole, truth = adapter.run(batch()), adapter.run(edited)
        moved = whole.recorded | {modality: tuple(t.flip(0) for t in whole.recorded[modality])}
        replayed = adapter.rerun(moved, edited)
        passed = adapter.run_live(batch(), {modality: lambda x: x.flip(0)})
    assert close(replayed.outputs, truth.prediction.outputs)
    assert close(replayed.fused, truth.prediction.fused)
    assert close(passed.outputs, truth.prediction.outputs)
    assert not close(replayed.outputs, whole.prediction.outputs)
    for m in adapter.modalities:
        assert close(truth.pooled[m], whole.pooled[m].flip(0) if m == modality else whole.pooled[m])


def test_inputs_recordings_and_model_stay_as_they_are(adapter: Adapter) -> None:
    inputs, before = batch(), state_of(adapter)
    whole = adapter.run(inputs)
    kept = {m: [t.clone() for t in r] for m, r in whole.recorded.items()}
    adapter.rerun(whole.recorded, inputs)
    adapter.outputs_of({"state": whole.recorded["state"]}, inputs)
    adapter.live("text", whole.recorded, inputs)
    adapter.run_live(inputs, {"image": lambda x: x * 2})
    assert all(torch.equal(inputs[k], v) for k, v in batch().items())
    assert all(torch.equal(t, k) for m in kept for t, k in zip(whole.recorded[m], kept[m], strict=True))
    weights, plain = state_of(adapter)
    assert all(torch.equal(weights[k], v) for k, v in before[0].items())
    assert plain == before[1]
    assert all(p.grad is None for p in adapter.model.parameters())


def test_training_runs_give_what_runs_give_with_gradient(adapter: Adapter) -> None:
    whole = adapter.run(batch())
    live = adapter.run_live(batch())
    assert torch.equal(live.outputs, whole.prediction.outputs)
    assert all(torch.equal(live.pooled[m], whole.pooled[m]) for m in adapter.modalities)
    named = dict(adapter.model.named_parameters())
    every = torch.autograd.grad(live.outputs.square().sum(), list(named.values()))
    assert all(bool(g.abs().sum() > 0) for g in every)
    for m in adapter.modalities:
        alone = adapter.live(m, whole.recorded, batch())
        assert torch.equal(alone, whole.pooled[m])
        reached = torch.autograd.grad(alone.square().sum(), list(named.values()), allow_unused=True)
        own = {id(p) for p in adapter.encoder_module(m).parameters()}
        for p, g in zip(named.values(), reached, strict=True):
            assert (g is not None and bool(g.abs().sum() > 0)) == (id(p) in own)


def test_features_are_where_it_says(adapter: Adapter) -> None:
    with torch.no_grad():
        whole = adapter.run(batch())
    for m in adapter.modalities:
        x = adapter.features_of(m, whole.recorded[m])
        with torch.no_grad():
            assert torch.equal(x, adapter.model.encoders[m](batch()[m]))  # type: ignore[index,operator,union-attr]
        assert x is whole.recorded[m][adapter.feature_index(m)]
        assert adapter.floating_index(m, whole.recorded[m]) == 0
        assert adapter.channel_axis(m, x) == AXES[m]
        assert x.shape[AXES[m]] == 6
        assert torch.equal(adapter.pool(m, x, batch()), whole.pooled[m])
        if x.ndim > 2:
            assert close(adapter.tokens_of(m, x).mean(1), whole.pooled[m])


def test_a_fresh_one_is_alike_but_for_its_weights(adapter: Adapter) -> None:
    whole = adapter.run(batch())
    twin = adapter.fresh(7)
    assert type(twin) is type(adapter)
    assert twin is not None
    with torch.no_grad():
        other = twin.run(batch())
        assert close(twin.rerun(other.recorded, batch()).outputs, other.prediction.outputs)
    assert not close(other.prediction.outputs, whole.prediction.outputs)
    inside = {id(p) for m in adapter.modalities for p in adapter.encoder_module(m).parameters()}
    assert {id(p) for p in adapter.fusion_parameters()} == {id(p) for p in adapter.model.parameters()} - inside


def test_encoders_that_are_no_submodules_can_have_nothing_behind_them(adapter: Adapter) -> None:
    adapter.need_encoders()
    sections = dict(adapter.config.modalities)
    sections["text"] = sections["text"].model_copy(update={"encoder": "fusion:input"})
    adapter.config = adapter.config.model_copy(update={"modalities": sections})
    with pytest.raises(ConfigError, match="modality 'text' names none that is a submodule of its own"):
        adapter.need_encoders()
