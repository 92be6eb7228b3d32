"""Fusions trained in many settings at once learn what each would have learned by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapsekit.adapters.base import Adapter
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.context import Progress
from collapsekit.data.arrays import ArraySource
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.interventions.replay import predict
from collapsekit.readouts import fit as training
from collapsekit.readouts import fit_stacked as stacked
from collapsekit.readouts.fit import BATCH, Fitted, Recipe
from collapsekit.readouts.fit_stacked import Factors, retrained_fusions
from collapsekit.readouts.linear import make_split
from tests.probes.planted import Study, noise

WIDTHS = {"a": 3, "b": 5, "c": 2, "d": 4}
FUSED = 16
RECIPE = Recipe(rate=2e-2, epochs=12, seed=3, patience=2)


class Plain(nn.Module):
    """Encoders, the layers of ``fusion`` on their features side by side, a head."""

    def __init__(self, names: str, fusion: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({m: nn.Sequential(nn.Linear(WIDTHS[m], 6), nn.BatchNorm1d(6)) for m in names})
        self.fusion = fusion(6 * len(names))
        self.head = nn.Linear(FUSED, 3)

    def forward(self, **x: Tensor) -> Tensor:
        return self.head(self.fusion(torch.cat([e(x[m]) for m, e in self.encoders.items()], 1)))


def mlp(*middle: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    # A bias in front of a batch norm has no gradient but rounding, by which AdamW walks at random, stacked or not.
    def build(width: int) -> nn.Module:
        first = nn.Linear(width, FUSED, bias=not middle)
        return nn.Sequential(first, *(make() for make in middle), nn.Tanh(), nn.Linear(FUSED, FUSED))

    return build


class Tokens(nn.Module):
    """Features as tokens that attend to one another."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(6, 2, 12, dropout, batch_first=True)
        self.out = nn.Linear(width, FUSED)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x.reshape(len(x), -1, 6)).flatten(1))


class Branching(nn.Module):
    """What it does depends on the numbers it is given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, FUSED)

    def forward(self, x: Tensor) -> Tensor:
        z = self.linear(x)
        return z.tanh() if float(z.mean()) > -1e9 else z


class Replacing(nn.Module):
    """Keeps a mean in a buffer that it replaces instead of writing into it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, FUSED)
        self.register_buffer("mean", torch.zeros(FUSED))

    def forward(self, x: Tensor) -> Tensor:
        z = self.linear(x)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * z.detach().mean(0)
        return (z - self.mean).tanh()


class Remembering(Replacing):
    """Keeps it where nothing of torch's sees it."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.memory = torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        z = self.linear(x)
        if self.training:
            self.memory = self.memory + 0.05 * z.detach().mean()
        return (z * (1 + self.memory)).tanh()


class Noticing(Replacing):
    """Answers otherwise in a stack, which only a comparison can tell."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.linear(x)
        return z * (2.0 if torch._C._functorch.is_batchedtensor(x) else 1.0)


FUSIONS: dict[str, Callable[[int], nn.Module]] = {
    "plain": mlp(),
    "dropout": mlp(lambda: nn.Dropout(0.3)),
    "layer norm": mlp(lambda: nn.LayerNorm(FUSED)),
    "batch norm": mlp(lambda: nn.BatchNorm1d(FUSED)),
    "attention": Tokens,
}
ALONE: dict[str, Callable[[int], nn.Module]] = {
    "branching": Branching,
    "replacing": Replacing,
    "remembering": Remembering,
    "noticing": Noticing,
    "attention with dropout": lambda width: Tokens(width, 0.1),  # torch draws its masks in another order
}
FACTORY = """
from tests.readouts.test_fit_stacked import ALONE, FUSIONS, Plain
def build(names, fusion):
    return Plain(names, {**FUSIONS, **ALONE}[fusion])
"""


def arrays(names: str, n: int, seed: int) -> dict[str, Tensor]:
    """Every modality says a part of the label."""
    label = torch.arange(n) % 3
    x = {m: noise(seed + ord(m), n, WIDTHS[m]) for m in names}
    for k, m in enumerate(names):
        x[m][:, 0] += (label - 1) * (0.5 + 0.5 * k)
    return {**x, "label": label}


def world(folder: Path, names: str, fusion: str, called: Mapping[str, str] | None = None) -> Study:
    """The model over its arrays; ``called``: other names of modalities."""
    (folder / "stacked_factory.py").write_text(FACTORY)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Plain(names, {**FUSIONS, **ALONE}[fusion])
    data = {"train": arrays(names, 150, 0), "val": arrays(names, 70, 1000), "test": arrays(names, 60, 2000)}
    config = {
        "modalities": {(called or {}).get(m, m): {"encoder": f"encoders.{m}", "input": m} for m in names},
        "fusion": "fusion",
        "task": "classification",
        "data": {"path": "unused.npz"},
        "model": {"factory": "stacked_factory:build", "kwargs": {"names": names, "fusion": fusion}},
    }
    adapter = ModuleAdapter(check_config(config, base=folder), model=model, source=ArraySource(data, "memory"))
    return Study(adapter, extract(adapter, "test"))


@dataclass
class Said(Progress):
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)


def settings_of(names: str) -> list[Factors]:
    return [*({names[0]: beta} for beta in (0.0, 0.5, 1.0, 4.0, 8.0)), dict.fromkeys(names[1:], 0.0)]


def answers(s: Study, twin: Adapter, factors: Mapping[str, float]) -> Tensor:
    test: Features = s.features
    return predict(twin, test, scale=factors).outputs


def one_at_a_time(s: Study, settings: list[Factors], recipe: Recipe) -> tuple[list[Tensor], list[Fitted]]:
    """What each learns by itself, and the epochs kept."""
    kept: list[Fitted] = []
    fit = training.fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "fit", lambda *args: kept.append(fit(*args)))
        at = make_split(s.adapter, s.features)
        found = [answers(s, training.retrained_fusion(s.adapter, at, f, recipe), f) for f in settings]
    return found, kept


def at_once(s: Study, settings: list[Factors], recipe: Recipe) -> tuple[list[Tensor], list[Fitted]]:
    made = stacked.fit_stacked(s.adapter, make_split(s.adapter, s.features), settings, recipe, Progress())
    pairs = [(answers(s, twin, f), fitted) for (twin, fitted), f in zip(made, settings, strict=True)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def same(one: tuple[list[Tensor], list[Fitted]], many: tuple[list[Tensor], list[Fitted]]) -> None:
    assert [f.epochs for f in many[1]] == [f.epochs for f in one[1]]
    assert [f.loss for f in many[1]] == pytest.approx([f.loss for f in one[1]], abs=1e-4)
    for a, b in zip(one[0], many[0], strict=True):
        torch.testing.assert_close(b, a, rtol=1e-2, atol=2e-3)  # rounding, through a hundred steps of AdamW


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("names", ["ab", "abcd"])
def test_stacked_is_what_each_learns_by_itself(tmp_path: Path, names: str, fusion: str) -> None:
    s, settings = world(tmp_path, names, fusion), settings_of(names)
    one = one_at_a_time(s, settings, RECIPE)
    same(one, at_once(s, settings, RECIPE))
    # The test is worth something: the settings differ in what they learn, and in where they end.
    assert min(float((a - one[0][0]).abs().max()) for a in one[0][1:]) > 0.05
    assert len({f.epochs for f in one[1]}) > 1
    assert all(f.epochs > 0 for f in one[1])


@pytest.mark.parametrize("size", [16, 150])
def test_of_any_batch_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    for module in (training, stacked):
        monkeypatch.setattr(module, "BATCH", size)
    monkeypatch.setattr(stacked, "shared_rows", lambda _: 7 * size)
    s, settings = world(tmp_path, "abc", "plain"), settings_of("abc")
    same(one_at_a_time(s, settings, RECIPE), at_once(s, settings, RECIPE))


def test_order_and_company_do_not_matter(tmp_path: Path) -> None:
    s = world(tmp_path, "abc", "dropout")
    settings = settings_of("abc")
    found, kept = at_once(s, settings, RECIPE)
    # The same settings in another order, and fewer of them.
    some = [4, 1, 5]
    again, kept_again = at_once(s, [settings[i] for i in some], RECIPE)
    assert [kept[i].epochs for i in some] == [f.epochs for f in kept_again]
    for i, other in zip(some, again, strict=True):
        torch.testing.assert_close(other, found[i], rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("names", ["ab", "abcd"])
def test_swapped_names_swap_what_is_learned(tmp_path: Path, names: str) -> None:
    other = {"a": "b", "b": "a"}
    s, t = world(tmp_path, names, "plain"), world(tmp_path, names, "plain", other)
    settings = settings_of(names)
    renamed = [{other.get(m, m): f for m, f in one.items()} for one in settings]
    found, kept = at_once(s, settings, RECIPE)
    again, kept_again = at_once(t, renamed, RECIPE)
    assert [f.epochs for f in kept] == [f.epochs for f in kept_again]
    for a, b in zip(found, again, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-2, atol=2e-3)


def test_one_forward_serves_all_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s, settings = world(tmp_path, "ab", "plain"), settings_of("ab")
    recipe = Recipe(rate=1e-2, epochs=5, seed=0, patience=9)
    calls = 0
    rerun = type(s.adapter).rerun

    def counted(self: Adapter, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        return rerun(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(type(s.adapter), "rerun", counted)
    at = make_split(s.adapter, s.features)
    for _ in stacked.fit_stacked(s.adapter, at, settings, recipe, Progress()):
        pass
    steps, held = -(-len(at.fit) // BATCH), 1
    # Every epoch's steps and one held-out forward; the check on one batch, stacked and twice alone; a last look at each.
    assert calls == 5 * (steps + held) + 3 + len(settings)


@pytest.mark.parametrize("fusion", ALONE)
def test_models_that_cannot_be_stacked_are_trained_one_at_a_time(tmp_path: Path, fusion: str) -> None:
    s, settings, said = world(tmp_path, "ab", fusion), settings_of("ab"), Said()
    made = retrained_fusions(s.adapter, make_split(s.adapter, s.features), settings, RECIPE, said)
    assert made is not None
    found = [answers(s, twin, f) for twin, f in zip(made, settings, strict=True)]
    truth, _ = one_at_a_time(s, settings, RECIPE)
    assert all(torch.equal(a, b) for a, b in zip(found, truth, strict=True))
    assert len(said.notes) == 1
    assert "one at a time" in said.notes[0]


def test_what_can_be_stacked_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In groups, too, where the fusion is large."""
    s, settings, said = world(tmp_path, "ab", "plain"), settings_of("ab"), Said()
    monkeypatch.setattr(stacked, "AT_ONCE", 4)
    monkeypatch.setattr(stacked, "retrained_fusion", None)
    made = retrained_fusions(s.adapter, make_split(s.adapter, s.features), settings, RECIPE, said)
    assert made is not None
    found = [answers(s, twin, f) for twin, f in zip(made, settings, strict=True)]
    assert not said.notes
    for a, b in zip(one_at_a_time(s, settings, RECIPE)[0], found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-2, atol=2e-3)


def test_large_fusions_are_trained_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s, settings = world(tmp_path, "ab", "plain"), settings_of("ab")
    monkeypatch.setattr(stacked, "WEIGHTS", 400)
    monkeypatch.setattr(stacked, "fit_stacked", None)
    made = retrained_fusions(s.adapter, make_split(s.adapter, s.features), settings, RECIPE, Progress())
    assert made is not None
    found = [answers(s, twin, f) for twin, f in zip(made, settings, strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(found, one_at_a_time(s, settings, RECIPE)[0], strict=True))


def test_the_same_numbers_every_time_and_nothing_else_touched(tmp_path: Path) -> None:
    s, settings = world(tmp_path, "ab", "dropout"), settings_of("ab")
    before = {k: v.clone() for k, v in s.adapter.model.state_dict().items()}
    state = torch.get_rng_state()
    at = make_split(s.adapter, s.features)
    stacked.fit_stacked(s.adapter, at, settings, RECIPE, Progress())
    assert torch.equal(torch.get_rng_state(), state)
    found, _ = at_once(s, settings, RECIPE)
    again, _ = at_once(s, settings, RECIPE)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    assert all(torch.equal(v, before[k]) for k, v in s.adapter.model.state_dict().items())


def test_encoders_stay_as_they_were_built(tmp_path: Path) -> None:
    s = world(tmp_path, "ab", "batch norm")
    fresh = s.adapter.fresh(RECIPE.seed)
    assert fresh is not None
    start = {k: v.clone() for k, v in fresh.model.state_dict().items()}
    made = stacked.fit_stacked(s.adapter, make_split(s.adapter, s.features), settings_of("ab"), RECIPE, Progress())
    for twin, _ in made:
        moved = {k.split(".")[0] for k, v in twin.model.state_dict().items() if not torch.equal(v, start[k])}
        assert moved == {"fusion", "head"}
        assert not any(m.training for m in twin.model.modules())


def test_a_setting_that_overflows_leaves_the_others_alone(tmp_path: Path) -> None:
    s = world(tmp_path, "ab", "plain")
    found, kept = at_once(s, [{"a": 1.0}, {"a": 1e39}, {"a": 2.0}], RECIPE)
    truth, alone = one_at_a_time(s, [{"a": 1.0}, {"a": 1e39}, {"a": 2.0}], RECIPE)
    assert [f.epochs for f in kept] == [f.epochs for f in alone]
    assert kept[1].epochs == 0
    for i in (0, 2):
        torch.testing.assert_close(found[i], truth[i], rtol=1e-2, atol=2e-3)
