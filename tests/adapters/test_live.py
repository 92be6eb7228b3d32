"""What is handed over as a live model works with the plain model's numbers, or is refused by its true cause."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapsekit import diagnose
from collapsekit.adapters.live.unwrap import unwrapped
from collapsekit.config.load import check_config
from collapsekit.errors import ConfigError
from collapsekit.report.diagnosis import Report
from tests.problems import weights_of

CONFIG = {"modalities": {"a": "a", "b": "b"}, "fusion": "fusion"}


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
        self.b = nn.Sequential(nn.Linear(3, 5), nn.ReLU())
        self.fusion = nn.Sequential(nn.Linear(10, 6), nn.Tanh())
        self.head = nn.Linear(6, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(self.fusion(torch.cat([self.a(a), self.b(b)], 1)))


def make_data() -> dict[str, dict[str, Tensor]]:
    g = torch.Generator().manual_seed(0)
    label = torch.arange(60) % 3
    rows = {"a": torch.randn(60, 4, generator=g) + label[:, None], "b": torch.randn(60, 3, generator=g), "label": label}
    return {"test": rows}


DATA = make_data()
SOME = DATA["test"]["a"][:4], DATA["test"]["b"][:4]


def toy() -> Toy:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Toy().eval()


def look(model: Any, config: Any = None, **more: Any) -> Report:
    probes = {"probes": ["reliance", "gradient_rank"], "options": {"reliance": {"draws": 4}}}
    return diagnose(model=model, data=DATA, config=config or CONFIG, profile="quick", **(probes | more))


@pytest.fixture(scope="module")
def plain() -> Report:
    return look(toy())


def changed(change: Callable[[Toy], object]) -> Toy:
    model = toy()
    change(model)
    return model


def compiled_forward(model: Toy) -> None:
    model.forward = torch.compile(model.forward, backend="eager")  # type: ignore[method-assign]


def warm(model: Any) -> Any:
    """Run under no_grad, and for two batch sizes: it answers from what was compiled then."""
    with torch.no_grad():
        for rows in (60, 7, 4):
            model(DATA["test"]["a"][:rows], DATA["test"]["b"][:rows])
    return model


def in_place() -> Toy:
    model = toy()
    model.compile(backend="eager")
    return warm(model)


WORKS: dict[str, Callable[[], nn.Module]] = {
    "compiled": lambda: torch.compile(toy(), backend="eager"),  # type: ignore[return-value]
    "compiled and warm": lambda: warm(torch.compile(toy(), backend="eager")),
    "compiled in place": in_place,
    "compiled encoders": lambda: warm(changed(lambda m: setattr(m, "a", torch.compile(m.a, backend="eager")))),
    "compiled forward": lambda: warm(changed(compiled_forward)),
    "DataParallel": lambda: nn.DataParallel(toy()),
    "compiled DataParallel": lambda: torch.compile(nn.DataParallel(toy()), backend="eager"),  # type: ignore[return-value]
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(toy()).eval(),
}


@pytest.mark.parametrize("name", WORKS)
def test_what_wraps_a_model_gives_the_plain_model_s_numbers(name: str, plain: Report) -> None:
    model = WORKS[name]()
    before = weights_of(model)
    found = look(model)
    assert found.results == plain.results
    if name != "compiled encoders":  # whose weights have other names
        assert found.subject == plain.subject  # the weights' digest too
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    for prefix in ("_orig_mod.", "module."):  # named as they are in the wrapper
        if unwrapped(model) is not model and f"{prefix}a" in dict(model.named_modules()):
            paths = {"modalities": {m: f"{prefix}{m}" for m in "ab"}, "fusion": f"{prefix}fusion"}
            assert look(model, paths).results == plain.results


def test_what_a_compiled_model_had_compiled_is_there_afterwards() -> None:
    model = toy()
    calls: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        calls.append(1)
        return graph.forward

    model.compile(backend=backend)
    warm(model)
    before, held = len(calls), model._compiled_call_impl
    look(model)
    assert len(calls) == before  # nothing of the diagnosis was compiled
    assert model._compiled_call_impl is held
    warm(model)
    assert len(calls) == before


def exported(model: nn.Module, args: tuple[Tensor, ...] = SOME) -> Any:
    return torch.export.export(model, args, dynamic_shapes=({0: torch.export.Dim("n", min=2, max=512)},) * len(args))


def on_meta() -> nn.Module:
    return toy().to("meta")


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(toy(), {nn.Linear}, dtype=torch.qint8)


def in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return Toy()


def graphed(model: Toy) -> None:
    """As torch.cuda.graphs leaves a module, without the device."""

    def make_graphed_forward(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def new_fwd(*args: Tensor) -> Tensor:
            return plain(*args)

        return new_fwd

    model.b.forward = make_graphed_forward(model.b.forward)  # type: ignore[method-assign]


class Mapped(Toy):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(self.fusion(torch.cat([self.a(a), torch.func.vmap(self.b)(b)], 1)))


class Stubborn(Toy):
    def train(self, mode: bool = True) -> Stubborn:
        raise RuntimeError("this one does not change its mode")


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "scripted": (
        lambda: torch.jit.script(toy()),
        r"model is a scripted module: .*`torch\.jit\.script\(net\)`",
    ),
    "traced": (
        lambda: torch.jit.trace(toy(), SOME),
        r"model is a traced module: .* give the nn\.Module that went into `torch\.jit\.trace\(net\)`, net\.",
    ),
    "frozen": (lambda: torch.jit.freeze(torch.jit.script(toy())), "model is a scripted module"),
    "scripted encoder": (
        lambda: changed(lambda m: setattr(m, "a", torch.jit.script(m.a))),
        "the submodule 'a', which is a scripted module",
    ),
    "traced part": (
        lambda: changed(lambda m: m.a.__setitem__(0, torch.jit.trace(m.a[0], SOME[0]))),
        r"the submodule 'a\.0', which is a traced module",
    ),
    "exported program": (
        lambda: exported(toy()),
        r"an exported program, .*`torch\.export\.export\(net\)`",
    ),
    "exported module": (lambda: exported(toy()).module(), "model is a module made of an exported program"),
    "exported encoder": (
        lambda: changed(lambda m: setattr(m, "a", exported(m.a, SOME[:1]).module())),
        "the submodule 'a', which is a module made of an exported program",
    ),
    "CUDA graph": (
        lambda: changed(graphed),
        r"'b', which is a module that runs as a CUDA graph: .*make_graphed_callables",
    ),
    "quantised": (quantised, "which is quantised .*give the model before it was quantised"),
    "meta": (on_meta, r"the weight 'a\.0\.weight', which is on the meta device"),
    "lazy": (
        lambda: changed(lambda m: setattr(m, "head", nn.LazyLinear(3))),
        r"'head\.weight', which has no shape yet",
    ),
    "inference mode": (in_inference_mode, r"was made under torch\.inference_mode"),
    "vmap": (lambda: Mapped(), "encoder 'b' of modality 'b' is run under torch.vmap"),
    "no eval": (Stubborn, "into eval mode: RuntimeError: this one does not change its mode"),
    "class": (lambda: Toy, "model is the class Toy: give an instance"),
    "function": (lambda: toy, "model is a function"),
    "bound method": (lambda: toy().forward, "model is a method"),
    "optimizer": (lambda: torch.optim.Adam(toy().parameters()), r"an optimizer \(Adam\)"),
    "state_dict": (lambda: toy().state_dict(), "load a state_dict into your nn.Module"),
    "path": (lambda: "ckpt.pt", r"a path \('ckpt.pt'\): give it as checkpoint"),
    "Path": (lambda: Path("ckpt.pt"), r"a path \('ckpt.pt'\)"),
    "list": (lambda: [toy()], "model is list, expected a torch.nn.Module"),
    "number": (lambda: 3, "model is int, expected a torch.nn.Module"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_heard_is_refused_by_its_true_cause(name: str) -> None:
    make, words = REFUSED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        model = make()
    with pytest.raises(ConfigError, match=words) as said:
        look(model)
    assert "\n" not in str(said.value)


FACTORY = """\
from tests.adapters.test_live import REFUSED, WORKS

def make(name):
    return WORKS[name]() if name in WORKS else REFUSED[name][0]()
"""


@pytest.mark.parametrize(
    "name", ["scripted", "exported module", "quantised", "meta", "lazy", "inference mode", "no eval"]
)
def test_a_factory_that_returns_one_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "making.py").write_text(FACTORY)
    torch.save(toy().state_dict(), tmp_path / "ckpt.pt")
    raw = {**CONFIG, "model": {"factory": "making:make", "kwargs": {"name": name}}, "data": {"path": "unread"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(
            ConfigError,
            match=REFUSED[name][1].replace("model is a", r"what model\.factory 'making:make' returned is a"),
        ):
            diagnose(tmp_path / "ckpt.pt", config=check_config(raw, base=tmp_path), data=DATA)


@pytest.mark.parametrize("name", ["DataParallel", "compiled"])
def test_a_factory_that_wraps_its_model_is_read_like_a_plain_one(name: str, tmp_path: Path, plain: Report) -> None:
    (tmp_path / "making.py").write_text(FACTORY)
    torch.save(WORKS[name]().state_dict(), tmp_path / "ckpt.pt")  # names that begin with the wrapper's
    raw = {**CONFIG, "model": {"factory": "making:make", "kwargs": {"name": name}}, "data": {"path": "unread"}}
    found = diagnose(
        tmp_path / "ckpt.pt",
        config=check_config(raw, base=tmp_path),
        data=DATA,
        profile="quick",
        probes=["reliance", "gradient_rank"],
        options={"reliance": {"draws": 4}},
    )
    assert found.results == plain.results
