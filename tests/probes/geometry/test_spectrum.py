from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from collapsekit.stats.inference.jackknife import interval
from tests.probes.planted import Apply, Planted, Study, linear, noise, plain, study

RANKS = ("effective_rank", "numerical_rank", "stable_rank", "participation_ratio")
N = 240


def data(n: int = N, seed: int = 0) -> dict[str, torch.Tensor]:
    a = noise(seed, n, 5) * torch.tensor([3.0, 1.0, 0.5, 0.1, 0.01]) + 10
    return {"a": a, "b": noise(seed + 1, n, 3) @ noise(2, 3, 3), "label": torch.arange(n) % 2}


def mixed(n: int = N) -> Study:
    fusion = nn.Sequential(linear(noise(5, 6, 8), noise(6, 6)), nn.Tanh())
    return study(Planted(plain("ab"), fusion, linear(noise(7, 2, 6))), {"test": data(n)})


def numpy_ranks(x: np.ndarray, rtol: float = 1e-3) -> dict[str, float]:
    s = np.linalg.svd(x - x.mean(0), compute_uv=False)
    p = s[s > 0] / s.sum()
    return {
        "effective_rank": float(np.exp(-(p * np.log(p)).sum())),
        "numerical_rank": float((s > rtol * s[0]).sum()),
        "stable_rank": float((s**2).sum() / s[0] ** 2),
        "participation_ratio": float((s**2).sum() ** 2 / (s**4).sum()),
    }


def fused(s: Study) -> np.ndarray:
    """The model's own fused activations, computed outside the package, in the order of the features."""
    model, inputs = s.adapter.model, s.features.inputs
    with torch.no_grad():
        return model.fusion(torch.cat([inputs["a"], inputs["b"]], 1)).double().numpy()


def test_ranks_are_those_of_a_numpy_svd_of_the_models_own_activations() -> None:
    s = mixed()
    found = s.run("spectrum")
    for modality, x in ((None, fused(s)), ("a", s.features.inputs["a"].double().numpy())):
        for name, value in numpy_ranks(x).items():
            assert found[name, modality, None].value == pytest.approx(value, rel=1e-6), (name, modality)
        eigenvalues = np.linalg.eigvalsh(np.cov(x.T))[::-1]
        curve = found["eigenvalues", modality, None].curve
        np.testing.assert_allclose(curve.y, eigenvalues / eigenvalues.sum(), rtol=1e-6, atol=1e-12)


def test_interval_is_a_delete_a_group_jackknife_of_the_logarithm() -> None:
    s = mixed()
    x, groups = fused(s), np.arange(N) % 16
    full = np.log(numpy_ranks(x)["effective_rank"])
    out = np.log([numpy_ranks(x[groups != g])["effective_rank"] for g in range(16)])
    ends = interval(float(full), out.tolist())
    bias = 15 * (out.mean() - full)  # the jackknife's; the end on its other side makes up for it
    low, high = s.run("spectrum")["effective_rank", None, None].interval
    assert low == pytest.approx(max(1, np.exp(ends[0] - max(bias, 0))), rel=1e-6)
    assert high == pytest.approx(min(6, np.exp(ends[1] - min(bias, 0))), rel=1e-6)


def test_no_rank_and_no_end_of_an_interval_lies_outside_one_and_d() -> None:
    arrays = {**data(), "a": noise(3, N, 5)}
    s = study(Planted(plain("ab"), linear(noise(5, 2, 8))), {"test": arrays})
    width = {"a": 5, "b": 3, None: 2}
    for (name, m, _), r in s.run("spectrum").items():
        if r.value is not None and name != "spread":
            assert 1 <= r.interval[0] <= r.interval[1] <= width[m], name


def test_rtol_moves_the_numerical_rank_and_is_named() -> None:
    coarse, fine = mixed().run("spectrum", rtol=0.02), mixed().run("spectrum", rtol=1e-4)
    assert coarse["numerical_rank", "a", None].value == 4
    assert fine["numerical_rank", "a", None].value == 5
    assert "0.02·σmax" in coarse["numerical_rank", "a", None].definition


def test_precise_is_the_same_number_and_interval_where_both_resolve_the_spectrum() -> None:
    plain_, precise = mixed().run("spectrum"), mixed().run("spectrum", precise=True)
    for name in RANKS:
        one, other = plain_[name, None, None], precise[name, None, None]
        assert one.value == pytest.approx(other.value, rel=1e-9)
        assert one.interval == pytest.approx(other.interval, rel=1e-6)


def test_precise_resolves_directions_the_scatter_cannot() -> None:
    arrays = data()
    arrays["a"] = (noise(0, N, 2).double() * torch.tensor([1.0, 1e-9])).repeat(1, 1)
    s = study(Planted(plain("ab"), linear(noise(5, 2, 5))), {"test": arrays}, split="test")
    s.features.pooled["a"] = arrays["a"]  # float64, which no float32 model gives
    coarse = s.run("spectrum", rtol=1e-12)["numerical_rank", "a", None]
    precise = s.run("spectrum", rtol=1e-12, precise=True)["numerical_rank", "a", None]
    assert (coarse.value, precise.value) == (1, 2)
    assert precise.interval == (2, 2)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_fusion_that_only_concatenates_is_skipped_with_the_reason(order: list[int]) -> None:
    columns = [list(range(5)), list(range(5, 8))]
    index = columns[order[0]] + columns[order[1]]
    s = study(Planted(plain("ab"), Apply(lambda x: x[:, index]), linear(noise(7, 2, 8))), {"test": data()})
    found = s.run("spectrum")
    for name in RANKS:
        assert "only concatenates" in found[name, None, None].skipped
        assert found[name, "a", None].value is not None


def test_a_product_of_concatenated_features_is_not_a_concatenation() -> None:
    s = study(Planted(plain("ab"), Apply(lambda x: x * 2), linear(noise(7, 2, 8))), {"test": data()})
    assert s.run("spectrum")["effective_rank", None, None].value is not None


def test_few_examples_give_no_rank_and_fewish_ones_a_caveat() -> None:
    found = mixed(9).run("spectrum")
    assert "at least 2·d = 12" in found["effective_rank", None, None].skipped
    assert "found 9" in found["effective_rank", "a", None].skipped
    assert found["effective_rank", "b", None].note == "n = 9 is under 10·d = 30: ranks are biased low"
    assert mixed(60).run("spectrum")["effective_rank", None, None].note is None


def test_the_null_is_the_rank_without_correlation() -> None:
    column = noise(0, N, 1)
    arrays = {**data(), "a": noise(1, N, 5), "b": torch.cat([column, column, column], 1)}
    found = study(Planted(plain("ab"), linear(noise(5, 2, 8))), {"test": arrays}).run("spectrum")
    apart, same = found["null_effective_rank", "a", None], found["null_effective_rank", "b", None]
    assert apart.value == pytest.approx(found["effective_rank", "a", None].value, rel=0.02)
    assert found["effective_rank", "b", None].value == pytest.approx(1)
    assert same.value == pytest.approx(3, rel=0.02)


def test_a_constant_modality_is_skipped_alone() -> None:
    arrays = {**data(), "b": torch.ones(N, 3)}
    found = study(Planted(plain("ab"), linear(noise(5, 2, 8))), {"test": arrays}).run("spectrum")
    assert "constant" in found["effective_rank", "b", None].skipped
    assert not found["effective_rank", "b", None].skipped.endswith(".")
    assert found["effective_rank", "a", None].value is not None


def test_renaming_modalities_renames_results() -> None:
    arrays = data()
    swapped = {"b": arrays["a"], "a": arrays["b"], "label": arrays["label"]}
    fusion = linear(noise(5, 4, 8))
    one = study(Planted(plain("ab"), fusion), {"test": arrays}, task="classification").run("spectrum")
    other = study(Planted(plain("ba"), fusion), {"test": swapped}, task="classification").run("spectrum")
    name = {"a": "b", "b": "a", None: None}
    assert {k: (r.value, r.interval) for k, r in one.items()} == {
        (k, name[m], v): (r.value, r.interval) for (k, m, v), r in other.items()
    }
