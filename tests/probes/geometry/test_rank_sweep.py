from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from collapsekit.diagnosis import check_options
from collapsekit.errors import ConfigError, NumericsError
from collapsekit.interventions.replay import predict
from collapsekit.probes.geometry.rank_sweep import critical_beta
from tests.probes.planted import Planted, Study, linear, noise, plain, refusal, study

N = 200
CHEAP = {"betas": (0, 1, 3), "modality": "b"}


def data(n: int = N) -> dict[str, torch.Tensor]:
    x = {"a": noise(0, n, 4), "b": noise(1, n, 3)}
    return {**x, "label": (x["a"][:, 0] + 0.3 * x["b"][:, 0] > 0).long()}


def model(scale_b: float = 1.0) -> Planted:
    weight = noise(5, 6, 7)
    weight[:, 4:] *= scale_b
    return Planted(plain("ab"), nn.Sequential(linear(weight, noise(6, 6)), nn.Tanh()), linear(noise(7, 2, 6)))


def mixed(n: int = N, scale_b: float = 1.0) -> Study:
    return study(model(scale_b), {"test": data(n)})


def own(s: Study, beta: float) -> torch.Tensor:
    """What the model itself makes of b times β, without the package."""
    with torch.no_grad():
        return s.adapter.model.fusion(torch.cat([s.features.inputs["a"], beta * s.features.inputs["b"]], 1))


def test_beta_one_is_what_the_spectrum_and_the_task_say() -> None:
    s = mixed()
    found, spectrum, reliance = s.run("rank_sweep", **CHEAP), s.run("spectrum"), s.run("reliance", draws=2)
    for name in ("effective_rank", "numerical_rank", "stable_rank", "participation_ratio"):
        r, curve = spectrum[name, None, None], found[name, "b", None].curve
        assert (curve.y[1], curve.lower[1], curve.upper[1]) == pytest.approx((r.value, *r.interval), rel=1e-6)
    assert found["loss", "b", None].curve.y[1] == pytest.approx(reliance["full_loss", None, None].value, rel=1e-6)
    assert found["metric", "b", None].curve.y[1] == reliance["full_metric", None, None].value


@pytest.mark.parametrize(("at", "beta"), [(0, 0.0), (2, 3.0)])
def test_other_betas_are_the_models_own_answer_to_scaled_features(at: int, beta: float) -> None:
    s = mixed()
    found, x = s.run("rank_sweep", **CHEAP), own(s, beta)
    sigma = np.linalg.svd(x.double().numpy() - x.double().numpy().mean(0), compute_uv=False)
    assert found["stable_rank", "b", None].curve.y[at] == pytest.approx((sigma**2).sum() / sigma[0] ** 2, rel=1e-5)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(s.adapter.model.head(x), s.features.targets)
    assert found["loss", "b", None].curve.y[at] == pytest.approx(float(loss), rel=1e-5)


def brute_force_cka(x: np.ndarray, y: np.ndarray) -> float:
    """From the n by n kernels (Song et al. 2012, eq. 5)."""

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        n = len(k)
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        return (np.trace(k @ m) + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) @ m.sum(1))) / (
            n * (n - 3)
        )

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


@pytest.mark.parametrize("modality", ["a", "b"])
def test_cka_is_that_of_the_kernels(modality: str) -> None:
    s = mixed()
    curve = s.run("rank_sweep", **CHEAP)["cka", "b", modality].curve
    x = s.features.inputs[modality].double().numpy()
    for at, beta in enumerate((0.0, 1.0, 3.0)):
        assert curve.y[at] == pytest.approx(brute_force_cka(x, own(s, beta).double().numpy()), abs=1e-6)


def test_more_weight_makes_the_fusion_more_like_the_modality() -> None:
    found = mixed(scale_b=0.05).run("rank_sweep", betas=(1, 10, 40), modality="b")
    assert np.all(np.diff(found["cka", "b", "b"].curve.y) > 0)
    assert np.all(np.diff(found["cka", "b", "a"].curve.y) < 0)


def test_the_least_used_modality_is_swept_unless_told_otherwise() -> None:
    s = mixed(scale_b=0.01)
    assert {m for _, m, _ in s.run("rank_sweep", betas=(0, 1))} == {"b"}
    assert {m for _, m, _ in s.run("rank_sweep", betas=(0, 1), modality="a")} == {"a"}
    assert {m for _, m, _ in s.run("rank_sweep", betas=(0, 1), modality="all")} == {"a", "b"}


def test_unimodal_path_has_the_others_at_their_mean() -> None:
    s = mixed()
    with torch.no_grad():
        held = s.features.inputs["a"].mean(0, keepdim=True).expand(N, -1)
        x = s.adapter.model.fusion(torch.cat([held, s.features.inputs["b"]], 1)).double().numpy()
    sigma = np.linalg.svd(x - x.mean(0), compute_uv=False)
    found = s.run("rank_sweep", rtol=0.05, **CHEAP)
    assert found["unimodal_rank", "b", None].value == (sigma > 0.05 * sigma[0]).sum()


def test_a_sweep_down_to_the_unimodal_rank_is_found() -> None:
    # A linear fusion of 4 and 3 dimensions: rank 6 as it is, rank 3 once b drowns a.
    s = study(Planted(plain("ab"), linear(noise(5, 6, 7)), linear(noise(7, 2, 6))), {"test": data()})
    found = s.run("rank_sweep", betas=(1, 10, 100, 1e5, 1e6), modality="b")
    r = found["critical_beta", "b", None]
    assert found["unimodal_rank", "b", None].value == 3
    assert found["numerical_rank", "b", None].curve.y[0] == 6
    assert r.interval[0] < r.value <= r.interval[1]
    assert found["numerical_rank", "b", None].curve.y[-1] == 3


def test_critical_beta_on_curves_made_by_hand() -> None:
    betas = (0.5, 1.0, 2.0, 4.0)
    assert critical_beta(betas, [9, 8, 8, 4], 6) == (3.0, (2.0, 4.0))
    assert critical_beta(betas, [9, 8, 6, 4], 6) == (2.0, (1.0, 2.0))  # a tie is reached, not passed
    assert critical_beta(betas, [1, 8, 6, 8], 6)[0] == 2.0  # below β = 1 nothing counts; the first fall does


@pytest.mark.parametrize(
    ("betas", "ranks", "said"),
    [
        ((0.5, 1.0, 2.0), [9, 8, 7], "stays above that of the unimodal path (6) up to β = 2"),
        ((0.5, 1.0, 2.0), [9, 6, 3], "already at β = 1"),
        ((0.5, 1.0, 2.0), [9, 5, 8], "already at β = 1"),
        ((0.0, 0.5), [9, 5], "fewer than two values of β from 1 on"),
        ((0.0, 0.5, 3.0), [9, 7, 5], "fewer than two values of β from 1 on"),
    ],
)
def test_no_critical_beta_says_why(betas: tuple[float, ...], ranks: list[float], said: str) -> None:
    with pytest.raises(NumericsError) as e:
        critical_beta(betas, ranks, 6)
    assert said in str(e.value)


@given(st.lists(st.integers(1, 20), min_size=2, max_size=8), st.integers(1, 20))
def test_a_critical_beta_is_a_crossing(ranks: list[int], floor: int) -> None:
    betas = tuple(1.0 + k for k in range(len(ranks)))
    try:
        value, (low, high) = critical_beta(betas, [float(r) for r in ranks], floor)
    except NumericsError:
        assert ranks[0] <= floor or min(ranks) > floor
        return
    i = betas.index(low)
    assert betas[i + 1] == high
    assert low < value <= high
    assert ranks[i] > floor >= ranks[i + 1]
    assert min(ranks[: i + 1]) > floor


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"betas": "1,two"}, "betas"),
        ({"betas": "1"}, "two different values"),
        ({"betas": "1,1"}, "two different values"),
        ({"betas": "1,-2"}, "none negative"),
        ({"betas": "1,nan"}, "finite"),
        ({"betas": "1,inf"}, "finite"),
        ({"beta": 1}, "did you mean 'betas'"),
        ({"mode": "both"}, "mode"),
        ({"rtol": 1.5}, "rtol"),
        ({"rate": float("inf")}, "rate"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as e:
        check_options({"rank_sweep": options})
    assert said in str(e.value)


def test_betas_may_be_typed_in_any_order() -> None:
    assert check_options({"rank_sweep": {"betas": "4, 0.5,1,1"}})["rank_sweep"].betas == (0.5, 1.0, 4.0)


def test_an_unknown_modality_is_the_users_to_mend() -> None:
    with pytest.raises(ConfigError) as e:
        mixed().run("rank_sweep", modality="bb")
    assert "did you mean 'b'" in str(e.value)


def test_a_beta_that_leaves_nothing_is_left_out_of_the_ranks_and_named() -> None:
    s = mixed(scale_b=0.0)  # without a the fused representation is constant
    found = s.run("rank_sweep", betas=(0, 1, 2), modality="all")
    curve = found["effective_rank", "a", None]
    assert curve.curve.x == (1, 2)
    assert "β = 0" in curve.note
    assert found["loss", "a", None].curve.x == (0, 1, 2)
    assert "does not vary with this modality alone" in found["unimodal_rank", "b", None].skipped
    assert "does not vary with this modality alone" in found["critical_beta", "b", None].skipped


def test_a_beta_that_overflows_is_left_out() -> None:
    s = study(Planted(plain("ab"), linear(noise(5, 6, 7)), linear(noise(7, 2, 6))), {"test": data()})
    assert s.run("rank_sweep", betas=(1, 1e39), modality="b")["metric", "b", None].curve.x == (1,)


def test_constant_features_have_no_similarity_and_say_so() -> None:
    s = study(model(), {"test": {**data(), "b": torch.ones(N, 3)}})
    found = s.run("rank_sweep", betas=(1, 2), modality="a")
    assert "constant" in found["cka", "a", "b"].skipped
    assert found["cka", "a", "a"].curve is not None


def test_concatenations_and_few_examples_are_refused() -> None:
    s = study(Planted(plain("ab"), nn.Identity(), linear(noise(7, 2, 7))), {"test": data()})
    assert "only concatenates" in refusal(s, "rank_sweep")
    assert "at least 2·d = 12" in refusal(mixed(11), "rank_sweep")


FACTORY = """
from tests.probes.geometry.test_rank_sweep import model
def build():
    return model()
"""


def test_train_mode_trains_a_fusion_for_every_beta(tmp_path: Path) -> None:
    (tmp_path / "sweep_factory.py").write_text(FACTORY)
    arrays = {"test": data(), "train": data(150)}
    for x in arrays.values():
        x["label"] = (x["b"][:, 0] > 0).long()
    s = study(model(scale_b=0.0), arrays, factory="sweep_factory:build", base=tmp_path)
    before = [p.clone() for p in s.adapter.model.parameters()]
    scale = s.run("rank_sweep", betas=(0, 4), modality="b")
    train = s.run("rank_sweep", betas=(0, 4), modality="b", mode="train", epochs=30, rate=0.02)
    assert all(torch.equal(a, b) for a, b in zip(before, s.adapter.model.parameters(), strict=True))
    # b is wired to nothing in this checkpoint; a new fusion reads it.
    assert scale["loss", "b", None].curve.y[0] == pytest.approx(scale["loss", "b", None].curve.y[1])
    assert train["loss", "b", None].curve.y[1] < train["loss", "b", None].curve.y[0]
    assert train["cka", "b", "b"].curve.y[1] > 0.2
    assert train["unimodal_rank", "b", None].value is not None
    assert "trained anew" in train["metric", "b", None].definition


def test_train_mode_without_a_factory_is_refused() -> None:
    s = study(model(), {"test": data(), "train": data(150)})
    assert "model.factory" in refusal(s, "rank_sweep", mode="train", modality="b")


def test_features_the_sweep_is_run_on_stay_as_they_are() -> None:
    s = mixed()
    before = s.features.outputs.clone()
    s.run("rank_sweep", **CHEAP)
    assert torch.equal(predict(s.adapter, s.features).outputs, before)
