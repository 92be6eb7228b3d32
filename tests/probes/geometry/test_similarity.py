from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from torch import Tensor, nn

from collapsekit.errors import ConfigError
from tests.probes.geometry.test_rank_sweep import brute_force_cka
from tests.probes.planted import Apply, Key, Planted, Study, linear, noise, plain, study

N = 160
BETAS = (0.0, 1.0, 3.0)
GRID = {"betas": BETAS, "modality": "b"}


def data(n: int = N, d: int = 4) -> dict[str, Tensor]:
    x = {"a": noise(0, n, d) + 3, "b": noise(1, n, d)}
    return {**x, "label": (x["a"][:, 0] + 0.3 * x["b"][:, 0] > 3).long()}


def mixing(scale_b: float = 1.0, arrays: dict[str, Tensor] | None = None, fused: int = 4) -> Study:
    """Two modalities of four dimensions, fused into as many."""
    arrays = arrays or data()
    width = sum(x.shape[1] for m, x in arrays.items() if m != "label")
    weight = noise(5, fused, width) * 0.4
    weight[:, 4:] *= scale_b
    modalities = [m for m in arrays if m != "label"]
    fusion = nn.Sequential(linear(weight, noise(6, fused) - weight[:, :4].sum(1) * 3), nn.Tanh())
    return study(Planted(plain(modalities), fusion, linear(noise(7, 2, fused))), {"test": arrays})


def run(s: Study, grid: dict[str, object] | None = None, **options: object) -> dict[Key, object]:
    found = s.results("similarity", {"similarity": options, "rank_sweep": grid or GRID})
    return {(r.name.removeprefix("similarity."), r.modality, r.versus): r for r in found}


def by_scipy(x: Tensor, y: Tensor) -> float:
    a, b = (t.double().numpy() - t.double().numpy().mean(0) for t in (x, y))
    turned = a @ orthogonal_procrustes(a, b)[0]
    return float(((turned * b).sum(1) / np.linalg.norm(turned, axis=1) / np.linalg.norm(b, axis=1)).mean())


def test_cka_is_that_of_the_kernels_and_the_cosine_that_of_scipy() -> None:
    s = mixing()
    found, f = run(s), s.features
    for m in "ab":
        x = f.inputs[m]
        assert found["cka", m, None].value == pytest.approx(
            brute_force_cka(x.double().numpy(), f.fused.double().numpy()), abs=1e-6
        )
        assert found["procrustes", m, None].value == pytest.approx(by_scipy(x, f.fused), abs=1e-6)
    a, b = (f.inputs[m].double() for m in "ab")
    assert found["cka", "a", "b"].value == pytest.approx(brute_force_cka(a.numpy(), b.numpy()), abs=1e-9)
    assert found["procrustes", "a", "b"].value == pytest.approx(by_scipy(a, b), abs=1e-9)


def test_each_pair_is_one_number_told_of_either() -> None:
    found = run(mixing(arrays={**data(), "c": noise(2, N, 4)}), sweep=False)
    pairs = {(m, v) for _, m, v in found if v is not None}
    assert pairs == {(a, b) for a in "abc" for b in "abc" if a != b}
    for name in ("cka", "procrustes", "procrustes_null"):
        for a, b in pairs:
            one, other = found[name, a, b], found[name, b, a]
            assert (one.value, one.interval) == (other.value, other.interval)


def test_a_modality_that_the_fusion_only_turns_is_wholly_alike_and_another_no_more_than_chance() -> None:
    turn = torch.linalg.qr(noise(3, 4, 4))[0]
    for alike, other, weight in (("a", "b", [turn, 0 * turn]), ("b", "a", [0 * turn, turn])):
        fusion = linear(torch.cat(weight, 1))
        s = study(Planted(plain("ab"), fusion, linear(noise(7, 2, 4))), {"test": data()})
        found = run(s, sweep=False)
        assert found["procrustes", alike, None].value == pytest.approx(1, abs=1e-6)
        assert found["cka", alike, None].value == pytest.approx(1, abs=1e-6)
        low, high = found["procrustes_null", other, None].interval
        assert low - 0.05 < found["procrustes", other, None].value < high + 0.05
        assert abs(found["cka", other, None].value) < 0.05
        assert found["procrustes_null", alike, None].value < 0.3


def test_the_interval_narrows_with_examples_and_holds_what_many_give() -> None:
    few, many = mixing(), mixing(arrays=data(4000))
    for name in ("cka", "procrustes"):
        one, other = (run(s, sweep=False)[name, "a", None] for s in (few, many))
        assert one.interval[1] - one.interval[0] > 2 * (other.interval[1] - other.interval[0])
        assert one.interval[0] - 0.05 < other.value < one.interval[1] + 0.05
        assert other.interval[0] < other.value < other.interval[1] <= 1


def test_no_interval_goes_beyond_what_a_similarity_can_be() -> None:
    fusion, arrays = linear(torch.cat([torch.eye(4), 0.3 * torch.eye(4)], 1)), data(16)
    found = run(study(Planted(plain("ab"), fusion, linear(noise(7, 2, 4))), {"test": arrays}))
    for name in ("cka", "procrustes"):
        one = found[name, "a", None]
        assert 0.9 < one.value < one.interval[1] < 1
    curve = found["procrustes_sweep", "b", "a"].curve
    assert 0.9 < curve.y[1] < curve.upper[1] < 1


def test_two_modalities_that_swap_names_swap_results() -> None:
    arrays = data()
    swapped = {"a": arrays["b"], "b": arrays["a"], "label": arrays["label"]}
    model = mixing(0.3).adapter.model
    weight, bias = model.fusion[0].weight.detach(), model.fusion[0].bias.detach()
    turned = nn.Sequential(linear(torch.cat([weight[:, 4:], weight[:, :4]], 1), bias), nn.Tanh())
    one = run(mixing(0.3), {"betas": BETAS})
    other = run(study(Planted(plain("ab"), turned, model.head), {"test": swapped}), {"betas": BETAS})
    names = {"a": "b", "b": "a", None: None}
    assert {(name, names[m], names[v]) for name, m, v in one} == set(other)
    assert one["cka", "a", None].value > one["cka", "b", None].value + 0.1
    for (name, m, v), r in one.items():
        mate = other[name, names[m], names[v]]
        if r.curve is not None:
            assert r.curve.y == pytest.approx(mate.curve.y, abs=1e-6)
        else:
            assert (r.value, *r.interval) == pytest.approx((mate.value, *mate.interval), abs=1e-6)


def test_the_sweep_is_of_what_the_model_makes_of_more_of_a_modality() -> None:
    s = mixing()
    found, x = run(s), s.features.inputs
    for m in "ab":
        curve = found["procrustes_sweep", "b", m].curve
        assert curve.x == BETAS
        for at, beta in enumerate(BETAS):
            with torch.no_grad():
                fused = s.adapter.model.fusion(torch.cat([x["a"], beta * x["b"]], 1))
            assert curve.y[at] == pytest.approx(by_scipy(x[m], fused), abs=1e-6)
        at_one = found["procrustes", m, None]
        assert (curve.y[1], curve.lower[1], curve.upper[1]) == pytest.approx((at_one.value, *at_one.interval), abs=1e-5)


def test_more_weight_makes_the_fusion_more_like_the_modality() -> None:
    found = run(mixing(0.05), {"betas": (1, 10, 40), "modality": "b"})
    assert np.all(np.diff(found["procrustes_sweep", "b", "b"].curve.y) > 0.05)
    assert np.all(np.diff(found["procrustes_sweep", "b", "a"].curve.y) < -0.05)


def test_what_is_swept_is_what_rank_sweep_sweeps() -> None:
    arrays, model = data(), mixing(0.01).adapter.model
    with torch.no_grad():
        arrays["label"] = model(a=arrays["a"], b=arrays["b"]).argmax(1)  # the model is right, by a
    s = mixing(0.01, arrays)
    for modality, swept in ((None, {"b"}), ("a", {"a"}), ("all", {"a", "b"})):
        grid = {"betas": (0, 1), "modality": modality}
        assert {m for name, m, _ in run(s, grid) if name == "procrustes_sweep"} == swept
        assert {r.modality for r in s.results("rank_sweep", {"rank_sweep": grid})} == swept
    with pytest.raises(ConfigError, match="did you mean 'b'"):
        run(s, {"modality": "bb"})
    assert not {name for name, _, _ in run(s, sweep=False)} & {"procrustes_sweep"}


def test_a_beta_that_leaves_nothing_is_left_out_and_named() -> None:
    found = run(mixing(0.0), {"betas": (0, 1, 2), "modality": "a"})  # without a the fused representation is constant
    r = found["procrustes_sweep", "a", "a"]
    assert r.curve.x == (1, 2)
    assert "β = 0" in r.note
    s = study(Planted(plain("ab"), linear(noise(5, 4, 8)), linear(noise(7, 2, 4))), {"test": data()})
    assert run(s, {"betas": (1, 1e39), "modality": "a"})["procrustes_sweep", "a", "a"].curve.x == (1,)


def test_widths_that_disagree_leave_the_cka_and_a_reason() -> None:
    arrays = {**data(), "c": noise(2, N, 3)}
    found = run(mixing(arrays=arrays))
    assert "found 4 and 3" in found["procrustes", "a", "c"].skipped
    assert "found 3 and 4" in found["procrustes", "c", None].skipped
    assert "found 3 and 4" in found["procrustes_sweep", "b", "c"].skipped
    assert found["procrustes_sweep", "b", "b"].curve is not None
    assert found["cka", "a", "c"].value is not None
    assert ("procrustes_null", "a", "c") not in found
    none = run(mixing(arrays=arrays, fused=6))
    assert "found 3, 4 and 6 dimensions" in none["procrustes_sweep", None, None].skipped
    wide = run(mixing(), widest=3)
    assert "similarity.widest = 3" in wide["procrustes", "a", None].skipped
    assert "similarity.widest = 3" in wide["procrustes_sweep", None, None].skipped


def test_a_concatenation_is_said_to_tell_of_scale_only() -> None:
    s = study(Planted(plain("ab"), nn.Identity(), linear(noise(7, 2, 8))), {"test": data()})
    found = run(s)
    for m in "ab":
        assert "side by side" in found["cka", m, None].note
    assert found["cka", "a", "b"].note is None
    assert run(mixing())["cka", "a", None].note is None


def test_constant_features_are_named() -> None:
    found = run(mixing(arrays={**data(), "b": torch.ones(N, 4)}), {"betas": (1, 2), "modality": "a"})
    for key in (("cka", "a", "b"), ("procrustes", "b", "a"), ("cka", "b", None)):
        assert found[key].skipped == f"the features of b did not vary over {N} examples"
    assert "constant" in found["procrustes_sweep", "a", "b"].skipped
    assert found["cka", "a", None].value is not None
    fixed = study(Planted(plain("ab"), Apply(lambda x: x[:, :4] * 0), linear(noise(7, 2, 4))), {"test": data()})
    assert run(fixed, sweep=False)["cka", "a", None].skipped.startswith("the fused representation did not vary")


@pytest.mark.parametrize("n", [2, 3, 5, 9])
def test_few_examples_give_reasons_or_numbers_but_nothing_else(n: int) -> None:
    found = run(mixing(arrays={**data(n), "label": torch.arange(n) % 2}))
    if n == 2:
        assert "at least 4 examples" in found["cka", "a", None].skipped
        assert "at least 3 examples" in found["procrustes", "a", None].skipped
    if n == 9:
        assert found["procrustes", "a", None].value > 0.5
