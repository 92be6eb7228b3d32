from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from collapsekit.features.content_seeds import modality_seeds
from collapsekit.probes.robustness.noise import NoiseOptions
from collapsekit.stats.inference.jackknife import assign_groups, interval
from tests.probes.planted import Apply, Planted, Study, linear, noise, plain, study

SIZES = {"train": 150, "test": 90}
LEVELS = (0.3, 4.0)


def data(modalities: str) -> dict[str, dict[str, Tensor]]:
    out = {}
    for k, (split, n) in enumerate(SIZES.items()):
        x = {m: noise(10 * k + i, n, 3) * (1 + i) for i, m in enumerate(modalities)}
        out[split] = {**x, "label": (sum(v[:, 0] for v in x.values()) > 0).long()}
    return out


def nonlinear(modalities: str, arrays: dict[str, dict[str, Tensor]] | None = None, ignored: str = "") -> Study:
    """A model whose answer is nearly the label's rule, unless some modalities are ignored."""
    encoders: dict[str, nn.Module] = {}
    for i, m in enumerate(modalities):
        weight = 0.1 * noise(10 + i, 4, 3)
        weight[:, 0] += 0.4
        encoders[m] = nn.Sequential(linear(weight), nn.Tanh())
    mixing = 0.2 + 0.05 * noise(20, 6, 4 * len(modalities))
    for m in ignored:
        mixing[:, 4 * modalities.index(m) : 4 * modalities.index(m) + 4] = 0
    fusion = nn.Sequential(linear(mixing), nn.Tanh())
    head = linear(torch.stack([-torch.ones(6), torch.ones(6)]))
    return study(Planted(encoders, fusion, head), arrays or data(modalities))


def fields(s: Study, m: str, shape: tuple[int, ...], draws: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(modality_seeds(s.adapter, s.features, 0)[m])
    return [torch.rand(shape, generator=generator) * 2 - 1 for _ in range(draws)]


def by_hand(s: Study, place: str, m: str, levels: tuple[float, ...], draws: int, spread: Any) -> np.ndarray:
    """Accuracy over levels, without noise first, by calling the model's own parts."""
    model, x, y = s.adapter.model, s.features.inputs, s.features.targets
    out = np.zeros((draws, len(levels) + 1))
    with torch.no_grad():
        width = 3 if place == "input" else 4
        for d, field in enumerate(fields(s, m, (len(y), width), draws)):
            for k, level in enumerate((0.0, *levels)):
                encoded = []
                for name, encoder in model.encoders.items():
                    if name != m:
                        encoded.append(encoder(x[name]))
                    elif place == "input":
                        encoded.append(encoder(x[m] + level * float(spread(x[m].numpy())) * field))
                    else:
                        size = float(spread(encoder(x[m]).numpy()))
                        encoded.append(encoder(x[m]) + level * size * field)
                said = model.head(model.fusion(torch.cat(encoded, 1))).argmax(1)
                out[d, k] = float((said == y).double().mean())
    return out.mean(0)


@pytest.mark.parametrize("place", ["input", "feature"])
def test_curves_are_those_of_the_model_with_noise_added_by_hand(place: str) -> None:
    s = nonlinear("ab")
    sizes = {"range": lambda x: np.ptp(x, axis=0).max(), "deviation": lambda x: np.var(x, axis=0).mean() ** 0.5}
    for spread, size in sizes.items():
        found = s.run("noise", levels=LEVELS, draws=2, spread=spread)
        for m in "ab":
            expected = by_hand(s, place, m, LEVELS, 2, size)
            r = found[place, m, None]
            assert r.curve.x == (0, *LEVELS)
            np.testing.assert_allclose(r.curve.y, expected, atol=1e-9)
            area = np.trapezoid(expected, (0, *LEVELS)) / (LEVELS[-1] * expected[0])
            assert r.value == pytest.approx(area, rel=1e-9)
            assert len(set(r.curve.y)) > 1


def test_what_the_model_ignores_is_unaffected() -> None:
    found = nonlinear("abc", ignored="b").run("noise", levels="0.5,1,2")
    for place in ("input", "feature"):
        r = found[place, "b", None]
        assert r.value == pytest.approx(1, abs=1e-12)
        assert r.interval == pytest.approx((1, 1), abs=1e-12)
        assert len(set(r.curve.y)) == 1
        for m in "ac":
            assert found[place, m, None].value < 0.95
            assert found[place, m, None].interval[1] < 1


def test_a_linear_regression_loses_what_the_noise_variance_says() -> None:
    # y = 2a + b is predicted exactly: noise uniform within ±t·range on a adds 4·(t·range)²/3 of squared error.
    n = 4000
    arrays = {}
    for k, split in enumerate(("train", "test")):
        a, b = noise(2 * k, n, 1).clamp(-2, 2), noise(2 * k + 1, n, 1)
        arrays[split] = {"a": a, "b": b, "label": 2 * a + b}
    s = study(Planted(plain("ab"), linear([[2.0, 1.0]])), arrays, task="regression")
    levels = (0.05, 0.1, 0.2)
    found = s.run("noise", levels=levels, examples=n)
    variance = float(arrays["test"]["label"].var())
    expected = [1 - 4 * (t * 4) ** 2 / 3 / variance for t in (0.0, *levels)]
    for place in ("input", "feature"):
        r = found[place, "a", None]
        assert r.curve.y == pytest.approx(expected, abs=0.01)
        assert r.value == pytest.approx(np.trapezoid(expected, (0, *levels)) / levels[-1], abs=0.01)


def test_an_encoder_that_hands_its_input_on_makes_both_places_one() -> None:
    s = study(Planted(plain("ab"), linear(noise(5, 3, 6)), linear(noise(6, 2, 3))), data("ab"))
    found = s.run("noise")
    for m in "ab":
        assert found["input", m, None].curve == found["feature", m, None].curve


def test_renaming_modalities_renames_results() -> None:
    arrays = data("ab")
    one = nonlinear("ab", arrays)
    name = {"a": "b", "b": "a"}
    encoders = {name[m]: e for m, e in one.adapter.model.encoders.items()}
    model = Planted(encoders, one.adapter.model.fusion, one.adapter.model.head)
    other = study(model, {s: {name.get(k, k): v for k, v in x.items()} for s, x in arrays.items()})
    before, after = one.run("noise"), other.run("noise")
    for (kind, m, _), r in before.items():
        same = after[kind, name[m], None]
        assert same.value == pytest.approx(r.value, abs=1e-9)
        assert same.interval == pytest.approx(r.interval, abs=1e-9)
        assert same.curve.y == pytest.approx(r.curve.y, abs=1e-9)
    assert before["input", "a", None].value != pytest.approx(before["input", "b", None].value, abs=1e-4)


def test_the_area_has_the_jackknife_interval() -> None:
    s = nonlinear("ab")
    found = s.run("noise", levels="0.5", draws=1)["feature", "a", None]
    model, x, y = s.adapter.model, s.features.inputs, s.features.targets
    with torch.no_grad():
        a, b = (model.encoders[m](x[m]) for m in "ab")
        size = float(np.ptp(model.encoders["a"](x["a"]).numpy(), axis=0).max())
        (field,) = fields(s, "a", (90, 4), 1)
        clean, noisy = (
            (model.head(model.fusion(torch.cat([z, b], 1))).argmax(1) == y).double()
            for z in (a, a + 0.5 * size * field)
        )
    groups = assign_groups(90, 16)
    kept = [groups > -1, *(groups != g for g in range(16))]
    areas = [float((1 + noisy[k].mean() / clean[k].mean()) / 2) for k in kept]
    assert found.value == pytest.approx(areas[0], abs=1e-12)
    assert found.interval == pytest.approx(interval(areas[0], areas[1:]), abs=1e-9)


# -- what noise can be added to -------------------------------------------------------------------------------------


class Recording(nn.Module):
    """Hands its input on and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.given.append(x.detach().clone())
        return x.float().flatten(1)


def pixels(scale: float) -> tuple[Study, Recording]:
    arrays = {}
    for k, (split, n) in enumerate(SIZES.items()):
        image = torch.randint(10, 200, (n, 1, 2, 2), generator=torch.Generator().manual_seed(k)).byte()
        other = noise(5 + k, n, 2)
        arrays[split] = {"image": image, "other": other, "label": (image[:, 0, 0, 0] > 100).long()}
    encoder = Recording()
    model = Planted({"image": encoder, "other": nn.Identity()}, linear(noise(3, 4, 6)), linear(noise(4, 2, 4)))
    modalities = {"image": {"encoder": "encoders.image", "scale": scale}, "other": "encoders.other"}
    return study(model, arrays, modalities=modalities), encoder


def test_pixels_with_a_scale_become_floats_before_the_noise() -> None:
    s, encoder = pixels(255.0)
    encoder.given.clear()
    found = s.run("noise", levels="0.3", draws=1)
    assert found["input", "image", None].value is not None
    raw = s.features.inputs["image"]
    (field,) = fields(s, "image", (90, 1, 2, 2), 1)
    size = float(np.ptp(raw.numpy(), axis=0).max())
    clean, noisy = encoder.given[:2]
    assert torch.equal(clean, raw.float() / 255)
    assert torch.allclose(noisy, (raw.float() + 0.3 * size * field) / 255, atol=1e-6)
    assert s.features.inputs["image"].dtype == torch.uint8


def test_whole_numbers_without_a_scale_have_noise_at_their_features_only() -> None:
    s, _ = pixels(1.0)
    found = s.run("noise")
    assert "whole numbers without a `scale`" in found["input", "image", None].skipped
    assert "'image' uint8" in found["input", "image", None].skipped
    assert found["feature", "image", None].value is not None
    assert found["input", "other", None].value is not None


class Masked(nn.Module):
    """An encoder that gives features, whole numbers and a mask of -inf; a fusion that reads all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fusion = Parts(), nn.Identity(), linear(noise(3, 4, 4))
        self.head = linear(noise(4, 2, 4))

    def forward(self, a: Tensor, keep: Tensor, b: Tensor) -> Tensor:
        x, whole, bias = self.a(a, keep)
        assert whole.dtype == torch.int64
        assert not torch.isnan(bias).any()
        weight = bias.softmax(1)[..., None]
        return self.head(self.fusion(torch.cat([(x * weight).sum(1), self.b(b)], 1)))


class Parts(nn.Module):
    def forward(self, a: Tensor, keep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        assert bool(((keep == 0) | (keep == 1)).all())
        return a, keep.long(), torch.zeros_like(keep).masked_fill(keep == 0, -torch.inf)


def test_masks_are_left_alone() -> None:
    arrays = {}
    for k, (split, n) in enumerate(SIZES.items()):
        keep = (torch.arange(4) < 1 + torch.arange(n)[:, None] % 4).float()
        a, b = noise(k, n, 4, 2), noise(9 + k, n, 2)
        arrays[split] = {"a": a, "keep": keep, "b": b, "label": (a[:, 0, 0] > 0).long()}
    model = Masked()
    model.encoders = {"a": model.a, "b": model.b}
    modalities = {"a": {"encoder": "a", "select": 0, "mask": "keep"}, "b": "b"}
    s = study(model, arrays, modalities=modalities, data={"path": "unused.npz", "also": ["keep"]})
    found = s.run("noise", draws=1)
    for place in ("input", "feature"):
        assert found[place, "a", None].value is not None
        assert found[place, "a", None].value != 1


def test_a_modality_that_does_not_vary_has_no_levels() -> None:
    arrays = data("ab")
    for split in arrays.values():
        split["b"] = torch.ones_like(split["b"])
    found = nonlinear("ab", arrays).run("noise", draws=1)
    for place in ("input", "feature"):
        assert "do not vary" in found[place, "b", None].skipped
        assert found[place, "a", None].value is not None


def test_modalities_of_one_input_are_noisy_together_and_it_is_said() -> None:
    x = {s: {"x": noise(k, n, 3), "label": torch.arange(n) % 2} for k, (s, n) in enumerate(SIZES.items())}
    encoders = {"low": linear(noise(1, 2, 3)), "high": linear(noise(2, 2, 3))}

    class Twice(Planted):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.fusion(torch.cat([e(x) for e in self.encoders.values()], 1)))

    modalities = {m: {"encoder": f"encoders.{m}", "input": "x"} for m in encoders}
    s = study(Twice(encoders, linear(noise(3, 3, 4)), linear(noise(4, 2, 3))), x, modalities=modalities)
    found = s.run("noise", draws=1)
    assert found["input", "low", None].note == "the same input is read by high"
    assert found["feature", "low", None].note is None


# -- options and limits ---------------------------------------------------------------------------------------------


def test_encoders_run_again_on_some_examples_only() -> None:
    s = nonlinear("ab")
    found = s.run("noise", levels="0.2", draws=1, examples=40)
    r = found["input", "a", None]
    assert r.note == "on 40 of 90 examples (noise.examples)"
    hits = (s.features.outputs.argmax(1) == s.features.targets).double()
    assert r.curve.y[0] == pytest.approx(float(hits[:40].mean()))
    assert found["feature", "a", None].curve.y[0] == pytest.approx(float(hits.mean()))
    assert float(hits[:40].mean()) != float(hits.mean())


def test_encoders_do_not_run_again_unless_asked_to() -> None:
    s, encoder = pixels(255.0)
    encoder.given.clear()
    found = s.run("noise", inputs=False)
    assert set(found) == {("feature", "image", None), ("feature", "other", None)}
    assert not encoder.given


def test_only_the_encoder_that_gets_the_noise_runs_again_and_no_other_split_is_encoded() -> None:
    s, encoder = pixels(255.0)
    encoder.given.clear()
    found = s.run("noise", levels="0.1,0.3", draws=2)
    # Without noise, and each level of each draw; none of them for noise on the other modality.
    assert [len(x) for x in encoder.given] == [90] * (1 + 2 * 2)
    assert found["input", "other", None].value is not None


def test_what_would_cost_many_passes_is_left_out_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    s = nonlinear("ab")
    weights = sum(p.numel() for p in s.adapter.model.encoders["a"].parameters())
    uses = 18 * 90 * weights  # 6 levels, 3 draws, 90 examples
    monkeypatch.setattr("collapsekit.probes.robustness.noise.CHEAP", uses)
    assert s.run("noise")["input", "a", None].value is not None
    monkeypatch.setattr("collapsekit.probes.robustness.noise.CHEAP", uses - 1)
    found = s.run("noise")
    assert "18 times on 90 examples, 18.0 times what the pass over all 90 cost" in found["input", "a", None].skipped
    assert found["feature", "a", None].value is not None
    assert s.run("noise", inputs=True)["input", "a", None].value is not None
    monkeypatch.setattr("collapsekit.probes.robustness.noise.SHARE", 18)
    assert s.run("noise")["input", "a", None].value is not None


def test_a_metric_that_is_not_positive_has_a_curve_and_no_area() -> None:
    arrays = {s: {"a": noise(k, n, 1), "b": noise(9 + k, n, 1)} for k, (s, n) in enumerate(SIZES.items())}
    for x in arrays.values():
        x["label"] = x["a"] + x["b"]
    s = study(Planted(plain("ab"), linear([[-1.0, -1.0]])), arrays, task="regression")
    r = s.run("noise", draws=1)["feature", "a", None]
    assert r.value is None
    assert r.curve.y[0] < 0
    assert "no area" in r.note


def test_an_output_that_is_not_finite_is_a_reason() -> None:
    fusion = Apply(lambda x: torch.stack([-x[:, 0], (x[:, 0] + 10).sqrt()], 1))
    s = study(Planted(plain("ab"), fusion), data("ab"))
    found = s.run("noise", levels="0.1,50", draws=1)
    assert "not finite under noise of level 50" in found["feature", "a", None].skipped
    assert found["feature", "b", None].value == pytest.approx(1)


def test_the_same_numbers_again_and_others_under_another_seed() -> None:
    s = nonlinear("ab")
    first = s.results("noise", {})
    assert s.results("noise", {}) == first
    assert s.results("noise", {}, seed=1) != first


def test_more_noise_on_what_decides_costs_more() -> None:
    y = nonlinear("ab").run("noise", levels="0.1,0.5,2", draws=8)["feature", "a", None].curve.y
    assert y[0] > y[2] > y[3]


def test_options() -> None:
    assert NoiseOptions(levels="0.5, 0.1").levels == (0.1, 0.5)
    for bad in ({"levels": ""}, {"levels": "0"}, {"levels": "nan"}, {"draws": 0}, {"spread": "iqr"}):
        with pytest.raises(ValidationError):
            NoiseOptions(**bad)
