"""ModuleAdapter: what it records, and that replaying it is the model's own answer."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from collapsekit.adapters.module import ModuleAdapter
from collapsekit.adapters.pytree import flatten, rebuild
from collapsekit.errors import ConfigError
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.interventions.replay import predict
from tests.problems import adapt

N = 23
Pair = namedtuple("Pair", "first second")


@dataclass(frozen=True)
class Encoded:
    """What an encoder of a user may return; frozen, and no dict."""

    lengths: list[int]
    hidden: Tensor
    extra: Tensor


def arrays(*, n: int = N, seed: int = 0, **shapes: tuple[int, ...]) -> dict[str, dict[str, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    x = {k: torch.randn(n, *s, generator=g) for k, s in shapes.items()}
    return {"test": {**x, "label": torch.arange(n) % 3}}


def config(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"modalities": {"a": "a", "b": "b"}, "fusion": "fusion", "data": {"batch_size": 9}}
    return {**made, **changes}


class Base(nn.Module):
    """Encoders a and b, a nonlinear mixture, a head; subclasses change one thing."""

    def __init__(self, encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.a = encoder or nn.Linear(4, 5)
        self.b = nn.Linear(4, 5)
        self.fusion = nn.Sequential(nn.Linear(10, 6), nn.Tanh())
        self.head = nn.Linear(6, 3)

    def mix(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(self.fusion(torch.cat([x, y], 1)))

    def forward(self, a: Tensor, b: Tensor) -> Any:
        return self.mix(self.a(a), self.b(b))


def check_replay(model: nn.Module, cfg: dict[str, Any], data: dict[str, dict[str, Tensor]], tol: float = 1e-5) -> None:
    """Swapping in feature space equals running everything on swapped inputs."""
    adapter = adapt(model, cfg, data)
    features = extract(adapter, "test")
    other = torch.randperm(len(features), generator=torch.Generator().manual_seed(1))
    for m in features.modalities:
        swapped = predict(adapter, features, swap={m: other})
        inputs = dict(features.inputs)
        for key in adapter.input_keys(m):
            inputs[key] = inputs[key][other]
        with torch.no_grad():
            truth = adapter.run(inputs)
        assert torch.allclose(swapped.outputs, truth.prediction.outputs.float(), atol=tol)
        assert torch.allclose(swapped.fused, truth.prediction.fused.float(), atol=tol)
        # The swap matters, so that a replay that ignores it is seen.
        assert not torch.allclose(swapped.outputs, features.outputs, atol=1e-3)
    check_live(adapter, features, tol)


def check_live(adapter: ModuleAdapter, features: Features, tol: float) -> None:
    """A training run gives what a run gives, with gradient; features changed on their way are features replayed."""
    live = adapter.run_live(features.inputs)
    assert torch.allclose(live.outputs.float(), features.outputs, atol=tol)
    for m, tap in adapter.taps.items():
        assert torch.allclose(live.pooled[m].float(), features.pooled[m], atol=tol)
        given = len([a for a in tap.shape.axes if a is not None])  # type: ignore[union-attr]  # what follows is cached
        changed = tuple(
            t.flip(0) if i < given and t.is_floating_point() else t for i, t in enumerate(features.recorded[m])
        )
        replayed = adapter.rerun(features.recorded | {m: changed}, features.inputs)
        passed = adapter.run_live(features.inputs, {m: lambda f: f.flip(0)})
        assert torch.allclose(passed.outputs, replayed.outputs, atol=tol)
        assert torch.allclose(passed.pooled[m].float(), features.pooled[m], atol=tol)
        assert not torch.allclose(passed.outputs, live.outputs, atol=1e-3)
        weights = [p for p in adapter.encoder_module(m).parameters() if p.requires_grad]
        if weights and not tap.entering:
            gradients = torch.autograd.grad(live.outputs.sum(), weights, retain_graph=True, allow_unused=True)
            assert any(g is not None and bool(g.abs().sum() > 0) for g in gradients)


class Called(Base):
    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        match self.style:
            case "kwargs":
                x = kwargs
                assert not args
            case "dict":
                (x,) = args
            case "positional":
                x = dict(zip("ab", args, strict=True))
            case _:
                (values,) = args
                assert isinstance(values, list)
                x = dict(zip("ab", values, strict=True))
        return self.mix(self.a(x["a"]), self.b(x["b"]))


@pytest.mark.parametrize("style", ["kwargs", "dict", "positional", "list"])
def test_call_styles(style: str) -> None:
    check_replay(Called(style), config(call=style), arrays(a=(4,), b=(4,)))


class Returning(nn.Module):
    """An encoder whose features are wrapped in whatever ``wrap`` makes."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.linear, self.wrap = nn.Linear(4, 5), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.linear(x))


def _model_output(h: Tensor) -> Any:
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    return BaseModelOutputWithPooling(last_hidden_state=h[:, None] * 2, pooler_output=h)


WRAPS = {
    "tuple": (lambda h: (h, None, 3), None, lambda o: o[0]),
    "namedtuple": (lambda h: Pair(h * 2, h), "second", lambda o: o.second),
    "list in a tuple": (lambda h: (["x", h],), None, lambda o: o[0][1]),
    "dict": (lambda h: {"mask": h > 0, "h": h}, None, lambda o: o["h"]),
    "OrderedDict": (lambda h: OrderedDict(z=h * 2, h=h), "h", lambda o: o["h"]),
    "dataclass": (lambda h: Encoded([1, 2], h, h.sum(0)), None, lambda o: o.hidden),
    "dataclass, selected": (lambda h: Encoded([], h * 3, h), "extra", lambda o: o.extra),
    "ModelOutput": (_model_output, "pooler_output", lambda o: o.pooler_output),
    "index": (lambda h: (h * 2, h), 1, lambda o: o[1]),
    "distribution": (lambda h: torch.distributions.Normal(h, torch.ones_like(h)), "loc", lambda o: o.mean),
}


class Unwrapping(Base):
    def __init__(self, wrap: Any, unwrap: Any) -> None:
        super().__init__(Returning(wrap))
        self.unwrap = unwrap

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        out = self.a(a)
        return self.mix(self.unwrap(out), self.b(b))


@pytest.mark.parametrize("kind", WRAPS)
def test_encoder_output_structures(kind: str) -> None:
    wrap, select, unwrap = WRAPS[kind]
    model = Unwrapping(wrap, unwrap)
    cfg = config(modalities={"a": {"encoder": "a", "select": select}, "b": "b"})
    data = arrays(a=(4,), b=(4,))
    check_replay(model, cfg, data)
    features = extract(adapt(model, cfg, data), "test")
    with torch.no_grad():
        assert torch.allclose(features.pooled["a"], model.a.linear(features.inputs["a"]), atol=1e-6)


def test_features_are_found_behind_other_tensors() -> None:
    """Of (mask, twice the features, features) the third tensor is recorded as features; it is the second floating one."""
    model = Unwrapping(lambda h: (h > 0, h * 2, h), lambda o: o[2])
    adapter = adapt(model, config(modalities={"a": {"encoder": "a", "select": 2}, "b": "b"}), arrays(a=(4,), b=(4,)))
    features = extract(adapter, "test")
    recorded = features.recorded["a"]
    assert (adapter.feature_index("a"), adapter.floating_index("a", recorded)) == (2, 1)
    with torch.no_grad():
        assert torch.allclose(adapter.features_of("a", recorded), model.a.linear(features.inputs["a"]), atol=1e-6)
    assert (adapter.feature_index("b"), adapter.floating_index("b", features.recorded["b"])) == (0, 0)


class Recurrent(Base):
    """An LSTM returns (output, (h, c)), whose example axes are 1, 1 and 1, or 0, 1 and 1."""

    def __init__(self, batch_first: bool, layers: int = 2) -> None:
        super().__init__(nn.LSTM(4, 5, num_layers=layers, batch_first=batch_first))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        _, (h, c) = self.a(a if self.a.batch_first else a.transpose(0, 1))
        return self.mix(h[-1] + c[0], self.b(b))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("batch", [1, 2, 7, 9, 64])  # 2 layers, 7 steps, 1: sizes that other axes have too
def test_lstm_axes_are_found_whatever_the_batch_size(batch_first: bool, batch: int) -> None:
    model = Recurrent(batch_first)
    cfg = config(data={"batch_size": batch})
    data = arrays(a=(7, 4), b=(4,))
    check_replay(model, cfg, data)
    features = extract(adapt(model, cfg, data), "test")
    with torch.no_grad():
        x = features.inputs["a"]
        output = model.a(x)[0] if batch_first else model.a(x.transpose(0, 1))[0].transpose(0, 1)
    assert torch.allclose(features.pooled["a"], output.mean(1), atol=1e-5)


class Tokens(nn.Module):
    """Token features (n, t, d); the model reads the first."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class TokenModel(Base):
    def __init__(self) -> None:
        super().__init__(Tokens())

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.mix(self.a(a).mean(1), self.b(b))


@pytest.mark.parametrize("pool", ["auto", "mean", "max", "first", "last", "flatten"])
@pytest.mark.parametrize("masked", [False, True])
def test_token_pooling(pool: str, masked: bool) -> None:
    data = arrays(a=(6, 3), b=(4,))
    g = torch.Generator().manual_seed(5)
    mask = (torch.rand(N, 6, generator=g) > 0.4).long()
    mask[3] = 0  # an example without any token still gets a vector
    data["test"]["keep"] = mask
    model = TokenModel()
    section = {"encoder": "a", "pool": pool, **({"mask": "keep"} if masked else {})}
    adapter = adapt(model, config(modalities={"a": section, "b": "b"}), data)
    features = extract(adapter, "test")
    with torch.no_grad():
        tokens = model.a(features.inputs["a"])
    for i in range(N):
        keep = features.inputs["keep"][i].bool() if masked else torch.ones(6, dtype=torch.bool)
        rows = tokens[i] if not keep.any() else tokens[i][keep]
        expected = {
            "auto": lambda r: r.mean(0),
            "mean": lambda r: r.mean(0),
            "max": lambda r: r.amax(0),
            "first": lambda r: r[0],
            "last": lambda r: r[-1],
            "flatten": lambda _: tokens[i].reshape(-1),  # noqa: B023
        }[pool](rows)
        assert torch.allclose(features.pooled["a"][i], expected, atol=1e-6)
    if masked:
        assert "keep" in adapter.input_keys("a")  # the mask moves with its modality


class Maps(Base):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(2, 5, 3))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.mix(self.a(a).mean((2, 3)), self.b(b))


def test_feature_maps_pool_over_space() -> None:
    model, data = Maps(), arrays(a=(2, 5, 6), b=(4,))
    check_replay(model, config(), data)
    features = extract(adapt(model, config(), data), "test")
    with torch.no_grad():
        assert torch.allclose(features.pooled["a"], model.a(features.inputs["a"]).mean((2, 3)), atol=1e-6)
    last = adapt(model, config(modalities={"a": {"encoder": "a", "channels": "last"}, "b": "b"}), data)
    assert extract(last, "test").pooled["a"].shape == (N, 4)  # widths read as channels, as asked


class Side(nn.Module):
    """A mixture that takes its two inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(10, 6)

    def forward(self, left: Tensor, *, right: Tensor) -> Tensor:
        return torch.tanh(self.linear(torch.cat([left, right], 1)))


class Entering(Base):
    def __init__(self) -> None:
        super().__init__()
        self.fusion = Side()

    def mix(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(self.fusion(x.tanh(), right=y))


def test_encoder_by_what_enters_a_submodule() -> None:
    """``fusion:input`` with ``select`` reads an argument by position or by name."""
    model, data = Entering(), arrays(a=(4,), b=(4,))
    by_position = config(modalities={"a": {"encoder": "fusion:input", "select": 0}, "b": "b"})
    features = extract(adapt(model, by_position, data), "test")
    with torch.no_grad():
        assert torch.allclose(features.pooled["a"], model.a(features.inputs["a"]).tanh(), atol=1e-6)
    by_name = config(modalities={"a": "a", "b": {"encoder": "fusion:input", "select": "right"}})
    features = extract(adapt(model, by_name, data), "test")
    with torch.no_grad():
        assert torch.allclose(features.pooled["b"], model.b(features.inputs["b"]), atol=1e-6)
    wrong = config(modalities={"a": "a", "b": {"encoder": "fusion:input", "select": "rigth"}})
    with pytest.raises(ConfigError, match=r"no argument 'rigth'.*right"):
        extract(adapt(model, wrong, data), "test")


def test_fusion_by_what_enters_a_submodule() -> None:
    model, data = Base(), arrays(a=(4,), b=(4,))
    adapter = adapt(model, config(fusion="head:input"), data)
    features = extract(adapter, "test")
    with torch.no_grad():
        inputs = torch.cat([model.a(features.inputs["a"]), model.b(features.inputs["b"])], 1)
        assert torch.allclose(features.fused, model.fusion(inputs), atol=1e-6)
    assert not features.concatenated
    check_replay(model, config(fusion="head:input"), data)
    beside = extract(adapt(model, config(fusion="fusion:input"), data), "test")
    assert beside.concatenated  # what enters the mixture is the features side by side


def test_fusion_that_several_tensors_enter_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"2 tensors enter it.*name its output \('fusion'\)"):
        extract(adapt(Entering(), config(fusion="fusion:input"), arrays(a=(4,), b=(4,))), "test")


class Caching(nn.Module):
    """An encoder that leaves activations on itself (under any name) for the fusion to read."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.linear, self.name = nn.Linear(4, 5), name

    def forward(self, x: Tensor) -> Tensor:
        setattr(self, self.name, self.linear(x).square())
        return self.linear(x)


class ReadsCache(Base):
    def __init__(self, name: str) -> None:
        super().__init__(Caching(name))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = self.a(a)
        return self.mix(x + getattr(self.a, self.a.name), self.b(b))


@pytest.mark.parametrize("name", ["cache", "_hidden"])
@pytest.mark.parametrize("batch", [1, 5, 9])  # 5: also the width of what is cached
def test_activation_cached_on_the_encoder_moves_with_it(name: str, batch: int) -> None:
    model = ReadsCache(name)
    model(*(torch.randn(9, 4) for _ in "ab"))  # a stale cache of the batch's own size
    stale = getattr(model.a, name)
    check_replay(model, config(data={"batch_size": batch}), arrays(a=(4,), b=(4,)))
    adapter = adapt(model, config(), arrays(a=(4,), b=(4,)))
    features = extract(adapter, "test")
    before = getattr(model.a, name)
    predict(adapter, features, swap={"a": torch.arange(N).flip(0)})
    assert getattr(model.a, name) is before
    assert stale is not before


def test_cache_is_replayed_on_a_model_that_never_ran() -> None:
    """A freshly built twin has no cached attribute yet; replaying gives it one and takes it away."""
    data = arrays(a=(4,), b=(4,))
    model, twin = ReadsCache("cache"), ReadsCache("cache")
    twin.load_state_dict(model.state_dict())
    adapter, other = adapt(model, config(), data), adapt(twin, config(), data)
    features = extract(adapter, "test")
    for m, tap in adapter.taps.items():
        other.taps[m].shape = tap.shape
    other.recorder.fusion.shape = adapter.recorder.fusion.shape
    assert torch.allclose(other.rerun(features.recorded, features.inputs).outputs, features.outputs, atol=1e-6)
    assert "cache" not in vars(twin.a)


class Table(nn.Linear):
    """Holds a constant with as many rows as the first batch has."""

    def __init__(self) -> None:
        super().__init__(4, 5)
        self.table = torch.linspace(-1, 1, 9)[:, None].expand(9, 5).clone()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.table.sum(0)


def test_a_constant_is_no_cached_activation() -> None:
    model = Base(Table())
    check_replay(model, config(), arrays(a=(4,), b=(4,)))
    table = model.a.table
    features = extract(adapt(model, config(), arrays(a=(4,), b=(4,))), "test")
    assert len(features.recorded["a"]) == 1
    assert model.a.table is table


def test_rebuilding_leaves_the_original_containers_alone() -> None:
    first, second = torch.zeros(2), torch.ones(2)
    for value in ({"x": first, "y": 3}, Encoded([1], first, first), OrderedDict(x=[first]), _model_output(first)):
        leaves, tree = flatten(value)
        again = rebuild(tree, [second if isinstance(t, Tensor) else t for t in leaves])
        assert type(again) is type(value)
        assert again is not value
        assert all(t is not second for t in flatten(value)[0])
        assert all(t is second for t in flatten(again)[0] if isinstance(t, Tensor))
        assert flatten(again)[1].keys == tree.keys


class LeavesList(nn.Module):
    def __init__(self, log: list[Tensor]) -> None:
        super().__init__()
        self.linear, self.log = nn.Linear(4, 5), log

    def forward(self, x: Tensor) -> Tensor:
        self.log[:] = [self.linear(x).square()]
        return self.linear(x)


class ReadsList(Base):
    def __init__(self) -> None:
        self_log: list[Tensor] = []
        super().__init__(LeavesList(self_log))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.mix(self.a(a) + self.a.log[0], self.b(b))


def test_what_cannot_be_replayed_is_an_error() -> None:
    with pytest.raises(ConfigError, match="cannot be reproduced from its encoders' recorded features"):
        extract(adapt(ReadsList(), config(), arrays(a=(4,), b=(4,))), "test")


class InPlace(Base):
    """Writes into what the encoder returned, as ReLU(inplace=True) and += do."""

    def __init__(self) -> None:
        super().__init__()
        self.fusion = nn.Linear(10, 6)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = self.a(a)
        x += 1.0
        y = torch.relu_(self.b(b))
        fused = self.fusion(torch.cat([x, y], 1))
        return self.head(torch.relu_(fused))


def test_in_place_writes_after_the_tap_are_not_recorded() -> None:
    model, data = InPlace(), arrays(a=(4,), b=(4,))
    check_replay(model, config(), data)
    adapter = adapt(model, config(), data)
    features = extract(adapter, "test")
    with torch.no_grad():
        assert torch.allclose(features.pooled["a"], model.a(features.inputs["a"]), atol=1e-6)
        assert float(features.pooled["b"].min()) < 0
        assert float(features.fused.min()) < 0
    kept = {m: r[0].clone() for m, r in features.recorded.items()}
    adapter.rerun(features.recorded, features.inputs)
    assert all(torch.equal(features.recorded[m][0], kept[m]) for m in kept)
    # With gradient too: a leaf cannot be written into.
    leaves = {m: tuple(t.clone().requires_grad_() for t in r) for m, r in features.recorded.items()}
    fused = adapter.rerun(leaves, features.inputs).fused
    assert torch.autograd.grad(fused.sum(), leaves["a"][0])[0].abs().sum() > 0


class Bypass(Base):
    """The mixture also reads raw inputs, past the encoders."""

    def __init__(self) -> None:
        super().__init__()
        self.fusion = nn.Sequential(nn.Linear(14, 6), nn.Tanh())

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(self.fusion(torch.cat([self.a(a), self.b(b), a], 1)))


def test_raw_inputs_move_with_a_swapped_modality() -> None:
    check_replay(Bypass(), config(), arrays(a=(4,), b=(4,)))


def test_a_hook_of_the_user_that_changes_features_is_not_applied_twice() -> None:
    model = Base()
    model.a.register_forward_hook(lambda _m, _a, out: out * 2)
    check_replay(model, config(), arrays(a=(4,), b=(4,)))


class Bytes(Base):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        assert a.is_floating_point()
        assert float(a.max()) <= 1.0
        return self.mix(self.a(a), self.b(b))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_uint8_inputs_and_precisions(dtype: torch.dtype) -> None:
    data = arrays(a=(4,), b=(4,))
    g = torch.Generator().manual_seed(0)
    data["test"]["a"] = torch.randint(0, 256, (N, 4), generator=g, dtype=torch.uint8)
    model = Bytes().to(dtype)
    cfg = config(modalities={"a": {"encoder": "a", "scale": 255}, "b": "b"})
    check_replay(model, cfg, data, tol=1e-5 if dtype in (torch.float32, torch.float64) else 2e-2)
    features = extract(adapt(model, cfg, data), "test")
    assert features.pooled["a"].dtype == features.fused.dtype == features.outputs.dtype == torch.float32
    assert features.recorded["a"][0].dtype == dtype


def test_mean_over_many_positions_stays_in_range_in_half_precision() -> None:
    from collapsekit.adapters.pooling import pool_features

    maps = torch.full((2, 3, 96, 96), 40.0, dtype=torch.float16)
    assert torch.equal(pool_features(maps), torch.full((2, 3), 40.0))


def test_uint8_without_scale_says_so() -> None:
    data = arrays(a=(4,), b=(4,))
    data["test"]["a"] = data["test"]["a"].to(torch.uint8)
    (warning,) = extract(adapt(Base(), config(), data), "test").warnings
    assert warning.name == "integers_cast"
    assert "'a'" in warning.sentence
    assert "`scale`" in warning.sentence
    modalities = {"a": {"encoder": "a", "scale": 255}, "b": "b"}
    assert not extract(adapt(Base(), config(modalities=modalities), data), "test").warnings


@given(
    st.integers(2, 3),
    st.integers(1, 5),
    st.integers(2, 14),
    st.integers(1, 6),
    st.sampled_from([torch.tanh, torch.relu, torch.sin]),
    st.integers(0, 10_000),
)
@settings(max_examples=25, deadline=None)
def test_replay_equals_running_the_encoders(m: int, width: int, n: int, batch: int, act: Any, seed: int) -> None:
    """Swap, scale and hold on cached features against the model run on changed inputs or features."""
    g = torch.Generator().manual_seed(seed)
    names = ["a", "b", "c"][:m]

    class Encoder(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return act(super().forward(x))

    class Random(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enc = nn.ModuleDict({k: Encoder(3, width) for k in names})
            self.fusion = nn.Linear(width * m, 4)
            for p in self.parameters():
                p.data = torch.randn(p.shape, generator=g)

        def forward(self, changed: Any = None, **x: Tensor) -> Tensor:
            parts = {k: (changed or {}).get(k, lambda f: f)(e(x[k])) for k, e in self.enc.items()}
            return act(self.fusion(torch.cat(list(parts.values()), 1)))

    model = Random()
    x = {k: torch.randn(n, 3, generator=g) for k in names}
    adapter = adapt(
        model,
        {
            "modalities": {k: f"enc.{k}" for k in names},
            "fusion": "fusion",
            "task": "regression",
            "data": {"batch_size": batch},
        },
        {"test": {**x, "label": torch.randn(n, 4, generator=g)}},
    )
    features = extract(adapter, "test")
    other = torch.randint(0, n, (n,), generator=g)
    with torch.no_grad():
        x = {k: features.inputs[k] for k in names}
        swapped = model(**{**x, "a": x["a"][other]})
        scaled = model({"b": lambda f: f * 2.5}, **x)
        held = model({"a": lambda f: f.mean(0, keepdim=True).expand_as(f)}, **x)
        some = model(**{k: v[other] for k, v in x.items()})
    assert torch.allclose(predict(adapter, features, swap={"a": other}).outputs, swapped, atol=1e-5)
    assert torch.allclose(predict(adapter, features, scale={"b": 2.5}).outputs, scaled, atol=1e-5)
    assert torch.allclose(predict(adapter, features, hold=["a"]).outputs, held, atol=1e-5)
    assert torch.allclose(predict(adapter, features, rows=other).outputs, some, atol=1e-5)


class ReturnsParts(Base):
    """Returns what ``order`` says of its features (n, 6) and logits (n, 3)."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order = order

    def forward(self, a: Tensor, b: Tensor) -> Any:
        fused = self.fusion(torch.cat([self.a(a), self.b(b)], 1))
        return tuple({"f": fused, "l": self.head(fused), "n": 7, "s": fused.sum()}[part] for part in self.order)


@pytest.mark.parametrize("order", ["fl", "fnl", "fsl"])
def test_a_prediction_that_is_not_the_first_part_is_asked_for_and_not_taken_for_another(order: str) -> None:
    data, model = arrays(a=(4,), b=(4,)), ReturnsParts(order)
    place = order.index("l")
    with pytest.raises(ConfigError, match=rf"fit part {place} alone, of shape \(9, 3\): write `output: {place}`"):
        extract(adapt(model, config(), data), "test")
    assert extract(adapt(model, config(output=place), data), "test").outputs.shape == (N, 3)
    assert extract(adapt(model, config(output=0), data), "test").outputs.shape == (N, 6)


@pytest.mark.parametrize("order", ["lf", "l", "ll", "lnf"])
def test_a_prediction_that_is_the_first_part_need_not_be_named(order: str) -> None:
    made = extract(adapt(ReturnsParts(order), config(), arrays(a=(4,), b=(4,))), "test")
    assert made.outputs.shape == (N, 3)
