from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn

from collapsekit.probes.neurons.collision import CollisionOptions, _drives
from collapsekit.session.session import Session
from collapsekit.stats.linalg.collision import lemma_bound, random_collision
from tests.probes.planted import Apply, Planted, Study, linear, noise, plain, study

N = 256
MEASURED = ("expected", "cross_modal", "polysemantic", "pair_share")


def data(modalities: str = "ab", d: int = 6, n: int = N) -> dict[str, Tensor]:
    return {**{m: noise(i, n, d) for i, m in enumerate(modalities)}, "label": torch.arange(n) % 3}


def fused_by(fusion: nn.Module, width: int, arrays: dict[str, Tensor] | None = None, **config: object) -> Study:
    arrays = arrays or data()
    modalities = [m for m in arrays if m != "label"]
    return study(Planted(plain(modalities), fusion, linear(noise(7, 3, width))), {"test": arrays}, **config)


@pytest.mark.parametrize("after", [nn.Identity(), nn.ReLU(), nn.Tanh()])
@pytest.mark.parametrize("m", [2, 3])
def test_modalities_in_neurons_of_their_own_do_not_collide(m: int, after: nn.Module) -> None:
    weight = torch.block_diag(*(noise(20 + i, 8, 6) for i in range(m)))
    found = fused_by(nn.Sequential(linear(weight), after), 8 * m, data("abc"[:m])).run("collision")
    assert found["cross_modal", None, None].value == 0
    assert found["cross_modal", None, None].interval == (0, 0)
    assert found["bound", None, None].value == pytest.approx((m - 1) / m)
    for k in "abc"[:m]:
        assert found["drivers", k, None].value == pytest.approx(1 / m, abs=0.1)


@pytest.mark.parametrize("after", [nn.Identity(), nn.ReLU(), nn.Tanh()])
def test_neurons_that_mix_one_feature_of_either_all_collide(after: nn.Module) -> None:
    weight = torch.cat([torch.eye(6), torch.eye(6)], 1).repeat(2, 1) + 0.01 * noise(3, 12, 12)
    found = fused_by(nn.Sequential(linear(weight), after), 12).run("collision")
    r = found["cross_modal", None, None]
    assert r.value == 1
    assert r.interval == (1, 1)
    assert r.value > found["expected", None, None].interval[1]
    assert found["pair", "a", "b"].value == found["pair", "b", "a"].value == 1
    for k in "ab":
        assert found["drivers", k, None].value == pytest.approx(0.5)
    assert found["pair_share", None, None].value > 0.99
    assert found["polysemantic", None, None].value == 1


def test_random_weights_collide_as_chance_has_it() -> None:
    arrays = {"a": noise(0, N, 4), "b": noise(1, N, 10), "c": noise(2, N, 7), "label": torch.arange(N) % 3}
    arrays = {k: v / v.std(0) if k != "label" else v for k, v in arrays.items()}
    found = fused_by(linear(noise(3, 800, 21)), 800, arrays).run("collision", neurons=800, second=0.01)
    chance = found["expected", None, None]
    assert chance.value == pytest.approx(random_collision([4, 10, 7]))
    assert chance.interval == pytest.approx(np.array(binom.interval(0.95, 800, chance.value)) / 800, abs=1e-3)
    assert chance.interval[0] < found["cross_modal", None, None].value < chance.interval[1]
    assert found["bound", None, None].value == lemma_bound([4, 10, 7]) < chance.value
    assert found["pair", "b", "c"].value == pytest.approx(2 * 70 / (21 * 20), abs=0.05)
    assert found["drivers", "b", None].value == pytest.approx(10 / 21, abs=0.03)


def test_two_modalities_that_swap_names_swap_results() -> None:
    weight = noise(3, 10, 12)
    weight[:, 6:] *= 0.6
    arrays = data()
    swapped = {"a": arrays["b"], "b": arrays["a"], "label": arrays["label"]}
    one = fused_by(nn.Sequential(linear(weight), nn.Tanh()), 10).run("collision")
    turned = linear(torch.cat([weight[:, 6:], weight[:, :6]], 1))
    other = fused_by(nn.Sequential(turned, nn.Tanh()), 10, swapped).run("collision")
    names = {"a": "b", "b": "a", None: None}
    assert {(name, names[m], names[v]) for name, m, v in one} == set(other)
    assert one["drivers", "a", None].value > one["drivers", "b", None].value + 0.2
    for (name, m, v), r in one.items():
        assert r.value == pytest.approx(other[name, names[m], names[v]].value, abs=1e-9)


def test_an_ignored_modality_collides_with_nothing_however_wide() -> None:
    weight = torch.cat([noise(3, 8, 6), torch.zeros(8, 6)], 1)
    found = fused_by(linear(weight), 8).run("collision")
    assert found["cross_modal", None, None].value == 0
    assert found["drivers", "b", None].value == 0
    assert found["expected", None, None].value == pytest.approx(6 / 11)


def test_drives_of_a_linear_fusion_are_the_variance_it_carries() -> None:
    arrays, weight = data(), noise(3, 5, 12)
    s = fused_by(linear(weight), 5, arrays)
    drives = _drives(Session.of(s.adapter, s.features), CollisionOptions())
    x = torch.cat([s.features.inputs["a"], s.features.inputs["b"]], 1).double().numpy()
    np.testing.assert_allclose(drives.left_out[0], weight.double().numpy() ** 2 * x.var(0), rtol=1e-5)
    keep = (s.features.groups != 3).numpy()
    np.testing.assert_allclose(drives.left_out[4], weight.double().numpy() ** 2 * x[keep].var(0), rtol=1e-5)


def test_drives_of_a_curved_fusion_are_by_its_mean_squared_derivative() -> None:
    weight = noise(3, 5, 12) * 0.5
    s = fused_by(nn.Sequential(linear(weight), nn.Tanh()), 5)
    drives = _drives(Session.of(s.adapter, s.features), CollisionOptions(neurons=3, examples=100))
    x = torch.cat([s.features.inputs["a"], s.features.inputs["b"]], 1).double().numpy()[:100]
    w = weight.double().numpy()[[0, 2, 4]]
    slope = 1 - np.tanh(x @ w.T) ** 2
    np.testing.assert_allclose(drives.left_out[0], (slope**2).mean(0)[:, None] * w**2 * x.var(0), rtol=1e-4)


def test_a_neuron_that_turns_back_is_driven_though_its_mean_slope_is_none() -> None:
    # |a0 + b0| has mean derivative near 0 by either; a1 + a2 is of one modality.
    weight = torch.zeros(2, 12)
    weight[0, [0, 6]] = 1
    weight[1, [1, 2]] = 1
    found = fused_by(nn.Sequential(linear(weight), Apply(torch.abs)), 2).run("collision")
    assert found["cross_modal", None, None].value == 0.5
    assert found["polysemantic", None, None].value == 1


def test_neurons_of_one_feature_are_not_polysemantic() -> None:
    weight = torch.zeros(4, 12)
    weight[0, 0] = weight[1, 7] = 1
    weight[2, [1, 8]] = weight[3, [2, 9]] = 1
    weight[3, 9] = 0.5  # a quarter of the drive
    found = fused_by(linear(weight), 4).run("collision")
    assert found["polysemantic", None, None].value == 0.5
    assert found["cross_modal", None, None].value == 1
    assert fused_by(linear(weight), 4).run("collision", second=0.6)["polysemantic", None, None].value == 0.25
    alone = fused_by(linear(weight[:2]), 2).run("collision")
    assert alone["bound", None, None].value == 0.5
    for name in MEASURED:
        assert "none is polysemantic" in alone[name, None, None].skipped


def test_which_features_win_is_uncertain_where_examples_decide_it() -> None:
    # The second feature of each neuron is a's or b's by a hair.
    weight = torch.zeros(6, 12)
    for k in range(6):
        weight[k, k] = 2
        weight[k, (k + 1) % 6] = weight[k, 6 + k] = 1
    r = fused_by(linear(weight), 6).run("collision")["cross_modal", None, None]
    assert r.interval[0] < r.value < r.interval[1]


def test_what_was_not_read_is_noted() -> None:
    weight = noise(3, 20, 12)
    weight[[0, 5]] = 0
    found = fused_by(linear(weight), 20).run("collision", neurons=20, examples=64)
    note = found["cross_modal", None, None].note
    assert "derivatives at 64 of 256 examples" in note
    assert "2 of 20 fused neurons that no feature drives left out" in note
    assert (
        "10 of 20 fused neurons read"
        in fused_by(linear(weight), 20).run("collision", neurons=10)["pair_share", None, None].note
    )


def test_features_that_never_vary_are_no_place_a_drive_could_fall_on() -> None:
    arrays = data()
    arrays["b"][:, 2:] = 0.7
    found = fused_by(linear(noise(3, 8, 12)), 8, arrays).run("collision")
    assert found["bound", None, None].value == 0.5
    assert found["expected", None, None].value == pytest.approx(random_collision([6, 2]))


@pytest.mark.parametrize(
    ("fusion", "width", "said"),
    [
        (nn.Identity(), 12, "only concatenates"),
        (linear(torch.zeros(4, 12), torch.ones(4)), 4, "no feature drives any neuron"),
        (Apply(lambda x: x[:, :4].detach()), 4, "no gradient"),
        (Apply(lambda x: torch.sign(x[:, :4]) + 0 * x[:, :4]), 4, "no feature drives any neuron"),
    ],
)
def test_where_nothing_can_be_measured_the_bound_stands_and_the_rest_says_why(
    fusion: nn.Module, width: int, said: str
) -> None:
    found = fused_by(fusion, width).run("collision")
    assert found["bound", None, None].value == 0.5
    assert set(found) == {(k, None, None) for k in ("bound", *MEASURED)}
    for name in MEASURED:
        assert said in found[name, None, None].skipped


class Tokens(nn.Module):
    """Modality b arrives as tokens (n, t, d) of which the fusion reads the mean; its encoder also gives a mask."""

    def __init__(self, weight: Tensor, channels_first: bool) -> None:
        super().__init__()
        take = (lambda x: x.transpose(1, 2)) if channels_first else (lambda x: x)
        self.encoders = nn.ModuleDict({"a": nn.Identity(), "b": Apply(lambda x: (take(x), x[:, :, 0] > 0))})
        self.fusion, self.head, self.take = linear(weight), linear(noise(7, 3, len(weight))), take

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        tokens, _ = self.encoders["b"](b)
        return self.head(self.fusion(torch.cat([self.encoders["a"](a), self.take(tokens).mean(1)], 1)))


@pytest.mark.parametrize("channels", ["first", "last"])
def test_features_over_positions_are_moved_at_all_of_them(channels: str) -> None:
    weight = noise(3, 5, 12)
    arrays = {**data(), "b": noise(9, N, 4, 6)}
    config = {"modalities": {"a": "encoders.a", "b": {"encoder": "encoders.b", "channels": channels}}}
    s = study(Tokens(weight, channels == "first"), {"test": arrays}, **config)
    drives = _drives(Session.of(s.adapter, s.features), CollisionOptions())
    pooled = np.concatenate([s.features.inputs["a"].numpy(), s.features.inputs["b"].mean(1).numpy()], 1)
    np.testing.assert_allclose(
        drives.left_out[0], weight.double().numpy() ** 2 * pooled.astype(np.float64).var(0), rtol=1e-4
    )


def test_flattened_features_are_moved_one_by_one() -> None:
    weight = noise(3, 5, 12)
    arrays = {**data(), "b": noise(9, N, 3, 2)}
    config = {"modalities": {"a": "encoders.a", "b": {"encoder": "encoders.b", "pool": "flatten"}}}

    class Flat(Planted):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(self.fusion(torch.cat([self.encoders["a"](a), self.encoders["b"](b).flatten(1)], 1)))

    s = study(Flat(plain("ab"), linear(weight), linear(noise(7, 3, 5))), {"test": arrays}, **config)
    drives = _drives(Session.of(s.adapter, s.features), CollisionOptions())
    x = torch.cat([s.features.inputs["a"], s.features.inputs["b"].flatten(1)], 1).double().numpy()
    np.testing.assert_allclose(drives.left_out[0], weight.double().numpy() ** 2 * x.var(0), rtol=1e-5)


def test_many_features_are_read_for_fewer_neurons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collapsekit.probes.neurons.collision.LARGEST", 30)
    note = fused_by(linear(noise(3, 8, 12)), 8).run("collision")["cross_modal", None, None].note
    assert note == "2 of 8 fused neurons read"


def test_the_model_and_its_gradients_stay_as_they_are() -> None:
    s = fused_by(linear(noise(3, 8, 12)), 8)
    fused = s.features.fused.clone()
    s.run("collision")
    assert all(p.grad is None for p in s.adapter.model.parameters())
    assert torch.equal(s.features.fused, fused)
    assert not any(t.requires_grad for r in s.features.recorded.values() for t in r)
