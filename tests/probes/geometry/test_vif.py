from __future__ import annotations

import numpy as np
import pytest
import torch
from statsmodels.stats.outliers_influence import variance_inflation_factor
from torch import nn

from tests.probes.planted import Planted, Study, linear, noise, plain, study

N = 300


def data(n: int = N) -> dict[str, torch.Tensor]:
    return {"a": noise(0, n, 4) + 5, "b": noise(1, n, 3), "label": torch.arange(n) % 2}


def mixed(weight: torch.Tensor, bias: torch.Tensor | None = None, n: int = N) -> Study:
    fusion = nn.Sequential(linear(weight, bias), nn.Tanh())
    return study(Planted(plain("ab"), fusion, linear(noise(7, 2, len(weight)))), {"test": data(n)})


def fused(s: Study) -> np.ndarray:
    with torch.no_grad():
        x = torch.cat([s.features.inputs["a"], s.features.inputs["b"]], 1)
        return s.adapter.model.fusion(x).double().numpy()


def test_values_are_those_of_statsmodels_on_the_models_own_activations() -> None:
    s = mixed(noise(5, 6, 7) * 0.2)
    design = np.column_stack([np.ones(N), fused(s)])
    expected = np.array([variance_inflation_factor(design, i + 1) for i in range(6)])
    found = s.run("vif")
    np.testing.assert_allclose(found["per_feature", None, None].curve.y, expected, rtol=1e-6)
    for name, summary in (("mean", np.mean), ("median", np.median), ("max", np.max)):
        r = found[name, None, None]
        assert r.value == pytest.approx(summary(expected), rel=1e-6)
        assert r.interval[0] >= 1
        assert r.definition.startswith(name)


def test_constant_neurons_are_left_out_and_listed() -> None:
    weight = noise(5, 5, 7) * 0.2
    weight[2] = 0
    s = mixed(weight, torch.full((5,), 0.3))
    design = np.column_stack([np.ones(N), np.delete(fused(s), 2, 1)])
    found = s.run("vif")
    assert found["mean", None, None].note == "1 constant neurons left out: 2"
    assert found["per_feature", None, None].curve.x == (0, 1, 3, 4)
    expected = [variance_inflation_factor(design, i + 1) for i in range(4)]
    assert found["mean", None, None].value == pytest.approx(np.mean(expected), rel=1e-6)


def test_a_copied_neuron_gives_a_bound() -> None:
    weight = noise(5, 5, 7) * 0.2
    weight[3] = weight[1]
    found = mixed(weight).run("vif")
    assert "lower bounds" in found["max", None, None].note
    assert found["max", None, None].value > 1e6
    assert np.isfinite(found["max", None, None].interval[1])


def test_independent_neurons_have_a_factor_near_one() -> None:
    s = study(Planted(plain("ab"), linear(2 * torch.eye(7)), linear(noise(7, 2, 7))), {"test": data(3000)})
    assert s.run("vif")["mean", None, None].value == pytest.approx(1, abs=0.02)


def test_a_fusion_that_only_concatenates_is_skipped_with_the_reason() -> None:
    found = study(Planted(plain("ab"), nn.Identity(), linear(noise(7, 2, 7))), {"test": data()}).run("vif")
    assert set(found) == {(k, None, None) for k in ("mean", "median", "max")}
    assert all("only concatenates" in r.skipped for r in found.values())


def test_few_examples_give_no_number_and_fewish_ones_a_caveat() -> None:
    assert "at least 2·d = 12" in mixed(noise(5, 6, 7), n=11).run("vif")["mean", None, None].skipped
    assert "biased up" in mixed(noise(5, 6, 7) * 0.2, n=40).run("vif")["mean", None, None].note


@pytest.mark.parametrize("width", [1, 2])
def test_fewer_than_two_neurons_that_vary_is_a_reason(width: int) -> None:
    weight = torch.zeros(width, 7)
    weight[0, 0] = 1
    found = mixed(weight).run("vif")
    assert "two features that vary" in found["mean", None, None].skipped
