"""What feeds nothing but replayed encoders is left out of replays, and no number changes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit import diagnose
from collapsekit.adapters import module as module_adapter
from collapsekit.adapters.build import seed_everything
from collapsekit.adapters.live.state import same_bits
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.adapters.pruning.find import Pruning, SkipPlan
from collapsekit.data.base import Batch
from collapsekit.features.extraction import extract
from collapsekit.report.diagnosis import Report
from tests.problems import adapt

N = 40
BOTH = frozenset("ab")
PROBES = ["reliance", "gradient_rank", "noise", "vif"]


def data(n: int = N) -> dict[str, dict[str, Tensor]]:
    made = {}
    for number, split in enumerate(("train", "val", "test")):
        g = torch.Generator().manual_seed(number)
        made[split] = {k: torch.randn(n, 6, generator=g) for k in "ab"} | {"label": torch.arange(n) % 3}
    return made


class Branches(nn.Module):
    """A list of layers a modality, the last of which is its encoder; a fusion; a head."""

    def __init__(self, *first: Callable[[], nn.Module]) -> None:
        super().__init__()
        seed_everything(5)
        makers = first or (lambda: nn.Linear(6, 8), nn.Tanh, lambda: nn.Linear(8, 8))
        self.branches = nn.ModuleDict({m: nn.ModuleList([*(f() for f in makers), nn.Linear(8, 5)]) for m in "ab"})
        self.fusion, self.head = nn.Sequential(nn.Linear(10, 7), nn.Tanh()), nn.Linear(7, 3)

    @property
    def config(self) -> dict[str, Any]:
        last = len(self.branches["a"]) - 1  # type: ignore[arg-type]
        return {"modalities": {m: f"branches.{m}.{last}" for m in "ab"}, "fusion": "fusion"}

    def encoded(self, m: str, x: Tensor) -> Tensor:
        for layer in self.branches[m]:  # type: ignore[union-attr]
            x = layer(x)
        return x

    def mixed(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(self.fusion(torch.cat([a, b], 1)))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.mixed(self.encoded("a", a), self.encoded("b", b))


class Nested(nn.Module):
    """Trunks that hold several layers, and encoders behind them."""

    config: ClassVar[dict[str, Any]] = {"modalities": {"a": "parts.last.a", "b": "parts.last.b"}, "fusion": "fusion"}

    def __init__(self) -> None:
        super().__init__()
        seed_everything(5)
        trunk = lambda: nn.Sequential(nn.Linear(6, 8), nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 8)))  # noqa: E731
        ends = nn.ModuleDict({"a": nn.Linear(8, 5), "b": nn.Linear(8, 5)})
        self.parts = nn.ModuleDict({"trunks": nn.ModuleDict({"a": trunk(), "b": trunk()}), "last": ends})
        self.fusion, self.head = nn.Linear(10, 7), nn.Linear(7, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        trunks: Any = self.parts["trunks"]
        ends: Any = self.parts["last"]
        return self.head(self.fusion(torch.cat([ends["a"](trunks["a"](a)), ends["b"](trunks["b"](b))], 1)))


class SharedStem(Branches):
    """The first layer of ``a`` feeds its encoder, and the fusion past it."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        layers: Any = self.branches["a"]
        stem = layers[0](a)
        x = stem
        for layer in layers[1:]:
            x = layer(x)
        return self.mixed(x + stem[:, :5], self.encoded("b", b))


class Between(Branches):
    """Code between the layers, which writes into what a layer gave."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        made = []
        for m, x in (("a", a), ("b", b)):
            first, _, third, last = self.branches[m]  # type: ignore[misc]
            h = first(x)
            h += 1
            h = F.relu(h, inplace=True).view(len(x), 2, 4).transpose(1, 2).reshape(len(x), 8)
            made.append(last(third(h) * 2))
        return self.mixed(*made)


class Drawing(nn.Module):
    """Draws random numbers in eval mode too, and gives what it got."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0 * F.dropout(x, 0.5, training=True)


class Draws(Branches):
    """A branch draws random numbers; the fusion draws after it, and its answer has a trace of that."""

    def __init__(self) -> None:
        super().__init__(lambda: nn.Linear(6, 8), Drawing)

    def mixed(self, a: Tensor, b: Tensor) -> Tensor:
        return super().mixed(a + 1e-6 * torch.rand_like(a), b)


class Caching(nn.Module):
    """A layer that keeps what it made."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.last = nn.Linear(6, 8), torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.linear(x)
        return self.last * 2


class Cached(Branches):
    """The fusion reads what a layer of ``a`` kept of itself."""

    def __init__(self) -> None:
        super().__init__(Caching, nn.Tanh)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x, y = self.encoded("a", a), self.encoded("b", b)
        kept: Any = self.branches["a"][0].last  # type: ignore[index]
        return self.mixed(x + kept[:, 3:], y)


class LooksAtValues(Branches):
    """Which way a layer's output goes depends on its numbers."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        first, act, third, last = self.branches["a"]  # type: ignore[misc]
        h = first(a)
        late = h[:, :5] if bool(h.mean() > 100) else torch.zeros(1)
        return self.mixed(last(third(act(h))) + late, self.encoded("b", b))


class ManyHeads(Branches):
    """Heads of which one is read, and a decoder whose answer is handed out unread; the config names the one."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(7, 3) for _ in range(5)])
        self.decoder = nn.Sequential(nn.Linear(10, 9), nn.ReLU(), nn.Linear(9, 6))

    @property
    def config(self) -> dict[str, Any]:
        return {**super().config, "output": 2}

    def forward(self, a: Tensor, b: Tensor) -> Any:
        both = torch.cat([self.encoded("a", a), self.encoded("b", b)], 1)
        rebuilt = self.decoder(both)
        return [*self.answers(self.fusion(both)), rebuilt]

    def answers(self, fused: Tensor) -> list[Tensor]:
        return [head(fused) for head in self.heads]


MODELS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "a list of layers": (Branches, [f"branches.{m}.{i}" for m in "ab" for i in range(3)]),
    "layers in layers": (Nested, ["parts.trunks.a", "parts.trunks.b"]),
    "a stem that is shared": (SharedStem, ["branches.a.1", "branches.a.2", *(f"branches.b.{i}" for i in range(3))]),
    "code between layers": (Between, ["branches.a.0", "branches.a.2", "branches.b.0", "branches.b.2"]),
    "random numbers": (Draws, ["branches.a.0", "branches.b.0"]),
    "a cache on a module": (Cached, ["branches.a.1", "branches.b.0.linear", "branches.b.1"]),
    "a look at values": (LooksAtValues, []),
    "heads that nobody reads": (
        ManyHeads,
        [*(f"branches.{m}.{i}" for m in "ab" for i in range(3)), "decoder", *(f"heads.{i}" for i in (0, 1, 3, 4))],
    ),
}


def pruned(model: Any, arrays: Any = None, **options: Any) -> ModuleAdapter:
    """The adapter of a model that was checked on its first batch."""
    adapter = adapt(model.eval(), {**model.config, **options}, arrays or data())
    extract(adapter, "test")
    return adapter


def paths(adapter: ModuleAdapter, names: frozenset[str] = BOTH) -> list[str]:
    assert adapter.pruning is not None
    plan = adapter.pruning.plans.get(names)
    return [] if plan is None else sorted(skip.path for skip in plan.skips)


def needed(path: str, adapter: ModuleAdapter) -> None:
    """``path`` runs in replays, and that was seen before anything was tried without it."""
    assert path not in paths(adapter)
    assert adapter.pruning is not None
    assert not adapter.pruning.refused


@contextmanager
def everything_runs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module_adapter, "find_pruning", lambda *_args: Pruning({}))
        yield


def report(model: Any, **options: Any) -> Report:
    options.setdefault("probes", PROBES)
    options.setdefault("profile", "quick")
    config = {**model.config, "data": {"path": "memory", "batch_size": 16}}
    return diagnose(model=model.eval(), data=data(), config=config, **options)


@pytest.mark.parametrize("name", MODELS)
def test_reports_are_the_same_whether_all_of_the_model_runs_or_not(name: str) -> None:
    make, left_out = MODELS[name]
    assert paths(pruned(make())) == left_out
    ours = report(make()).model_dump_json()
    with everything_runs():
        assert report(make()).model_dump_json() == ours


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("profile", ["quick", "full"])
def test_whole_reports_are_the_same(name: str, profile: str) -> None:
    make, _ = MODELS[name]
    ours = report(make(), probes=None, profile=profile).model_dump_json()
    with everything_runs():
        assert report(make(), probes=None, profile=profile).model_dump_json() == ours


def answers(adapter: ModuleAdapter, rows: int) -> list[Tensor]:
    """Replays of edited recordings, of all modalities and of each but one, and a gradient of each."""
    x = {k: v[torch.arange(rows) % N] for k, v in data()["test"].items()}
    with torch.no_grad():
        recorded = adapter.run({k: x[k] for k in "ab"}).recorded
    made = []
    for edit in (lambda t: t, lambda t: t.flip(0), lambda t: t * 3):
        seed_everything(1)
        edited = {m: tuple(map(edit, r)) for m, r in recorded.items()}
        leaf = edited["a"][0].detach().requires_grad_()
        answer = adapter.rerun({**edited, "a": (leaf, *edited["a"][1:])}, x)
        made += [answer.fused, answer.outputs, *torch.autograd.grad(answer.outputs.sum(), leaf)]
        made += [adapter.outputs_of({m: edited[m]}, x) for m in "ab"]
    return made


def same_answers(make: Callable[[], Any]) -> None:
    """Pruned replays of one and of many rows give the bits of whole ones."""
    adapter = pruned(make())
    with everything_runs():
        whole = pruned(make())
    for rows in (1, 3, 100):
        assert all(map(same_bits, answers(adapter, rows), answers(whole, rows)))


def calls_in(adapter: ModuleAdapter, path: str, replay: Callable[[], Any]) -> int:
    """How often the forward behind ``path`` runs in a replay."""
    count, module = [0], adapter.model.get_submodule(path)
    inner = next((m for m in module.modules() if isinstance(m, nn.Linear)), module)
    with pytest.MonkeyPatch.context() as patch:
        forward = type(inner).forward

        def counted(self: nn.Module, x: Tensor) -> Any:
            count[0] += self is inner
            return forward(self, x)

        patch.setattr(type(inner), "forward", counted)
        replay()
    return count[0]


def test_what_is_left_out_does_not_run_and_what_is_needed_does() -> None:
    adapter = pruned(Branches())
    batch: Batch = {k: v for k, v in data()["test"].items() if k in "ab"}
    recorded = adapter.run(batch).recorded
    assert calls_in(adapter, "branches.a.0", lambda: adapter.run(batch)) == 1
    assert calls_in(adapter, "branches.a.0", lambda: adapter.rerun(recorded, batch)) == 0
    assert calls_in(adapter, "branches.a.0", lambda: adapter.outputs_of({"a": recorded["a"]}, batch)) == 0
    assert calls_in(adapter, "branches.a.0", lambda: adapter.outputs_of({"b": recorded["b"]}, batch)) == 1
    assert calls_in(adapter, "branches.a.0", lambda: adapter.run_live(batch)) == 1
    assert paths(adapter, frozenset("b")) == ["branches.b.0", "branches.b.1", "branches.b.2"]


# -- ways for an output to reach the answer --------------------------------------------------------------------------


@dataclass
class Pair:
    left: Tensor
    right: Tensor


class Structured(nn.Module):
    """Gives its input's features in a structure; ``kind`` says which."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.linear, self.kind = nn.Linear(6, 8), kind

    def forward(self, x: Tensor) -> Any:
        h = self.linear(x)
        match self.kind:
            case "tuple":
                return h, None, "name"
            case "dict":
                return {"h": h, "more": [h.long()]}
            case "dataclass":
                return Pair(h, h.t())
            case _:
                return h.t()


class Unpacking(Branches):
    """A layer whose output has parts, one of them with the example on the second axis."""

    def __init__(self, kind: str) -> None:
        super().__init__(lambda: Structured(kind), nn.Tanh)

    def encoded(self, m: str, x: Tensor) -> Tensor:
        first, act, last = self.branches[m]  # type: ignore[misc]
        match made := first(x):
            case (h, None, "name"):
                return last(act(h))
            case {"h": h, "more": [whole]}:
                return last(act(h + whole))
            case Pair(left, right):
                return last(act(left * right.t()))
            case _:
                return last(act(made.t()))


@pytest.mark.parametrize("kind", ["tuple", "dict", "dataclass", "second axis"])
def test_outputs_of_any_structure_are_stood_in_for(kind: str) -> None:
    same_answers(lambda: Unpacking(kind))
    assert "branches.a.0" in paths(pruned(Unpacking(kind)))


class Reaching(Branches):
    """The first layer of ``a`` reaches the fusion in a way that no gradient shows; ``way`` says which."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.table, self.box = way, nn.Embedding(8, 5), {"x": torch.zeros(1)}
        self.heard: list[Tensor] = []
        self.register_buffer("total", torch.zeros(5))
        if way == "a hook":
            self.branches["a"][0].register_forward_hook(lambda _m, _x, y: self.heard.append(y))  # type: ignore[index]

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        first, *others = self.branches["a"]  # type: ignore[misc]
        self.heard.clear()
        x = h = first(a)
        for layer in others:
            x = layer(x)
        return self.mixed(x + self.late(h, a), self.encoded("b", b))

    def late(self, h: Tensor, a: Tensor) -> Tensor:
        match self.way:
            case "whole numbers":
                return self.table(h.argmax(1))
            case "detached":
                return h.data[:, :5]
            case "numpy":
                return torch.from_numpy(h.detach().numpy()[:, :5] * 2)
            case "a list":
                return torch.tensor([row[:5] for row in h.tolist()])
            case "a number":
                return torch.full((5,), float(h[0, 0] * 0 + 1))
            case "a buffer":
                self.total.copy_(h[:, :5].amax())
                return self.total * 0.1
            case "a dict":
                self.box["x"] = h
                return self.box["x"][:, :5]
            case "a hook":
                return self.heard[0][:, :5]
            case "the input":  # the first layer writes into it
                return a[:, :5]
            case _:  # the layer once more
                return self.branches["a"][0](a + 1)[:, :5]  # type: ignore[index]


WAYS = ["whole numbers", "detached", "numpy", "a list", "a number", "a buffer", "a dict", "a hook", "again"]


@pytest.mark.parametrize("way", WAYS)
def test_what_reaches_the_answer_without_a_gradient_runs(way: str) -> None:
    needed("branches.a.0", pruned(Reaching(way)))
    same_answers(lambda: Reaching(way))


class Doubling(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.linear, self.way = nn.Linear(6, 8), way

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "in place":
            x.mul_(2)
        else:  # an operation that returns nothing
            torch._foreach_mul_([x], 2.0)
        return self.linear(x)


@pytest.mark.parametrize("way", ["in place", "nothing returned"])
def test_a_layer_that_writes_into_what_the_fusion_reads_runs(way: str) -> None:
    def make() -> Reaching:
        model = Reaching("the input")
        model.branches["a"][0] = Doubling(way)  # type: ignore[index]
        return model

    seed_everything(0)
    state = make().state_dict()

    def again() -> Reaching:
        model = make()
        model.load_state_dict(state)
        return model

    needed("branches.a.0", pruned(again()))
    same_answers(again)


def test_a_layer_that_passes_its_input_on_is_no_other_than_its_input() -> None:
    class PassedOn(Branches):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            first, *others = self.branches["a"]  # type: ignore[misc]
            x = kept = first(a)  # nn.Identity: the very input
            for layer in others:
                x = layer(x)
            return self.mixed(x + kept[:, :5], self.encoded("b", b))

    make = lambda: PassedOn(nn.Identity, lambda: nn.Linear(6, 8))  # noqa: E731
    assert paths(pruned(make())) == ["branches.a.1", "branches.b.0", "branches.b.1"]
    same_answers(make)


def test_a_layer_that_decides_how_many_random_numbers_are_drawn_runs() -> None:
    class Sampling(Draws):
        def encoded(self, m: str, x: Tensor) -> Tensor:
            first, _, last = self.branches[m]  # type: ignore[misc]
            h = first(x)
            return last(h + 0 * torch.poisson(h.exp() * 5))

    adapter = pruned(Sampling())
    assert adapter.pruning == Pruning({})
    same_answers(Sampling)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(6, 8), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x)


def test_a_layer_that_leaves_something_behind_runs_but_not_what_it_holds() -> None:
    adapter = pruned(Branches(Counting))
    assert paths(adapter) == ["branches.a.0.linear", "branches.b.0.linear"]


def test_layers_that_someone_listens_to_run() -> None:
    model = Branches()
    model.branches["a"][1].register_forward_hook(lambda *_: None)  # type: ignore[index]
    assert "branches.a.1" not in paths(pruned(model))


class Growing(nn.Module):
    """Gives another number of columns for every number of rows."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), len(x) + 1)


def test_a_layer_whose_shape_is_not_known_for_other_rows_runs() -> None:
    class Grows(Branches):
        def encoded(self, m: str, x: Tensor) -> Tensor:
            first, second, last = self.branches[m]  # type: ignore[misc]
            return last(second(x) + first(x).sum(1, keepdim=True))

    adapter = pruned(Grows(Growing, lambda: nn.Linear(6, 8)))
    assert paths(adapter) == ["branches.a.1", "branches.b.1"]


# -- what runs on the encoders' answers, and is not read -----------------------------------------------------------------


def test_heads_that_are_not_read_do_not_run_and_the_one_that_is_does() -> None:
    adapter = pruned(ManyHeads())
    batch: Batch = {k: v for k, v in data()["test"].items() if k in "ab"}
    recorded = adapter.run(batch).recorded
    for path, often in (("heads.2", 1), ("heads.3", 0), ("decoder", 0)):
        assert calls_in(adapter, path, lambda: adapter.run(batch)) == 1
        assert calls_in(adapter, path, lambda: adapter.rerun(recorded, batch)) == often
    same_answers(ManyHeads)


def test_whoever_listens_to_what_is_not_read_hears_what_enters_it() -> None:
    adapter = pruned(ManyHeads())
    batch: Batch = {k: v for k, v in data()["test"].items() if k in "ab"}
    recorded, heard = adapter.run(batch).recorded, list[Tensor]()
    inner = adapter.model.get_submodule("decoder.2")
    handle = inner.register_forward_pre_hook(lambda _, args: heard.append(args[0].clone()))
    adapter.rerun(recorded, batch)
    handle.remove()
    adapter.rerun(recorded, batch)
    assert len(heard) == 1
    assert bool(heard[0].abs().max() > 0)


class Checked(ManyHeads):
    """Refuses an answer of many rows whose parts are not whole, read or not, in a way that no operation shows."""

    def forward(self, a: Tensor, b: Tensor) -> Any:
        answers = super().forward(a, b)
        if len(a) > 4 and any(part.untyped_storage().nbytes() < part.numel() * 4 for part in answers):
            raise ValueError("parts are missing")
        return answers


def test_where_unread_heads_have_to_run_layers_before_the_encoders_are_left_out_all_the_same() -> None:
    class PastItself(ManyHeads):
        def answers(self, fused: Tensor) -> list[Tensor]:
            past: Any = self.heads[0].forward(fused)
            zeroth, first, second, *others = super().answers(fused)
            return [zeroth, first, second + past, *others]

    adapter = pruned(PastItself())
    assert adapter.pruning is not None
    assert not adapter.pruning.refused
    assert paths(adapter) == [f"branches.{m}.{i}" for m in "ab" for i in range(3)]
    same_answers(PastItself)


def test_a_model_that_wants_tensors_of_its_own_gets_them() -> None:
    adapter = pruned(Checked())
    assert adapter.pruning is not None
    assert not adapter.pruning.plans[BOTH].fill.thin
    assert "heads.0" in paths(adapter)
    same_answers(Checked)


# -- where it is found out only by trying ----------------------------------------------------------------------------


class CalledPastItself(Branches):
    """A layer's ``forward`` is called by hand as well, which nothing hears."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        past: Any = self.branches["a"][0].forward(a)  # type: ignore[index,operator]
        return self.mixed(self.encoded("a", a) + past[:, :5], self.encoded("b", b))


def test_where_the_model_answers_otherwise_all_of_it_runs_and_the_report_says_so() -> None:
    found = report(CalledPastItself())
    (warning,) = [w for w in found.warnings if w.name == "replay_not_pruned"]
    assert "'branches.a.0'" in warning.sentence
    assert not any(paths(pruned(CalledPastItself()), names) for names in (BOTH, frozenset("a"), frozenset("b")))
    same_answers(CalledPastItself)
    with everything_runs():
        plain = report(CalledPastItself())
    assert [r.model_dump() for r in plain.results] == [r.model_dump() for r in found.results]
    assert not [w for w in plain.warnings if w.name == "replay_not_pruned"]


def test_of_other_models_the_report_says_nothing() -> None:
    for make, _ in MODELS.values():
        adapter = adapt(make().eval(), make().config, data())
        assert not [w for w in extract(adapter, "test").warnings if w.name == "replay_not_pruned"]


# -- when, and what is left behind -----------------------------------------------------------------------------------


def test_a_layer_that_trains_runs() -> None:
    adapter = pruned(Branches())
    batch: Batch = {k: v for k, v in data()["test"].items() if k in "ab"}
    recorded = adapter.run(batch).recorded
    adapter.model.get_submodule("branches.a.1").train()
    assert calls_in(adapter, "branches.a.0", lambda: adapter.rerun(recorded, batch)) == 1


def test_nothing_is_left_on_the_model_and_no_random_state_moves() -> None:
    model = Branches().eval()
    before = {path: set(vars(m)) for path, m in model.named_modules()}
    hooks = [len(nn.modules.module._global_forward_hooks), len(nn.modules.module._global_forward_pre_hooks)]
    adapter = adapt(model, model.config, data())
    batch: Batch = {k: v[:9] for k, v in data()["test"].items() if k in "ab"}
    recorded = adapter.run(batch).recorded
    random.seed(3)
    seed_everything(3)
    states = random.getstate(), torch.get_rng_state()
    assert adapter.prune(batch, recorded) == ()
    assert paths(adapter)
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    adapter.rerun(recorded, batch)
    assert {path: set(vars(m)) for path, m in model.named_modules()} == before
    assert [len(nn.modules.module._global_forward_hooks), len(nn.modules.module._global_forward_pre_hooks)] == hooks


@pytest.mark.parametrize("n", [2, 3, 8])
@pytest.mark.parametrize("batch", [1, 2, 5, 256])
def test_it_is_found_in_batches_of_any_size(n: int, batch: int) -> None:
    assert paths(pruned(Branches(), data(n), data={"batch_size": batch}))


def test_a_plain_model_is_replayed_once_more_and_no_plan_is_made() -> None:
    class Plain(Branches):
        config: ClassVar[dict[str, Any]] = {"modalities": {m: f"branches.{m}.0" for m in "ab"}, "fusion": "fusion"}

        def encoded(self, m: str, x: Tensor) -> Tensor:
            return self.branches[m][0](x)  # type: ignore[index]

    adapter = pruned(Plain(lambda: nn.Linear(6, 5)))
    assert adapter.pruning == Pruning({})


def test_under_torch_func_all_of_it_runs() -> None:
    adapter = pruned(Branches())
    assert adapter.pruning is not None
    plan: SkipPlan = adapter.pruning.plans[BOTH]
    inside = []

    def look(x: Tensor) -> Tensor:
        with plan.applied(3):
            inside.append("forward" in vars(plan.skips[0].module))
        return x

    look(torch.zeros(3))
    torch.func.vmap(look)(torch.zeros(3))
    assert inside == [True, False]
