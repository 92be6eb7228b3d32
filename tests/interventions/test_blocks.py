"""Which weights of the first mixing layer read which modality, on models whose weights are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from collapsekit.interventions.blocks import FusionBlocks, find_blocks
from tests.probes.planted import Apply, Planted, Study, linear, study

SIZES = {"train": 60, "val": 40, "test": 40}


def arrays(widths: dict[str, tuple[int, ...]]) -> dict[str, dict[str, Tensor]]:
    out = {}
    for k, (split, n) in enumerate(SIZES.items()):
        g = torch.Generator().manual_seed(k)
        out[split] = {m: torch.randn(n, *shape, generator=g) for m, shape in widths.items()}
        out[split]["label"] = torch.arange(n) % 3
    return out


def blocks_of(s: Study) -> FusionBlocks:
    return find_blocks(s.adapter, s.features, 0)


def test_blocks_are_the_columns_that_read_each_modality() -> None:
    weight = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    s = study(Planted({"a": nn.Identity(), "b": nn.Identity()}, linear(weight)), arrays({"a": (3,), "b": (4,)}))
    found = blocks_of(s)
    assert found.name == "fusion"
    assert found.whole == pytest.approx(float(weight.double().norm()), rel=1e-6)
    assert found.blocks["a"] == pytest.approx(float(weight[:, :3].double().norm()), rel=1e-6)
    assert found.blocks["b"] == pytest.approx(float(weight[:, 3:].double().norm()), rel=1e-6)
    assert not found.reasons


def test_a_dead_branch_has_its_block_and_next_to_no_spread() -> None:
    weight = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    weight[:, 3:] *= 1e-4
    dead = nn.Sequential(nn.Identity(), Apply(lambda x: 1.0 + 0.0 * x))
    s = study(Planted({"a": nn.Identity(), "b": dead}, linear(weight)), arrays({"a": (3,), "b": (4,)}))
    assert blocks_of(s).blocks["b"] == pytest.approx(float(weight[:, 3:].double().norm()), rel=1e-6)
    results = {(r.name, r.modality): r for r in s.results("spectrum", {})}
    assert results["spectrum.spread", "b"].value == 0.0
    assert results["spectrum.spread", "a"].value == pytest.approx(1.0, abs=0.2)
    report = {(r.name, r.modality): r for r in s.results("gradient_rank", {})}
    assert report["gradient_rank.block_norm", "b"].value < 1e-3
    assert "in the whole layer, fusion" in report["gradient_rank.block_norm", "b"].note
    assert report["gradient_rank.layer_norm", None].value == pytest.approx(float(weight.double().norm()), rel=1e-6)


def test_rectified_and_flattened_features_have_their_block_too() -> None:
    class Maps(Planted):
        def forward(self, **x: Tensor) -> Tensor:
            flat = [torch.relu(e(x[m])).flatten(1) for m, e in self.encoders.items()]
            return self.head(self.fusion(torch.cat(flat, 1)))  # type: ignore[no-any-return]

    weight = torch.randn(3, 11, generator=torch.Generator().manual_seed(0))
    s = study(Maps({"a": nn.Identity(), "b": nn.Identity()}, linear(weight)), arrays({"a": (3,), "b": (4, 2)}))
    assert blocks_of(s).blocks["b"] == pytest.approx(float(weight[:, 3:].double().norm()), rel=1e-6)


def test_channels_of_a_convolution() -> None:
    class Maps(Planted):
        def forward(self, **x: Tensor) -> Tensor:
            maps = torch.cat([e(x[m]) for m, e in self.encoders.items()], 1)
            return self.head(self.fusion(maps).mean((2, 3)))  # type: ignore[no-any-return]

    fusion = nn.Conv2d(5, 3, 3)
    s = study(Maps({"a": nn.Identity(), "b": nn.Identity()}, fusion), arrays({"a": (2, 5, 5), "b": (3, 5, 5)}))
    found = blocks_of(s)
    assert found.blocks["a"] == pytest.approx(float(fusion.weight[:, :2].detach().double().norm()), rel=1e-6)
    assert found.blocks["b"] == pytest.approx(float(fusion.weight[:, 2:].detach().double().norm()), rel=1e-6)


def test_what_is_added_up_before_has_no_block_of_its_own() -> None:
    class Sum(Planted):
        def forward(self, **x: Tensor) -> Tensor:
            return self.head(self.fusion(x["a"] + self.encoders["b"](x["b"]) + 0 * self.encoders["a"](x["a"])))  # type: ignore[no-any-return]

    model = Sum({"a": nn.Identity(), "b": nn.Identity()}, linear(torch.ones(3, 4)))
    s = study(model, arrays({"a": (4,), "b": (4,)}))
    found = blocks_of(s)
    assert not found.blocks
    assert found.whole is None
    assert "entered by two" in found.reasons["b"]

    class Both(Planted):
        def forward(self, **x: Tensor) -> Tensor:
            return self.head(self.fusion(self.encoders["a"](x["a"]) + self.encoders["b"](x["b"])))  # type: ignore[no-any-return]

    s = study(Both({"a": nn.Identity(), "b": nn.Identity()}, linear(torch.ones(3, 4))), arrays({"a": (4,), "b": (4,)}))
    assert "mixed with others" in blocks_of(s).reasons["b"]


def test_attention_is_no_plain_layer() -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.GRU(4, 3, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x)[0][:, -1]
            return out

    class Tokens(Planted):
        def forward(self, **x: Tensor) -> Tensor:
            both = torch.stack([e(x[m]) for m, e in self.encoders.items()], 1)
            return self.head(self.fusion(both))  # type: ignore[no-any-return]

    s = study(Tokens({"a": nn.Identity(), "b": nn.Identity()}, Mixer()), arrays({"a": (4,), "b": (4,)}))
    assert "no plain linear layer" in blocks_of(s).reasons["a"]
