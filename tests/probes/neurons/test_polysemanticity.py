from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from collapsekit.probes.neurons.polysemanticity import PolysemanticityOptions, _axes, _fusion_weights
from collapsekit.session.session import Session
from tests.probes.planted import Apply, Planted, Study, linear, noise, plain, refusal, study

N = 256
TRAINED = {"seeds": 3, "hidden": 16, "epochs": 3}
CLASSIFIER = ("cross_entropy", "entropy", "check", "uniform")


def data(modalities: str = "ab", d: int = 6, n: int = N) -> dict[str, dict[str, Tensor]]:
    out = {}
    for k, split in enumerate(("train", "test")):
        x = {m: noise(10 * k + i, n, d) for i, m in enumerate(modalities)}
        # Unlike spectra, so that there is something by which weights on one and on the other can be told apart.
        x["a"] = x["a"] * torch.linspace(3, 0.1, d)
        label = (x["a"][:, 0] > 0).long() + (x[modalities[-1]][:, -1] > 0).long()
        out[split] = {**x, "label": label}
    return out


def separate(d: int = 6, m: int = 2, each: int = 8) -> Tensor:
    """Weights of ``each`` neurons a modality that read nothing else."""
    return torch.block_diag(*(noise(20 + i, each, d) for i in range(m)))


def fused_by(fusion: nn.Module, width: int, arrays: dict[str, dict[str, Tensor]], modalities: str = "ab") -> Study:
    return study(Planted(plain(modalities), fusion, linear(noise(7, 3, width))), arrays)


def test_neurons_of_one_modality_each_are_not_shared() -> None:
    found = fused_by(nn.Sequential(linear(separate()), nn.ReLU()), 16, data()).run("polysemanticity")
    assert found["drive_entropy", None, None].value == pytest.approx(0, abs=1e-9)
    assert found["cross_modal_fraction", None, None].value == 0
    for m in "ab":
        line = found["neurons", m, None].curve.y
        np.testing.assert_allclose(line, [1.0] * 8 + [0.0] * 8, atol=1e-9)


@pytest.mark.parametrize("modalities", ["ab", "abc"])
def test_neurons_that_read_all_alike_are_shared_in_full(modalities: str) -> None:
    m = len(modalities)
    arrays = data(modalities)
    for split in arrays.values():
        for k in modalities:
            split[k] = split[modalities[-1]][torch.randperm(N, generator=torch.Generator().manual_seed(ord(k)))]
    one = noise(3, 8, 6)
    found = fused_by(linear(torch.cat([one] * m, 1)), 8, arrays, modalities).run("polysemanticity", draws=40)
    assert found["drive_entropy", None, None].value == pytest.approx(math.log(m), abs=0.01)
    assert found["cross_modal_fraction", None, None].value == 1
    for k in modalities:
        assert found["drive", k, None].value == pytest.approx(1 / m, abs=0.03)


def test_drive_of_a_linear_fusion_is_the_variance_it_carries() -> None:
    n = 1500
    arrays, weight = data(n=n), noise(3, 5, 12)
    found = fused_by(linear(weight), 5, arrays).run("polysemanticity", draws=30)
    x, w = arrays["test"], weight.double().numpy()
    variance = {
        m: np.diag(w[:, i : i + 6] @ np.cov(x[m].double().numpy().T) @ w[:, i : i + 6].T)
        for m, i in (("a", 0), ("b", 6))
    }
    total = variance["a"] + variance["b"]
    for m in "ab":
        assert found["drive", m, None].value == pytest.approx(variance[m].sum() / total.sum(), abs=0.01)
        expected = np.sort(variance[m] / total)[::-1]
        np.testing.assert_allclose(found["neurons", m, None].curve.y, expected, atol=0.02)
    assert sum(found["drive", m, None].value for m in "ab") == pytest.approx(1, abs=1e-12)


def test_neurons_that_nothing_moves_are_left_out_and_counted() -> None:
    weight = separate()
    weight[3] = 0
    found = fused_by(linear(weight), 16, data()).run("polysemanticity")
    assert len(found["neurons", "a", None].curve.y) == 15
    assert found["drive_entropy", None, None].note == "1 of 16 fused neurons that no modality moves left out"


def test_a_constant_fusion_is_refused() -> None:
    s = fused_by(linear(torch.zeros(4, 12), torch.ones(4)), 4, data())
    assert "no modality drives any dimension" in refusal(s, "polysemanticity")


def test_a_concatenation_is_refused() -> None:
    assert "only concatenates" in refusal(fused_by(nn.Identity(), 12, data()), "polysemanticity")


def test_a_neuron_driven_within_one_group_of_examples_alone_does_not_break_the_jackknife() -> None:
    # Example 0 alone is moved: leaving its group out leaves that neuron no drive, up to the sign of rounding.
    arrays = data()
    for split in arrays.values():
        split["a"][:, 0] = 0
        split["a"][5, 0] = 1
    weight = separate()
    weight[0] = 0
    weight[0, 0] = 1e-3
    found = fused_by(linear(weight), 16, arrays).run("polysemanticity", draws=1)
    assert found["drive_entropy", None, None].value >= 0


def test_weights_are_the_weight_matrix_of_a_linear_fusion() -> None:
    weight = noise(3, 5, 12)
    s = fused_by(linear(weight, noise(4, 5)), 5, data())
    found = _fusion_weights(Session.of(s.adapter, s.features), PolysemanticityOptions())
    np.testing.assert_allclose(found["a"].numpy(), weight[:, :6].numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["b"].numpy(), weight[:, 6:].numpy(), rtol=1e-4, atol=1e-5)


class Tokens(nn.Module):
    """Modality b arrives as tokens (n, t, d) of which the fusion reads the mean; its encoder also says a summary."""

    def __init__(self, weight: Tensor, head: Tensor) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"a": nn.Identity(), "b": Apply(lambda x: (x, x[:, :, :2]))})
        self.fusion, self.head = linear(weight), linear(head)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        tokens, summary = self.encoders["b"](b)
        return self.head(self.fusion(torch.cat([self.encoders["a"](a), tokens.mean(1) + 0 * summary.sum()], 1)))


@pytest.mark.parametrize("pool", ["mean", "max", "first"])
def test_weights_on_tokens_are_by_moving_them_all(pool: str) -> None:
    arrays = data()
    for k, split in enumerate(arrays.values()):
        split["b"] = noise(50 + k, N, 4, 6)
    weight = noise(3, 5, 12)
    config = {"modalities": {"a": "encoders.a", "b": {"encoder": "encoders.b", "pool": pool}}}
    s = study(Tokens(weight, noise(7, 3, 5)), arrays, **config)
    found = _fusion_weights(Session.of(s.adapter, s.features), PolysemanticityOptions(neurons=3))
    np.testing.assert_allclose(found["b"].numpy(), weight[[0, 2, 4], 6:].numpy(), rtol=1e-4, atol=1e-5)


def test_axes_are_principal_and_scaled_by_their_deviation() -> None:
    x = noise(0, 500, 5) @ noise(1, 5, 5) + 7
    axes = _axes(x, 3).numpy()
    values = np.linalg.eigvalsh(np.cov(x.double().numpy().T, bias=True))[::-1]
    np.testing.assert_allclose(axes.T @ axes, np.diag(values[:3]), atol=1e-6 * values[0])


def test_weights_as_unimodal_models_have_them_are_told_and_exchanged_ones_are_confident_errors() -> None:
    arrays = data()
    usual = noise(30, 16, 6)
    exchanged = torch.block_diag(usual / torch.linspace(3, 0.1, 6), usual * torch.linspace(3, 0.1, 6))
    options = {"profile": "standard", **TRAINED}
    own = fused_by(linear(torch.block_diag(usual, usual)), 32, arrays).run("polysemanticity", **options)
    error = fused_by(linear(exchanged), 32, arrays).run("polysemanticity", **options)
    uniform = math.log(2)
    assert own["uniform", None, None].value == pytest.approx(uniform)
    assert own["check", None, None].value < 0.8 * uniform
    assert own["cross_entropy", None, None].value < 0.8 * uniform
    assert error["cross_entropy", None, None].value > 1.5 * uniform
    for found in (own, error):  # either way the answer is a sure one
        assert 0 <= found["entropy", None, None].value < 0.8 * uniform


def test_modalities_whose_features_are_alike_cannot_be_told_by_weights() -> None:
    turn = torch.randperm(N, generator=torch.Generator().manual_seed(5))
    arrays = {k: {**v, "b": v["a"][turn], "label": (v["a"][:, 0] > 0).long()} for k, v in data().items()}
    one = noise(31, 32, 6)
    found = fused_by(linear(torch.cat([one, one], 1)), 32, arrays).run("polysemanticity", profile="standard", **TRAINED)
    assert found["check", None, None].value > 0.8 * math.log(2)
    assert found["drive_entropy", None, None].value == pytest.approx(math.log(2), abs=0.05)


def test_a_modality_without_weights_is_named_and_a_fusion_without_any_is_skipped() -> None:
    weight = separate()
    weight[8:] = 0
    found = fused_by(linear(weight), 16, data()).run("polysemanticity", profile="standard", **TRAINED)
    assert "no fused neuron has weights on b" in found["cross_entropy", None, None].note
    arrays = data()
    stepped = nn.Sequential(linear(separate()), Apply(lambda x: (x > 0).float()))
    found = fused_by(stepped, 16, arrays).run("polysemanticity", profile="standard", **TRAINED)
    for name in CLASSIFIER:
        assert "no gradient" in found[name, None, None].skipped
    assert found["drive", "a", None].value > 0


def test_constant_features_have_no_unimodal_weights() -> None:
    arrays = data()
    for split in arrays.values():
        split["b"] = torch.ones(N, 6)
        split["label"] = (split["a"][:, 0] > 0).long()
    found = fused_by(linear(noise(3, 5, 12)), 5, arrays).run("polysemanticity", profile="standard", **TRAINED)
    assert "the features of b do not vary" in found["cross_entropy", None, None].skipped
    assert found["drive", "b", None].value == 0


def test_quick_and_narrow_and_no_train_split_skip_the_classifier_alone() -> None:
    fusion = linear(separate())
    quick = fused_by(fusion, 16, data()).run("polysemanticity")
    no_train = fused_by(fusion, 16, {"test": data()["test"]}).run("polysemanticity", profile="standard")
    narrow = {k: {**v, "a": v["a"][:, :1]} for k, v in data().items()}
    narrow = fused_by(linear(noise(3, 5, 7)), 5, narrow).run("polysemanticity", profile="standard")
    for found, why in ((quick, "profile quick"), (no_train, "no train split"), (narrow, "one feature only")):
        for name in CLASSIFIER:
            assert why in found[name, None, None].skipped
        assert found["drive", "a", None].value is not None


def test_renaming_modalities_renames_results() -> None:
    arrays = data()
    swapped = {s: {"b": x["a"], "a": x["b"], "label": x["label"]} for s, x in arrays.items()}
    fusion, head = linear(noise(3, 5, 12)), linear(noise(7, 3, 5))
    one = study(Planted(plain("ab"), fusion, head), arrays).run("polysemanticity")
    other = study(Planted(plain("ba"), fusion, head), swapped).run("polysemanticity")
    for m, n in (("a", "b"), ("b", "a")):
        assert one["drive", m, None].value == pytest.approx(other["drive", n, None].value, abs=1e-12)
        assert one["neurons", m, None].curve == other["neurons", n, None].curve
    assert one["drive_entropy", None, None].value == pytest.approx(other["drive_entropy", None, None].value, abs=1e-12)
