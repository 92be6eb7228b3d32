"""What features are read as: candidate poolings, chosen on held-out examples, and where channels lie."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import collapsekit
from collapsekit.adapters.pooling import layout_at, layout_before, layout_behind, pool_features, pool_fused, pool_ways
from collapsekit.context import Settings
from collapsekit.diagnosis import check_options
from collapsekit.readouts.linear import make_split
from collapsekit.readouts.poolings import live_unpooled, recorded_sets
from collapsekit.session.layouts import settle_layouts
from collapsekit.session.session import Session
from tests.probes.planted import Apply, Planted, Study, linear, study

SIZES = {"train": 300, "val": 150, "test": 150}


class Flat(nn.Module):
    """Flattens every feature before they are put side by side."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.module(x)
        return out


class Model(Planted):
    """Features of any layout, flattened on their way to the fusion."""

    def forward(self, **x: Tensor) -> Tensor:
        flat = torch.cat([e(x[m]).flatten(1) for m, e in self.encoders.items()], 1)
        return self.head(self.fusion(flat))  # type: ignore[no-any-return]


def waves(swap: bool = False) -> dict[str, dict[str, Tensor]]:
    """(n, 12, 2): opposite signs in two thirds of the channels say the class, so that their mean says nothing."""
    out = {}
    for k, (split, n) in enumerate(SIZES.items()):
        g = torch.Generator().manual_seed(k)
        y = torch.randint(0, 4, (n,), generator=g)
        e = F.one_hot(y, 4).float()[:, :, None]
        x = 0.3 * torch.randn(n, 12, 2, generator=g)
        x[:, :4] += e
        x[:, 4:8] -= e
        out[split] = {"a": torch.randn(n, 3, generator=g), "b": x.transpose(1, 2) if swap else x, "label": y}
    return out


def opened(encoder: nn.Module, arrays: dict[str, dict[str, Tensor]], **section: Any) -> Study:
    g = torch.Generator().manual_seed(0)
    model = Model({"a": nn.Identity(), "b": encoder}, linear(torch.randn(4, 27, generator=g)))
    modalities = {"a": {"encoder": "encoders.a"}, "b": {"encoder": "encoders.b", **section}}
    return study(model, arrays, modalities=modalities)


def accuracy(s: Study) -> float:
    expected = Session.of(s.adapter, s.features).prefix("b").expected
    return float((expected.argmax(1) == s.features.targets).double().mean())


def test_features_of_unknown_layout_are_read_in_the_one_that_says_something() -> None:
    s = opened(Apply(lambda x: x * 1.0), waves())
    assert s.features.pooled["b"].shape == (150, 2)  # nothing tells: tokens have their channels last
    assert accuracy(s) > 0.9


def test_where_nothing_tells_the_layout_of_other_probes_is_chosen_on_held_out_examples() -> None:
    s = opened(Apply(lambda x: x * 1.0), waves())
    assert settle_layouts(Session.of(s.adapter, s.features)) == {"b": "first"}
    assert s.features.pooled["b"].shape == (150, 12)
    assert torch.allclose(s.features.pooled["b"], s.features.recorded["b"][0].mean(2), atol=1e-6)
    assert s.features.of("train").pooled["b"].shape == (300, 12)
    assert s.adapter.channel_axis("b", s.features.recorded["b"][0]) == 1
    assert settle_layouts(Session.of(s.adapter, s.features)) == {}  # it is known now
    swapped = opened(Apply(lambda x: x * 1.0), waves(swap=True))
    assert settle_layouts(Session.of(swapped.adapter, swapped.features)) == {"b": "last"}
    told = opened(nn.Conv1d(12, 12, 1), waves())
    assert settle_layouts(Session.of(told.adapter, told.features)) == {}
    alone = opened(Apply(lambda x: x * 1.0), {"test": waves()["test"]})
    assert settle_layouts(Session.of(alone.adapter, alone.features)) == {}  # nothing to choose by
    assert alone.features.pooled["b"].shape == (150, 2)


def test_a_report_reads_features_in_the_layout_that_was_chosen() -> None:
    g = torch.Generator().manual_seed(0)
    model = Model({"a": nn.Identity(), "b": Apply(lambda x: x * 1.0)}, linear(torch.randn(4, 27, generator=g)))
    config = {"modalities": {"a": "encoders.a", "b": "encoders.b"}, "fusion": "fusion"}
    report = collapsekit.diagnose(model=model, data=waves(), config=config, probes=["spectrum"])
    found = report.find("spectrum.eigenvalues", "b")
    assert found is not None
    assert found.curve is not None
    assert len(found.curve.x) == 12
    assert "channels" not in str(report.settings["config"])  # of the user's config nothing was changed


class Pixels(nn.Module):
    """Reads pictures of bytes and numbers, as they are given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.seen, self.said = nn.Linear(60, 2), nn.Linear(4, 2)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        out: Tensor = self.seen(image.float().flatten(1) / 255) + self.said(text)
        return out


def pixels(count: int, seed: int) -> dict[str, Tensor]:
    """Pictures (count, 3, 4, 5) of bytes that are brighter where the label is 1."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    image = torch.randint(0, 120, (count, 3, 4, 5), generator=draw) + 60 * y[:, None, None, None]
    return {"image": image.to(torch.uint8), "text": torch.randn(count, 4, generator=draw), "label": y}


def test_pictures_of_bytes_need_no_encoder() -> None:
    splits = {"train": 80, "val": 40, "test": 60}
    data = {split: pixels(count, i) for i, (split, count) in enumerate(splits.items())}
    floats = {split: {**part, "image": part["image"].float()} for split, part in data.items()}
    config = {"modalities": {"image": None, "text": None}, "data": {"label": "label"}}
    found, same = (
        collapsekit.diagnose(model=Pixels(), data=d, config=config, probes=["reliance", "utilisation"], profile="quick")
        for d in (data, floats)
    )
    whole, as_floats = found.find("reliance.full_loss"), same.find("reliance.full_loss")
    assert whole is not None
    assert as_floats is not None
    assert whole.value == pytest.approx(as_floats.value, abs=1e-6)
    assert found.modalities["image"].verdict == same.modalities["image"].verdict


class Waves(nn.Module):
    """Reads complex numbers by their parts, and other numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.said = nn.Linear(12, 2), nn.Linear(4, 2)
        with torch.no_grad():
            for layer in (self.seen, self.said):
                layer.weight.copy_(torch.tensor([-0.5, 0.5])[:, None].expand_as(layer.weight))
                layer.bias.zero_()

    def forward(self, wave: Tensor, text: Tensor) -> Tensor:
        out: Tensor = self.seen(torch.view_as_real(wave).flatten(1)) + self.said(text)
        return out


def test_complex_numbers_need_no_encoder() -> None:
    def part(count: int, seed: int) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(seed)
        y = torch.arange(count) % 2
        parts = torch.randn(count, 6, 2, generator=draw) + 0.6 * (2 * y[:, None, None] - 1)
        text = torch.randn(count, 4, generator=draw) + 0.4 * (2 * y[:, None] - 1)
        return {"wave": torch.view_as_complex(parts), "text": text, "label": y}

    data = {split: part(count, i) for i, (split, count) in enumerate({"train": 120, "val": 60, "test": 80}.items())}
    config = {"modalities": {"wave": None, "text": None}, "data": {"label": "label"}}
    report = collapsekit.diagnose(model=Waves(), data=data, config=config, profile="quick")
    assert {m: v.verdict for m, v in report.modalities.items()} == {"wave": "used", "text": "used"}
    assert not [r.name for r in report.results if r.error is not None]
    reached = report.find("utilisation.alone_metric", "wave")
    assert reached is not None
    assert reached.value is not None
    assert reached.value > 0.8  # read out of real and imaginary parts


def test_the_largest_of_whole_numbers_is_theirs() -> None:
    tokens = torch.tensor([[[1, 200], [3, 7]], [[9, 0], [2, 255]]], dtype=torch.uint8)
    kept = torch.tensor([[1, 1], [1, 0]])
    assert pool_features(tokens, "max", "last", kept).tolist() == [[3.0, 200.0], [9.0, 0.0]]


class Quiet(nn.Module):
    """Reads ``a``, and next to nothing of what a convolution makes of ``b``."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Identity(), nn.Conv1d(12, 12, 1)
        self.fuse, self.head = nn.Linear(28, 16), nn.Linear(16, 4)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        both = torch.cat([self.a(a), 0.002 * self.b(b).flatten(1)], 1)
        out: Tensor = self.head(torch.relu(self.fuse(both)))
        return out


@pytest.mark.usefixtures("brief_joint_here")
def test_a_collapse_behind_a_convolution_over_one_axis_is_seen_by_default() -> None:
    arrays = waves()
    for k, x in enumerate(arrays.values()):
        x["a"] = F.one_hot(x["label"], 4) + 0.3 * torch.randn(
            len(x["label"]), 4, generator=torch.Generator().manual_seed(k)
        )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Quiet()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        a, b, y = (torch.cat([x[key] for x in arrays.values()]) for key in ("a", "b", "label"))
        for _ in range(150):
            optimizer.zero_grad()
            F.cross_entropy(model(a, b), y).backward()
            optimizer.step()
    config = {"modalities": {"a": "a", "b": "b"}, "fusion": "fuse"}
    how = {"profile": "quick", "probes": ["reliance", "utilisation"]}
    report = collapsekit.diagnose(model=model.eval(), data=arrays, config=config, **how)  # type: ignore[arg-type]
    assert report.verdict == "collapsed"
    assert report.modalities["b"].verdict == "collapsed"
    assert report.modalities["a"].verdict == "used"


def test_either_layout_gives_the_same_readout() -> None:
    one, other = (opened(Apply(lambda x: x * 1.0), waves(swap)) for swap in (False, True))
    losses = [Session.of(s.adapter, s.features).prefix("b").validation_loss for s in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("section", [{"pool": "mean"}, {"pool": "max", "channels": "last"}])
def test_what_the_config_says_is_obeyed(section: dict[str, Any]) -> None:
    s = opened(Apply(lambda x: x * 1.0), waves(), **section)
    sets = recorded_sets(s.adapter, make_split(s.adapter, s.features), "b", 0)
    assert len(sets) == 1
    assert torch.equal(sets[0].of(s.features), s.features.pooled["b"])
    assert accuracy(s) < 0.6


def test_channels_of_the_config_leave_only_that_layout() -> None:
    s = opened(Apply(lambda x: x * 1.0), waves(), channels="last")
    described = [one.described for one in recorded_sets(s.adapter, make_split(s.adapter, s.features), "b", 0)]
    assert len(described) == 5
    assert not any("first over" in text or "channels first" in text for text in described)


def build() -> Model:
    """A model whose encoder of ``b`` reads what says the class into places, not channels."""
    return Model({"a": nn.Identity(), "b": nn.Conv1d(12, 2, 1)}, linear(torch.zeros(4, 19)))


def places() -> dict[str, dict[str, Tensor]]:
    """(n, 12, 8): where along the axis the channels are larger says the class."""
    out = {}
    for k, (split, n) in enumerate(SIZES.items()):
        g = torch.Generator().manual_seed(k)
        y = torch.randint(0, 4, (n,), generator=g)
        x = 0.3 * torch.randn(n, 12, 8, generator=g)
        x[torch.arange(n), :, y] += 1.0
        out[split] = {"a": torch.randn(n, 3, generator=g), "b": x, "label": y}
    return out


def test_encoders_trained_alone_are_read_in_every_way_too() -> None:
    s = study(build(), places(), factory=f"{__name__}:build")
    assert s.features.pooled["b"].shape == (150, 2)  # the mean over places says nothing
    session = Session.of(
        s.adapter, s.features, Settings(others=check_options({"prefix_gap": {"epochs": 25}}), profile="standard")
    )
    made = session.trained_alone
    assert made is not None
    assert made.trained["b"].validation_loss < 0.5
    assert "all positions side by side, 16 numbers" in made.read["b"]


@pytest.mark.parametrize("other", ["train", "val", "test"])
def test_splits_of_another_length_are_read_as_the_adapter_pools_them(other: str) -> None:
    arrays = {
        split: {**x, "b": torch.cat([x["b"]] * 2, 2) if split == other else x["b"]} for split, x in places().items()
    }

    class Mean(Model):
        def forward(self, **x: Tensor) -> Tensor:
            pooled = torch.cat([self.encoders["a"](x["a"]), self.encoders["b"](x["b"]).mean(2)], 1)
            return self.head(self.fusion(pooled))  # type: ignore[no-any-return]

    s = study(Mean({"a": nn.Identity(), "b": nn.Conv1d(12, 2, 1)}, linear(torch.zeros(4, 5))), arrays)
    found = s.run("utilisation")
    assert found["reference_independent", "b", None].value == 0
    assert found["reference_independent", "a", None].value == 1
    assert "mean over" in found["strength", "b", None].note


def test_the_first_set_is_what_every_other_probe_reads() -> None:
    s = opened(nn.Conv1d(12, 12, 1), waves())
    sets = recorded_sets(s.adapter, make_split(s.adapter, s.features), "b", 0)
    assert torch.equal(sets[0].of(s.features), s.features.pooled["b"])
    assert s.features.pooled["b"].shape == (150, 12)  # a convolution has its channels first
    assert "mean over 2 positions, channels first" in sets[0].described
    assert len({one.described for one in sets}) == len(sets) == 8
    at = make_split(s.adapter, s.features)
    for one in sets:
        assert one.of(at.train).shape[0] == 300


def test_padding_is_in_no_pool() -> None:
    x = torch.randn(6, 5, 3)
    ways = pool_ways(x.shape, None, 5)
    assert all("5 positions" in name for name in ways)
    assert "all positions side by side" not in ways
    assert not pool_ways(x.shape, "first", 5)  # whose positions the mask does not count


def test_one_position_is_pooled_in_one_way() -> None:
    assert list(pool_ways((4, 8, 1, 1))) == [
        "mean over 1 positions, channels first",
        *list(pool_ways((4, 8, 1, 1)))[1:],
    ]
    assert sum("over 1 positions" in name or "first of 1" in name for name in pool_ways((4, 8, 1, 1))) == 1


def test_maps_too_wide_are_not_put_side_by_side() -> None:
    assert "all positions side by side" in pool_ways((4, 64, 8, 8))
    assert "all positions side by side" not in pool_ways((4, 64, 9, 8))


def marked(seed: int, n: int) -> tuple[Tensor, Tensor]:
    """(n, 9, 6) tokens, one of which is marked and says the class; the others say another one as loudly."""
    g = torch.Generator().manual_seed(seed)
    y, rows = torch.randint(0, 4, (n,), generator=g), torch.arange(n)
    others = torch.randint(0, 4, (n, 9), generator=g)
    x = torch.cat([F.one_hot(others, 4).float(), torch.zeros(n, 9, 2)], 2) + 0.1 * torch.randn(n, 9, 6, generator=g)
    place = torch.randint(0, 9, (n,), generator=g)
    x[rows, place, :4] = F.one_hot(y, 4).float()
    x[rows, place, 4] = 3.0
    return x, y


def test_a_learned_query_finds_the_token_that_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {}
    for k, (split, n) in enumerate(SIZES.items()):
        x, y = marked(k, n)
        arrays[split] = {"a": torch.randn(n, 3, generator=torch.Generator().manual_seed(k)), "b": x, "label": y}
    model = Model({"a": nn.Identity(), "b": Apply(lambda x: x * 1.0)}, linear(torch.randn(4, 57)))

    def read() -> tuple[float, str]:
        s = study(model, arrays)
        return accuracy(s), Session.of(s.adapter, s.features).reference("b").reads["the checkpoint's own encoder"]

    found, described = read()
    assert found > 0.9
    assert "attention by a learned query over 9 positions, 6 numbers" in described
    monkeypatch.setattr("collapsekit.readouts.poolings.TOKENS", 0)
    assert read()[0] < 0.7


LAYOUTS: list[tuple[nn.Module, tuple[int, ...], str | None]] = [
    (nn.Conv1d(3, 8, 3), (4, 8, 5), "first"),
    (nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), (4, 8, 5, 5), "first"),
    (nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.MaxPool2d(2)), (4, 8, 2, 2), "first"),
    (nn.Linear(3, 8), (4, 5, 8), "last"),
    (nn.Linear(3, 8), (4, 5, 6, 8), "last"),
    (nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Dropout()), (4, 5, 8), "last"),
    (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (4, 5, 8), "last"),
    (nn.Embedding(10, 8), (4, 5, 8), "last"),
    (nn.GRU(3, 4, bidirectional=True, batch_first=True), (4, 5, 8), "last"),
    (nn.Conv1d(3, 8, 3), (4, 5, 8), "last"),  # transposed on the way
    (nn.Conv1d(3, 8, 3), (4, 8, 8), "first"),  # either axis would do
    (nn.Linear(3, 8), (4, 8, 8), "last"),
    (nn.Identity(), (4, 5, 8), None),
    (nn.Conv1d(3, 8, 3), (4, 5, 7), None),  # something else made these
    (nn.Linear(3, 8), (4, 8), None),
]


@pytest.mark.parametrize(("module", "shape", "layout"), LAYOUTS)
def test_the_layers_tell_where_channels_are(module: nn.Module, shape: tuple[int, ...], layout: str | None) -> None:
    assert layout_behind(Flat(module), shape) == layout


def test_what_enters_is_laid_out_as_the_first_layer_takes_it() -> None:
    assert layout_before(nn.Sequential(nn.ReLU(), nn.Conv1d(6, 8, 1)), (4, 6, 9)) == "first"
    assert layout_before(nn.Linear(9, 8), (4, 6, 9)) == "last"
    model = nn.ModuleDict({"fuse": nn.Conv1d(6, 8, 1)})
    assert layout_at(model, "fuse:input", (4, 6, 9)) == "first"
    assert layout_at(model, "fuse", (4, 8, 9)) == "first"
    assert layout_at(model, "gone", (4, 8, 9)) is None
    fused = torch.randn(4, 8, 9)
    assert torch.allclose(pool_fused(model, "fuse", fused), fused.mean(2))
    assert torch.allclose(pool_fused(model, None, fused), fused.mean(1))


def test_a_live_run_gives_its_features_before_they_are_pooled() -> None:
    s = opened(nn.Conv1d(12, 12, 1), waves())
    inputs = {k: v[:5] for k, v in s.features.inputs.items()}
    recorded = {m: tuple(t[:5] for t in r) for m, r in s.features.recorded.items()}
    x, _ = live_unpooled(s.adapter, "b", recorded, inputs)
    assert x.shape == (5, 12, 2)
    assert x.requires_grad
    assert torch.allclose(x, recorded["b"][0])
    assert s.adapter.live("b", recorded, inputs).shape == (5, 12)  # and pools again afterwards
