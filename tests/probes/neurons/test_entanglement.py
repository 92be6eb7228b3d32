from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor, nn

from collapsekit.diagnosis import choose_probes
from collapsekit.probes.neurons import entanglement
from collapsekit.probes.neurons.entanglement import EntanglementOptions, _drives, _SplitSubject
from collapsekit.session.session import Session
from collapsekit.stats.linalg.entanglement import NOISY, PREDICTIVE, chance_of_entanglement
from tests.probes.planted import Apply, Key, Planted, Study, linear, noise, plain, refusal, study

N = 256
WHOLE = ("entangled", "expected", "shared_drive", "expected_shared", "gamma")
Arrays = dict[str, dict[str, Tensor]]


def world(modalities: str = "ab", width: int = 3, spread: float = 0.3, seed: int = 0) -> Arrays:
    """Two classes that the first feature of every modality tells, all features of variance 1."""
    found = {}
    for i, (split, n) in enumerate({"train": 1200, "val": 300, "test": N}.items()):
        label = torch.randint(0, 2, (n,), generator=torch.Generator().manual_seed(seed + i))
        arrays = {m: noise(seed + 10 * i + k + 3, n, width) for k, m in enumerate(modalities)}
        for x in arrays.values():
            x[:, 0] = ((2.0 * label - 1) + spread * x[:, 0]) / (1 + spread**2) ** 0.5
        found[split] = {**arrays, "label": label}
    return found


def fused_by(fusion: nn.Module, width: int, arrays: Arrays | None = None, **config: object) -> Study:
    arrays = arrays or world()
    modalities = [m for m in arrays["test"] if m != "label"]
    return study(Planted(plain(modalities), fusion, linear(noise(7, 2, width))), arrays, **config)


def picking(rows: list[dict[int, float]], width: int = 6) -> Tensor:
    """Weights with these entries only."""
    weight = torch.zeros(len(rows), width)
    for k, row in enumerate(rows):
        for j, value in row.items():
            weight[k, j] = value
    return weight


# a: features 0, 1, 2; b: features 3, 4, 5; the first of either predicts
SEPARATE = picking([{0: 2}, {3: 2}, {1: 2}, {4: 2}, {2: 2}, {5: 2}])
MIXED = picking([{0: 1, 4: 1}, {3: 1, 1: 1}, {0: 1, 5: 1}, {3: 1, 2: 1}, {0: 1, 4: -1}, {3: 1, 1: -1}])
ONE_WAY = picking([{0: 1, 4: 1}, {0: 1, 5: 1}, {0: 1, 4: -1}, {0: 1, 5: -1}])
WITHIN = picking([{0: 1, 1: 1}, {3: 1, 4: 1}, {0: 1, 2: 1}, {3: 1, 5: 1}])
FUNCTIONS = [nn.Identity(), nn.ReLU(), nn.Tanh()]


# -- planted -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["readout", "lda"])
@pytest.mark.parametrize("after", FUNCTIONS)
def test_neurons_of_one_part_each_read_at_chance(after: nn.Module, split: str) -> None:
    found = fused_by(nn.Sequential(linear(SEPARATE), after), 6).run("entanglement", split=split)
    assert found["entangled", None, None].value == 0
    assert found["entangled", None, None].interval == (0, 0)
    assert found["expected", None, None].value == 0
    assert found["shared_drive", None, None].value < 0.02
    for m in "ab":
        assert found["conjugates", m, None].value == 0
        assert found["predictive_drive", m, None].value == pytest.approx(1 / 6, abs=0.02)
        assert found["noisy_drive", m, None].value == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize("split", ["readout", "lda"])
@pytest.mark.parametrize("after", FUNCTIONS)
def test_neurons_that_mix_what_one_predicts_with_noise_of_the_other_read_high(after: nn.Module, split: str) -> None:
    found = fused_by(nn.Sequential(linear(MIXED), after), 6).run("entanglement", split=split)
    r, chance = found["entangled", None, None], found["expected", None, None]
    assert r.value == 1
    assert r.interval == (1, 1)
    assert chance.value == pytest.approx(1 / 3)  # 2 of 4 parts, 2 pairs of 6
    assert r.value > chance.interval[1]
    assert found["pair", "a", "b"].value == found["pair", "b", "a"].value == 0.5
    shared, permuted = found["shared_drive", None, None], found["expected_shared", None, None]
    assert shared.interval[0] > permuted.interval[1]
    assert shared.value == pytest.approx(0.5, abs=0.05)
    # In the neurons of b, only noise of a: far below what a's features do on the whole.
    assert found["feature_ratio", "a", "b"].value < 0.2 * found["expected_ratio", "a", None].value


def test_whose_noise_is_in_whose_neurons_is_told_apart() -> None:
    found = fused_by(linear(ONE_WAY), 4).run("entanglement")
    assert found["pair", "b", "a"].value == 1
    assert found["pair", "a", "b"].value == 0
    assert "by chance 0.17" in found["pair", "a", "b"].note


def test_both_parts_of_one_modality_are_conjugates_and_entangle_no_other() -> None:
    found = fused_by(linear(WITHIN), 4).run("entanglement")
    assert found["entangled", None, None].value == 0
    assert found["conjugates", "a", None].value == found["conjugates", "b", None].value == 0.5
    assert found["expected", None, None].value == pytest.approx(1 / 3)


def test_random_weights_share_as_chance_has_it() -> None:
    found = fused_by(linear(noise(3, 800, 4)), 800, world(width=2)).run("entanglement", neurons=800)
    shared, permuted = found["shared_drive", None, None].value, found["expected_shared", None, None].value
    assert shared == pytest.approx(permuted, rel=0.05)
    r, chance = found["entangled", None, None], found["expected", None, None]
    assert chance.interval[0] - 0.02 < r.value < chance.interval[1] + 0.02
    assert 0.3 < r.value < 0.95


def test_a_modality_that_says_nothing_is_all_noise() -> None:
    arrays = world()
    for split in arrays:
        arrays[split]["b"][:, 0] = noise(50, len(arrays[split]["b"]))
    found = fused_by(linear(MIXED), 6, arrays).run("entanglement")
    assert found["predictive_drive", "b", None].value == 0
    assert found["predictive_drive", "b", None].note == "0 predictive directions of 3"
    assert found["pair", "b", "a"].value == 0.5
    assert "no predictive part" in found["pair", "a", "b"].skipped
    assert "no predictive features" in found["feature_ratio", "b", "a"].skipped
    assert "one part only" in found["conjugates", "b", None].skipped
    assert "no predictive part" in found["gradient_sum", "b", None].skipped
    assert found["gradient_sum", "a", None].value is not None


def test_a_modality_of_one_feature_has_no_noise() -> None:
    arrays = world()
    for split in arrays:
        arrays[split]["b"] = arrays[split]["b"][:, :1].clone()
    found = fused_by(linear(picking([{0: 1, 3: 1}, {1: 1, 3: 1}], 4)), 2, arrays).run("entanglement")
    assert found["noisy_drive", "b", None].value == pytest.approx(0, abs=1e-9)
    assert "b has no noisy part" in found["pair", "b", "a"].skipped
    assert found["pair", "a", "b"].value == 0.5
    assert found["expected", None, None].value == pytest.approx(1 / 3)  # of 3 pairs, one


def test_three_modalities() -> None:
    arrays = world("abc")
    found = fused_by(linear(picking([{0: 1, 4: 1}, {3: 1, 7: 1}, {6: 1, 1: 1}], 9)), 3, arrays).run("entanglement")
    assert found["entangled", None, None].value == 1
    assert found["expected", None, None].value == pytest.approx(6 / 15)
    pairs = {(m, v): r.value for (name, m, v), r in found.items() if name == "pair"}
    assert {k for k, value in pairs.items() if value} == {("b", "a"), ("c", "b"), ("a", "c")}


# -- references --------------------------------------------------------------------------------------------------------


def measured(s: Study, **options: object) -> tuple[_SplitSubject, entanglement._PartDrives]:
    subject = _SplitSubject(Session.of(s.adapter, s.features), EntanglementOptions(**options))
    return subject, _drives(subject)


def by_regression(x: np.ndarray, values: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variance of w·x that a regression on ``values`` explains, and the rest, for each row of the weights."""
    design = np.column_stack([np.ones(len(x)), values])
    read = x @ weight.T
    fitted = design @ np.linalg.lstsq(design, read, rcond=None)[0]
    return fitted.var(0), (read - fitted).var(0)


@pytest.mark.parametrize("split", ["readout", "lda"])
def test_drives_of_a_linear_fusion_are_those_of_a_regression(split: str) -> None:
    arrays, weight = world(spread=1.0), noise(3, 5, 6)
    s = fused_by(linear(weight), 5, arrays)
    _, drives = measured(s, split=split, leading=1.0)
    w, groups = weight.double().numpy(), s.features.groups.numpy()
    for i, m in enumerate("ab"):
        x = s.features.inputs[m].double().numpy()
        if split == "lda":
            train = arrays["train"]
            values = LinearDiscriminantAnalysis().fit(train[m].numpy(), train["label"].numpy()).decision_function(x)
        else:
            values = s_readout(s, m, x)
        for place, keep in ((0, groups >= 0), (4, groups != 3)):
            told, rest = by_regression(x[keep], values[keep], w[:, 3 * i : 3 * i + 3])
            tolerance = 2e-3 if split == "lda" else 1e-5  # the discriminant's ridge
            np.testing.assert_allclose(drives.parts[place][:, i, PREDICTIVE], told, rtol=tolerance)
            np.testing.assert_allclose(drives.parts[place][:, i, NOISY], rest, rtol=tolerance)
    assert drives.sizes.tolist() == [[1, 2], [1, 2]]


def s_readout(s: Study, modality: str, x: np.ndarray) -> np.ndarray:
    """Natural values of the readout, of which one is minus the other but for a constant."""
    fitted = Session.of(s.adapter, s.features).pooled_readout(modality).fitted
    return fitted.readout.predict(torch.as_tensor(x))[:, 0].numpy()


def test_shares_and_ratios_are_those_of_the_drives() -> None:
    s = fused_by(linear(noise(3, 7, 6)), 7, world(spread=1.0))
    found = s.run("entanglement", shared=0.15)
    d = measured(s)[1].parts[0].numpy()
    shares = d / d.sum((1, 2), keepdims=True)
    carried = shares >= 0.15
    mixed = (carried[:, 0, NOISY] & carried[:, 1, PREDICTIVE]) | (carried[:, 1, NOISY] & carried[:, 0, PREDICTIVE])
    assert 0 < mixed.mean() < 1
    assert found["entangled", None, None].value == pytest.approx(mixed.mean())
    chances = [chance_of_entanglement(c, torch.ones(2, 2).bool()) for c in carried.sum((1, 2)).tolist()]
    assert found["expected", None, None].value == pytest.approx(np.mean(chances))
    assert found["predictive_drive", "b", None].value == pytest.approx(shares[:, 1, PREDICTIVE].mean())
    weight = shares[:, 1, PREDICTIVE]
    ratio = (weight @ shares[:, 0, PREDICTIVE]) / (weight @ shares[:, 0, NOISY] / 2)
    assert found["feature_ratio", "a", "b"].value == pytest.approx(ratio)
    whole = shares[:, 0, PREDICTIVE].mean() / (shares[:, 0, NOISY].mean() / 2)
    assert found["expected_ratio", "a", None].value == pytest.approx(whole)


def test_gamma_counts_pooled_features() -> None:
    weight = picking([{0: 1, 1: 1, 3: 0.1}, {2: 1, 4: 0.25}, {}])
    s = fused_by(linear(weight), 3)
    found = s.run("entanglement")
    assert found["gamma", None, None].value == 1.5
    assert s.run("entanglement", second=0.005)["gamma", None, None].value == 2.5
    assert "1 of 3 fused neurons that no feature drives left out" in found["entangled", None, None].note


def test_gradient_sums_are_those_of_the_loss_by_hand() -> None:
    arrays, weight = world(spread=1.0), noise(3, 5, 6)
    s = fused_by(nn.Sequential(linear(weight), nn.Tanh()), 5, arrays)
    found = s.run("entanglement", leading=1.0)
    head, label = noise(7, 2, 5).double().numpy(), arrays["test"]["label"].numpy()
    whole = np.concatenate([arrays["test"][m].double().numpy() for m in "ab"], 1)
    for m in (None, "a", "b"):
        x = whole.copy()
        if m is not None:
            x = np.tile(whole.mean(0), (N, 1))
            at = slice(0, 3) if m == "a" else slice(3, 6)
            design = np.column_stack([np.ones(N), s_readout(s, m, whole[:, at])])
            x[:, at] = design @ np.linalg.lstsq(design, whole[:, at], rcond=None)[0]
        hidden = np.tanh(x @ weight.double().numpy().T)
        logits = hidden @ head.T
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[np.arange(N), label] -= 1
        delta = p @ head * (1 - hidden**2)
        each = delta[:, :, None] * x[:, None, :]
        lengths = np.linalg.norm(each, axis=2)
        agreed = np.linalg.norm(each.sum(0), axis=1).sum() / lengths.sum()
        assert found["gradient_sum", m, None].value == pytest.approx(agreed, rel=1e-4)
        chance = np.sqrt((lengths**2).sum(0)).sum() / lengths.sum()
        assert found["expected_sum", m, None].value == pytest.approx(chance, rel=1e-4)
        assert found["gradient_sum", m, None].note == "the layer is fusion.0"


def test_ranks_are_those_of_each_layer_in_turn() -> None:
    arrays = world(spread=1.0)
    first, second = noise(3, 5, 6), noise(4, 4, 5)
    fusion = nn.Sequential(linear(first), nn.Tanh(), linear(second))
    r = fused_by(fusion, 4, arrays).run("entanglement")["layer_ranks", None, None]
    assert r.curve.x == ("fusion.0", "fusion.1", "fusion.2")
    x = torch.cat([arrays["test"][m] for m in "ab"], 1).double().numpy()
    one = x @ first.double().numpy().T
    for layer, value in zip((one, np.tanh(one), np.tanh(one) @ second.double().numpy().T), r.curve.y, strict=True):
        sigma = np.linalg.svd(layer - layer.mean(0), compute_uv=False)
        p = sigma / sigma.sum()
        assert value == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-5)


def test_layers_that_are_called_twice_or_are_none_have_no_rank() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.again = linear(MIXED), linear(torch.eye(6))

        def forward(self, x: Tensor) -> Tensor:
            return self.again(self.again(self.layer(x)))

    found = fused_by(Twice(), 6).run("entanglement")
    assert found["layer_ranks", None, None].curve.x == ("fusion.layer",)
    model = Planted(plain("ab"), linear(MIXED), linear(noise(7, 2, 6)))
    at_input = study(model, world(), fusion="head:input").run("entanglement")
    assert "no layers to read" in at_input["layer_ranks", None, None].skipped


# -- what must not matter ----------------------------------------------------------------------------------------------


def same(one: dict[Key, object], other: dict[Key, object], tolerance: float = 1e-6, **names: str) -> None:
    swapped = {**names, None: None}
    assert {(name, swapped.get(m, m), swapped.get(v, v)) for name, m, v in one} == set(other)
    for (name, m, v), r in one.items():
        s = other[name, swapped.get(m, m), swapped.get(v, v)]
        assert (r.skipped is None) == (s.skipped is None)
        if r.curve is not None:
            assert r.curve.y == pytest.approx(s.curve.y, rel=tolerance)
        if r.value is not None:
            assert r.value == pytest.approx(s.value, rel=tolerance, abs=1e-9), (name, m, v)


def lopsided() -> tuple[Arrays, Tensor]:
    weight = noise(3, 10, 6)
    weight[:, 3:] *= 0.4
    return world(spread=0.8), weight


def test_two_modalities_that_swap_names_swap_results() -> None:
    arrays, weight = lopsided()
    turned = {k: {"a": v["b"], "b": v["a"], "label": v["label"]} for k, v in arrays.items()}
    one = fused_by(nn.Sequential(linear(weight), nn.Tanh()), 10, arrays).run("entanglement")
    fusion = nn.Sequential(linear(torch.cat([weight[:, 3:], weight[:, :3]], 1)), nn.Tanh())
    same(one, fused_by(fusion, 10, turned).run("entanglement"), 1e-4, a="b", b="a")
    assert one["noisy_drive", "a", None].value > one["noisy_drive", "b", None].value + 0.2


def test_the_order_of_examples_does_not_matter() -> None:
    arrays, weight = lopsided()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    moved = {**arrays, "test": {k: v[order] for k, v in arrays["test"].items()}}
    one = fused_by(linear(weight), 10, arrays).run("entanglement")
    same(one, fused_by(linear(weight), 10, moved).run("entanglement"))


def test_how_many_examples_run_at_once_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, weight = lopsided()
    s = fused_by(nn.Sequential(linear(weight), nn.Tanh()), 10, arrays)
    one = s.run("entanglement")
    monkeypatch.setattr(entanglement, "CHUNK", 100)
    same(one, s.run("entanglement"), 1e-5)


def test_other_coordinates_of_the_features_do_not_matter() -> None:
    arrays, weight = lopsided()
    turn = torch.linalg.qr(noise(11, 3, 3))[0]
    moved = {k: {**v, "a": v["a"] @ turn} for k, v in arrays.items()}
    turned = torch.cat([weight[:, :3] @ turn, weight[:, 3:]], 1)
    one = fused_by(linear(weight), 10, arrays).run("entanglement", split="lda")
    other = fused_by(linear(turned), 10, moved).run("entanglement", split="lda")
    for found in (one, other):
        del found["gamma", None, None]  # it counts coordinates
    same(one, other, 1e-4)


def test_an_example_less_moves_the_numbers_by_little() -> None:
    arrays, weight = lopsided()
    fewer = {**arrays, "test": {k: v[:-1] for k, v in arrays["test"].items()}}
    one = fused_by(linear(weight), 10, arrays).run("entanglement")["shared_drive", None, None]
    other = fused_by(linear(weight), 10, fewer).run("entanglement")["shared_drive", None, None]
    assert one.value != other.value
    assert one.interval[0] < other.value < one.interval[1]


def test_what_a_neuron_carries_is_uncertain_where_examples_decide_it() -> None:
    # The noise has just about a tenth of each neuron's drive.
    s = fused_by(linear(picking([{0: 1, 4: 1 / 3}, {3: 1, 1: 1 / 3}, {0: 1, 5: 1 / 3}, {3: 1, 2: 1 / 3}])), 4)
    r = s.run("entanglement")["entangled", None, None]
    assert 0 <= r.interval[0] < r.interval[1] <= 1
    assert r.interval[1] - r.interval[0] > 0.2


def test_the_model_and_its_gradients_stay_as_they_are() -> None:
    s = fused_by(linear(MIXED), 6)
    fused = s.features.fused.clone()
    s.run("entanglement")
    assert all(p.grad is None for p in s.adapter.model.parameters())
    assert torch.equal(s.features.fused, fused)
    assert not any(t.requires_grad for r in s.features.recorded.values() for t in r)
    assert not any(m._forward_hooks for m in s.adapter.model.modules())


# -- what cannot be measured -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fusion", "width", "reason"),
    [
        (linear(torch.zeros(4, 6), torch.ones(4)), 4, "no feature drives any neuron"),
        (Apply(lambda x: torch.sign(x[:, :4]) + 0 * x[:, :4]), 4, "no feature drives any neuron"),
    ],
)
def test_a_fusion_that_features_do_not_move_says_so(fusion: nn.Module, width: int, reason: str) -> None:
    found = fused_by(fusion, width).run("entanglement")
    for name in WHOLE:
        assert reason in found[name, None, None].skipped
    assert ("gradient_sum", None, None) in found


def test_why_nothing_could_be_split() -> None:
    assert "only concatenates" in refusal(fused_by(nn.Identity(), 6), "entanglement")
    bare = {"test": world()["test"]}
    assert "train split" in refusal(fused_by(linear(MIXED), 6, bare), "entanglement")
    arrays = world()
    for split in arrays.values():
        split["label"] = split["label"][torch.randperm(len(split["label"]), generator=torch.Generator().manual_seed(9))]
    assert "none is predictive" in refusal(fused_by(linear(MIXED), 6, arrays), "entanglement")
    detached = fused_by(Apply(lambda x: x[:, :4].detach()), 4)
    assert "no gradient" in refusal(detached, "entanglement")


def test_examples_that_all_belong_together_have_no_interval() -> None:
    arrays = {k: {**v, "who": (torch.arange(len(v["label"])) == 7).long()} for k, v in world().items()}
    s = study(
        Planted(plain("ab"), linear(MIXED), linear(noise(7, 2, 6))), arrays, data={"path": "unused.npz", "group": "who"}
    )
    assert "belong together" in refusal(s, "entanglement", examples=16)


def test_classes_are_needed_for_a_discriminant_only() -> None:
    arrays = {k: {**v, "label": v["a"][:, :1] + 0.3 * v["b"][:, :1]} for k, v in world().items()}
    model = Planted(plain("ab"), linear(MIXED), linear(noise(7, 1, 6)))
    s = study(model, arrays, task="regression")
    assert s.run("entanglement")["entangled", None, None].value == 1
    assert "for classes" in refusal(s, "entanglement", split="lda")


def test_a_layer_that_is_no_matrix_has_no_gradient_sum() -> None:
    class Squared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(6))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * x + x.roll(1, 1)

    s = study(Planted(plain("ab"), Squared(), nn.Identity()), {k: {**v} for k, v in world().items()}, head=None)
    found = s.run("entanglement")
    assert "no layer outside the encoders" in found["gradient_sum", None, None].skipped
    assert found["entangled", None, None].value is not None


def test_what_was_not_read_is_noted() -> None:
    found = fused_by(linear(noise(3, 20, 6)), 20).run("entanglement", neurons=10, examples=64)
    assert found["entangled", None, None].note == "10 of 20 fused neurons read; derivatives at 64 of 256 examples"


class Tokens(nn.Module):
    """Modality b arrives as tokens (n, t, d) of which the fusion reads the mean."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(plain("ab"))
        self.fusion, self.head = linear(weight), linear(noise(7, 2, len(weight)))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(self.fusion(torch.cat([self.encoders["a"](a), self.encoders["b"](b).mean(1)], 1)))


def test_features_over_positions_are_those_of_their_mean() -> None:
    arrays = world()
    tokens = {
        k: {**v, "b": v["b"][:, None] + noise(5, len(v["b"]), 1, 3) * torch.tensor([[1.0], [-1.0]])}
        for k, v in arrays.items()
    }
    config = {"modalities": {"a": "encoders.a", "b": {"encoder": "encoders.b", "channels": "last"}}}
    same(
        fused_by(linear(MIXED), 6, arrays).run("entanglement"),
        study(Tokens(MIXED), tokens, **config).run("entanglement"),
        1e-3,
    )


def test_it_runs_where_it_is_named_only() -> None:
    assert "entanglement" not in {spec.name for spec in choose_probes(None, [])}
    assert [spec.name for spec in choose_probes(["entanglement"], [])] == ["entanglement"]
