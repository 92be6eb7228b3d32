"""A live model whose first forward runs within diagnose() works afterwards as though nothing had run."""

from __future__ import annotations

import copy
import functools
import random
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import MethodType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from collapsekit import diagnose
from collapsekit.adapters.build import seed_everything
from collapsekit.adapters.live.preserve import preserve_model
from collapsekit.errors import ConfigError

CONFIG = {"modalities": {"a": "a", "b": "b"}, "fusion": "fusion"}


def data(n: int = 40) -> dict[str, dict[str, Tensor]]:
    g = torch.Generator().manual_seed(0)
    return {
        s: {"a": torch.randn(n, 4, generator=g), "b": torch.randn(n, 4, generator=g), "label": torch.arange(n) % 3}
        for s in ("train", "val", "test")
    }


class Plain(nn.Module):
    """Two encoders, a fusion and a head; subclasses make something in their first forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(4, 5)
        self.fusion, self.head = nn.Sequential(nn.Linear(10, 6), nn.Tanh()), nn.Linear(6, 3)

    def first(self) -> None:
        """What happens before each forward."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        self.first()
        return self.head(self.fusion(torch.cat([self.a(a), self.b(b)], 1)))


class Hooks(Plain):
    """Hooks made in the first forward, and an attribute that says so: as transformers do."""

    def first(self) -> None:
        if not getattr(self, "_hooked", False):
            self.a.register_forward_hook(lambda _m, _x, out: out * 0.5)
            self.register_forward_pre_hook(lambda _m, _x: None)
            self._hooked = True


class ClassFlag(Plain):
    """The same, noted on the class."""

    hooked: ClassVar[set[int]] = set()
    calls: ClassVar[int] = 0

    def first(self) -> None:
        ClassFlag.calls += 1
        if id(self) not in self.hooked:
            self.hooked.add(id(self))
            self.a.register_forward_hook(lambda _m, _x, out: out * 0.5)


class LateModule(Plain):
    """A submodule made in the first forward, with weights and a flag."""

    def first(self) -> None:
        if not hasattr(self, "extra"):
            self.extra = nn.Linear(3, 3)
            self.register_buffer("shift", torch.ones(3))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        out = super().forward(a, b)
        return self.extra(out) + self.shift


class Cache(Plain):
    """A cache that the first forward fills and later ones read: in an attribute, in an object in an object."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = SimpleNamespace(cache=SimpleNamespace(mean=None), filled=[], by_name=defaultdict(list))

    def first(self) -> None:
        cache = self.layers.cache
        if cache.mean is None:
            cache.mean = torch.rand(1)
            self.layers.filled.append(1)
            self.layers.by_name["x"].append(2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return super().forward(a, b) + self.layers.cache.mean * len(self.layers.filled) * len(self.layers.by_name["x"])


@dataclass
class Settings:
    scale: float = 1.0
    seen: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Slotted:
    scale: float = 1.0


class ConfigObjects(Plain):
    """Config objects changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.config, self.slotted = Settings(), Slotted()

    def first(self) -> None:
        self.config.scale *= 1.5
        self.config.seen.append(1)
        self.slotted.scale += 1

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return super().forward(a, b) * self.config.scale * self.slotted.scale * len(self.config.seen)


class Cached(Plain):
    """functools.cached_property, and what is kept on a function."""

    @functools.cached_property
    def scale(self) -> float:
        return float(torch.rand(1))

    def helper(self) -> int:
        number = getattr(Cached.helper, "number", 0) + 1
        Cached.helper.number = number  # type: ignore[attr-defined]
        return number

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return super().forward(a, b) * self.scale + self.helper()


class Generators(Plain):
    """Generators of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.torch, self.python = torch.Generator().manual_seed(3), random.Random(3)
        self.numpy, self.old = np.random.default_rng(3), np.random.RandomState(3)
        self.drawn: deque[float] = deque(maxlen=4)

    def first(self) -> None:
        draws = torch.rand(1, generator=self.torch), self.python.random(), self.numpy.random(), self.old.rand()
        self.drawn.extend(float(d) for d in draws)


class Switches(Plain):
    """Modes, requires_grad, and a forward of the instance, changed in the first forward."""

    def first(self) -> None:
        self.a.requires_grad_(False)
        self.fusion.train()
        self.head.forward = MethodType(lambda m, x: nn.Linear.forward(m, x) * 1.0, self.head)  # type: ignore[method-assign]


class OwnForward(Plain):
    """A forward on the instance from before."""

    def __init__(self) -> None:
        super().__init__()
        plain = self.a.forward
        self.a.forward = lambda x: plain(x) * 3  # type: ignore[method-assign]


class Loose(Plain):
    """Submodules in a plain list, with a mode and a buffer that change."""

    def __init__(self) -> None:
        super().__init__()
        self.loose = [nn.BatchNorm1d(3)]

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        out = self.loose[0](super().forward(a, b))
        self.loose[0].eval()
        self.loose[0].running_mean.add_(0.1)
        return out


class ClassChanged(Plain):
    """Its class changes in the first forward, as with parametrizations."""

    def first(self) -> None:
        if type(self) is ClassChanged:
            self.__class__ = _Changed
            self.fresh = True


class _Changed(ClassChanged):
    pass


def parametrized() -> nn.Module:
    model = Plain()
    nn.utils.parametrizations.weight_norm(model.a)
    nn.utils.parametrizations.spectral_norm(model.b)
    return model


def lazy() -> nn.Module:
    model = Plain()
    model.head = nn.LazyLinear(3)
    return model


def in_training() -> nn.Module:
    """In the middle of training: modes of its own, gradients, frozen weights."""
    model = Plain()
    model(torch.ones(2, 4), torch.ones(2, 4)).sum().backward()
    model.train()
    model.a.eval()
    model.b.weight.requires_grad_(False)
    return model


def compiled() -> nn.Module:
    model = Plain()
    model.compile(backend="eager")
    return model


def test_a_module_without_shapes_is_without_shapes_again() -> None:
    """diagnose() refuses one; a monitor of a training that has not begun may meet it."""
    model = lazy()
    with preserve_model(model):
        model(torch.ones(2, 4), torch.ones(2, 4))
        assert not is_lazy(model.head.weight)
    assert is_lazy(model.head.weight)
    assert model(torch.ones(2, 4), torch.ones(2, 4)).shape == (2, 3)


KINDS: dict[str, Callable[[], nn.Module]] = {
    **{k.__name__: k for k in (Plain, Hooks, ClassFlag, LateModule, Cache, ConfigObjects, Cached, Generators)},
    **{k.__name__: k for k in (Switches, OwnForward, Loose, ClassChanged)},
    **{f.__name__: f for f in (parametrized, in_training, compiled)},
}


NOT_THE_SAME = {
    "ConfigObjects",
    "Cached",
    "Loose",
}  # answer otherwise each time: no numbers, but given back all the same


@pytest.mark.parametrize("part", ["module", "encoder", "wrapped"])
def test_a_model_compiled_and_run_before_gives_the_plain_model_s_numbers(part: str) -> None:
    """Compiled code does not call hooks that come after it."""
    seed_everything(5)
    model = Plain()
    plain = diagnose(model=model, data=data(), config=CONFIG, profile="quick", probes=["reliance"])
    batch = {k: v for k, v in data()["test"].items() if k != "label"}
    config: dict[str, Any] = CONFIG
    compiled: Any = model
    if part == "module":
        model.compile(backend="eager")
    elif part == "encoder":
        model.a.compile(backend="eager")
    else:
        compiled = torch.compile(model, backend="eager")
        config = {"modalities": {m: f"_orig_mod.{m}" for m in "ab"}, "fusion": "_orig_mod.fusion"}
    with torch.no_grad():
        compiled(**batch)
    report = diagnose(model=compiled, data=data(), config=config, profile="quick", probes=["reliance"])
    assert report.results == plain.results


def written(model: nn.Module) -> dict[str, Any]:
    """What may be seen of a model from outside; tensors by their bytes."""

    def plain(value: Any) -> Any:
        return value.detach().numpy().tobytes() if isinstance(value, Tensor) else value

    return {
        "state": {k: plain(v) for k, v in model.state_dict().items()},
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        "modes": [m.training for m in model.modules()],
        "kinds": [type(m) for m in model.modules()],
        "gradients": [(type(p), p.requires_grad, plain(p.grad)) for p in model.parameters()],
    }


def answers(model: nn.Module) -> list[Tensor]:
    """Two forwards, as the second may depend on the first."""
    seed_everything(1)
    batch = {k: v[:7] for k, v in data()["test"].items() if k != "label"}
    with torch.no_grad():
        return [model(**batch).clone() for _ in range(2)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_first_runs_in_diagnose_answers_as_though_it_had_not(kind: str) -> None:
    seed_everything(5)
    model = KINDS[kind]()
    untouched = copy.deepcopy(model)
    before = written(model)
    with preserve_model(untouched):
        expected = answers(untouched)
    refused = (
        pytest.raises(ConfigError, match="a forward leaves something behind") if kind in NOT_THE_SAME else nullcontext()
    )
    with refused:
        diagnose(model=model, data=data(), config=CONFIG, profile="quick", probes=["reliance"])
    assert written(model) == before
    for ours, theirs in zip(answers(model), expected, strict=True):
        assert torch.equal(ours, theirs)
