"""Integer inputs: cast where an encoder reads numbers, left alone where it looks places up or casts them itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.adapters.live.inputs import number_keys
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.data.arrays import ArraySource
from collapsekit.errors import ConfigError
from collapsekit.features.extraction import extract
from tests.problems import adapt

N = 24


class Heard(nn.Module):
    """Encoders a and b, a mixture, a head; notes which types its encoder ``a`` was given."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.a, self.b = encoder, nn.Linear(4, 5)
        self.fusion = nn.Sequential(nn.Linear(10, 6), nn.Tanh())
        self.head = nn.Linear(6, 3)
        self.kinds: set[torch.dtype] = set()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        self.kinds.add(a.dtype)
        return self.head(self.fusion(torch.cat([self.a(a), self.b(b)], 1)))


class Looked(nn.Module):
    """Places in a table, their rows averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(300, 4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.table(x).mean(1))


class Casting(nn.Linear):
    """Casts by itself, and needs whole numbers for that."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x % 2 + (x >> 1)).float())


class OneHot(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.one_hot(x[:, 0] % 4, 4).float())


CONFIG: dict[str, Any] = {"modalities": {"a": "a", "b": "b"}, "fusion": "fusion", "data": {"batch_size": 10}}


def made(
    encoder: nn.Module, kind: torch.dtype, *, whole: bool = False
) -> tuple[ModuleAdapter, Heard, dict[str, Tensor]]:
    """A model, its adapter, and a batch whose input ``a`` is of that kind; with ``whole`` so is ``b``, of int16."""
    g = torch.Generator().manual_seed(0)
    a = torch.randint(0, 2 if kind == torch.bool else 200, (N, 4), generator=g).to(kind)
    b = torch.randn(N, 4, generator=g)
    batch = {"a": a, "b": (100 * b).short() if whole else b}
    torch.manual_seed(0)
    model = Heard(encoder).eval()
    return adapt(model, CONFIG, {"test": {**batch, "label": torch.arange(N) % 3}}), model, batch


@pytest.mark.parametrize("kind", [torch.uint8, torch.uint16, torch.int32, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", ["linear", "batch norm"])
def test_numbers_are_cast_wherever_inputs_are_fed(kind: torch.dtype, shape: str) -> None:
    encoder = nn.Linear(4, 5) if shape == "linear" else nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 5))
    adapter, model, _ = made(encoder, kind)
    features = extract(adapter, "test")
    assert adapter.cast == {"a"}
    batch = {k: v[:10] for k, v in features.inputs.items()}
    assert batch["a"].dtype == kind  # what is kept stays as it was
    floats = {**batch, "a": batch["a"].float()}
    direct = model(**floats)
    assert torch.equal(features.outputs[:10], direct)
    recorded = {m: tuple(t[:10] for t in r) for m, r in features.recorded.items()}
    assert torch.equal(adapter.rerun(recorded, batch).outputs, direct)
    assert torch.equal(adapter.outputs_of({"b": recorded["b"]}, batch), direct)
    assert torch.equal(adapter.live("a", recorded, batch), encoder(floats["a"]))
    assert torch.equal(adapter.run_live(batch).outputs, direct)


@pytest.mark.parametrize("encoder", [Looked(), Casting(4, 5), OneHot(4, 5)])
def test_models_that_take_whole_numbers_go_on_getting_them(encoder: nn.Module) -> None:
    adapter, model, _ = made(encoder, torch.int64)
    extract(adapter, "test")
    assert adapter.cast == frozenset()
    assert model.kinds == {torch.int64}


def test_a_table_beside_a_modality_that_is_cast() -> None:
    adapter, model, _ = made(Looked(), torch.int64, whole=True)
    extract(adapter, "test")
    assert adapter.cast == {"b"}
    assert model.kinds == {torch.int64}


def test_an_error_that_casting_does_not_mend_is_the_first_one() -> None:
    adapter, _, _ = made(nn.Linear(7, 5), torch.uint8)
    with pytest.raises(ConfigError, match=r"a \(10, 4\) uint8"):
        extract(adapter, "test")
    assert adapter.cast == frozenset()


class Halving(ModuleAdapter):
    """An adapter of a user's own, which prepares inputs otherwise."""

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: v / 2 for k, v in super().prepare(batch).items()}


def test_what_a_subclass_prepares_is_what_is_run() -> None:
    _, model, batch = made(nn.Linear(4, 5), torch.float32)
    source = ArraySource({"test": {**batch, "label": torch.arange(N) % 3}}, "memory")
    adapter = Halving(check_config(CONFIG, base=Path.cwd()), model=model, source=source)
    direct = model(batch["a"] / 2, batch["b"] / 2)
    assert torch.equal(adapter.run(batch).prediction.outputs, direct)
    assert torch.equal(adapter.run_live(batch).outputs, direct)


def test_which_inputs_are_numbers() -> None:
    for encoder, keys in (
        (nn.Linear(4, 5), {"a"}),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 5)), {"a"}),
        (Looked(), set()),
        (nn.EmbeddingBag(300, 5), set()),
        (nn.Flatten(), {"a"}),
    ):
        adapter, _, batch = made(encoder, torch.uint8)
        assert number_keys(adapter, batch) == keys
