"""A second build in which the first one's weights stand: what it finds, what it does not write to, when it is not enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from collapsekit import diagnose
from collapsekit.adapters import validate
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.adapters.weights.lent import SMALL, LentWeights, NotLentError
from collapsekit.checkpoint.read import read_checkpoint
from collapsekit.config.load import check_config
from collapsekit.context import Progress
from collapsekit.errors import ConfigError
from collapsekit.features.extraction import extract

WIDTH = 160  # layers of it are larger than what is made as ever
MODEL = f"""
import copy
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.a, self.b = (nn.Sequential(nn.Linear(n, {WIDTH}), nn.Linear({WIDTH}, {WIDTH})) for n in (6, 5))
        self.fusion, self.head = nn.Linear({2 * WIDTH}, {WIDTH}), nn.Linear({WIDTH}, 3)
        getattr(self, kind)()

    def plain(self):
        pass

    def tied(self):
        self.b[1].weight = self.a[1].weight

    def aliased(self):
        weight = nn.Parameter(torch.randn({WIDTH}, {WIDTH}))
        self.a[1].weight = weight
        self.b[1].weight = weight

    def own_initialisation(self):
        for p in self.parameters():
            nn.init.trunc_normal_(p, std=0.1)
        self.a[0].weight.data.mul_(2)

    def moved(self):
        self.to("cpu").to(torch.float32)
        self.to(device="cpu", dtype=torch.float64).float()

    def loads_itself(self):
        self.load_state_dict({{k: torch.zeros(v.shape) for k, v in self.state_dict().items()}})

    def drifts(self):
        self.b.register_forward_hook(lambda m, i, o: m[1].weight.data.mul_(1.5) is None or None)

    def draws_from_its_own_seed(self):
        with torch.random.fork_rng():
            torch.manual_seed(7)
            nn.Linear({WIDTH}, {WIDTH})
            self.shift = torch.randn({WIDTH})
            self.a[1].weight = nn.Parameter(torch.randn({WIDTH}, {WIDTH}))
            nn.init.normal_(self.a[1].weight)
            self.shift = torch.randn({WIDTH})

    def looks(self):
        self.shift = torch.full(({WIDTH},), float(self.a[1].weight.abs().mean() > 0))

    def merges_at_eval(self):
        self.merged = False

    def hidden_copy(self):
        self.shift = self.a[1].weight.detach().clone()[0]

    def hidden_module(self):
        self.shift = [copy.deepcopy(self.a[1]).weight]

    def hidden_draw(self):
        self.shift = torch.randn({WIDTH})

    def in_a_list_first(self):
        self.shift = [nn.Parameter(torch.randn({WIDTH}, {WIDTH}))]
        self.registered_too = self.shift[0]

    def left_out_of_the_state(self):
        self.register_state_dict_post_hook(lambda m, s, p, l: s.__delitem__("a.1.weight"))

    def train(self, mode=True):
        if not mode and self.kind == "merges_at_eval" and not self.merged:
            self.merged = True
            self.a[1].weight.data += 1.0
        return super().train(mode)

    def forward(self, a, b):
        shift = getattr(self, "shift", 0.0)
        x = self.a(a)
        x = x @ shift[0] if isinstance(shift, list) else x + shift
        return self.head(self.fusion(torch.cat([x, self.b(b)], 1)))


def build(kind):
    return Model(kind)
"""
SECTIONS = {"modalities": {m: {"encoder": m} for m in "ab"}, "fusion": "fusion", "task": "classification"}


def project(folder: Path, kind: str, name: str = "weights.safetensors") -> dict[str, Any]:
    """A checkpoint of such a model, and a config of it."""
    (folder / "lent_models.py").write_text(MODEL)
    scope: dict[str, Any] = {}
    exec(MODEL, scope)
    torch.manual_seed(3)
    state = {k: v.clone() for k, v in scope["build"](kind).state_dict().items()}
    save_file(state, folder / name)
    gen = torch.Generator().manual_seed(1)
    data = {f"test/{m}": torch.randn(24, n, generator=gen) for m, n in (("a", 6), ("b", 5))}
    save_file(data | {"test/label": torch.arange(24) % 3}, folder / "data.safetensors")
    return SECTIONS | {
        "model": {"factory": "lent_models:build", "kwargs": {"kind": kind}, "checkpoint": str(folder / name)},
        "data": {"path": str(folder / "data.safetensors")},
    }


def adapted(folder: Path, kind: str) -> ModuleAdapter:
    config = check_config(project(folder, kind), base=folder)
    return ModuleAdapter(config, checkpoint=read_checkpoint(folder / "weights.safetensors"))


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one at each second build that has weights of its own."""
    built: list[int] = []
    made = validate._same_when_built_whole

    def counted(*args: Any) -> bool:
        built.append(1)
        return made(*args)

    monkeypatch.setattr(validate, "_same_when_built_whole", counted)
    return built


@pytest.mark.parametrize("kind", ["plain", "tied", "aliased", "own_initialisation", "moved", "loads_itself", "drifts"])
def test_the_weights_of_the_first_build_are_enough(tmp_path: Path, kind: str, whole: list[int]) -> None:
    adapter = adapted(tmp_path, kind)
    before = {k: v.clone() for k, v in adapter.model.state_dict().items()}
    extract(adapter, "test")
    assert not whole
    adapter.steady()
    assert all(torch.equal(v, before[k]) for k, v in adapter.model.state_dict().items())
    assert not any(p.is_meta for p in adapter.model.parameters())


SAME = ("draws_from_its_own_seed", "looks", "merges_at_eval", "in_a_list_first")


@pytest.mark.parametrize("kind", [*SAME, "left_out_of_the_state"])
def test_what_cannot_be_built_so_is_built_whole(tmp_path: Path, kind: str, whole: list[int]) -> None:
    """Each of these answers alike when it is built twice, or is refused as it always was."""
    adapter = adapted(tmp_path, kind)
    before = {k: v.clone() for k, v in adapter.model.state_dict().items()}
    if kind == "left_out_of_the_state":
        with pytest.raises(ConfigError, match="two builds with it loaded disagree"):
            extract(adapter, "test")
    else:
        extract(adapter, "test")
    assert whole == [1]
    assert all(torch.equal(v, before[k]) for k, v in adapter.model.state_dict().items())


@pytest.mark.parametrize("kind", ["hidden_copy", "hidden_module", "hidden_draw"])
def test_what_the_checkpoint_lacks_is_found(tmp_path: Path, kind: str, whole: list[int]) -> None:
    config = project(tmp_path, kind)
    with pytest.raises(ConfigError, match=r"does not hold all of the model's weights: two builds .*shift differ"):
        diagnose(config=check_config(config, base=tmp_path), profile="quick", probes=["reliance"])
    assert whole == [1]


class Told(Progress):
    """Keeps the sentences that it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize(
    ("kind", "why"), [("plain", None), ("looks", "meta"), ("merges_at_eval", "writes into its weights")]
)
def test_a_second_copy_of_many_weights_is_told(
    tmp_path: Path, kind: str, why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validate, "WORTH_TELLING", 1)
    told = Told()
    diagnose(
        config=check_config(project(tmp_path, kind), base=tmp_path), profile="quick", probes=["spectrum"], progress=told
    )
    found = [text for text in told.notes if "GB for weights beside the first" in text]
    assert len(found) == (why is not None)
    assert all(str(why) in text for text in found)


def test_a_registered_weight_has_no_memory_and_a_small_one_has() -> None:
    with LentWeights({}).built():
        large, small = nn.Linear(WIDTH, WIDTH), nn.Linear(4, 4)
    assert large.weight.is_meta
    assert large.weight.requires_grad
    assert not small.weight.is_meta
    assert small.weight.nbytes < SMALL < large.weight.nbytes
    assert not nn.Linear(WIDTH, WIDTH).weight.is_meta


@pytest.mark.parametrize(
    "write",
    [
        lambda w: w.data.add_(1),
        lambda w: w.detach().view(-1)[3:].zero_(),
        lambda w: torch.mul(w.detach(), 2, out=w.detach()),
        lambda w: torch._foreach_add_([w.detach()], 1.0),
        lambda w: w.detach().__setitem__((0, 0), 1.0),
    ],
)
def test_nothing_writes_into_what_was_lent(write: Any) -> None:
    weight = torch.ones(5, 5)
    lent = LentWeights({"w": weight})
    with pytest.raises(NotLentError), lent.guarded(), torch.no_grad():
        write(weight)
    assert lent.written
    assert torch.equal(weight, torch.ones(5, 5))
    with lent.guarded():
        torch.zeros(5, 5).add_(weight)  # what is its own may be written to
