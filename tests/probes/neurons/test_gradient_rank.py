"""Gradients against autograd and Jacobians taken by hand; planted fusions in which what must come out is known."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.data.arrays import ArraySource
from collapsekit.features.extraction import extract
from collapsekit.interventions.marginal import marginal_samples
from tests.probes.planted import Key, Planted, Study, linear, noise, plain, refusal, study

N = 160
RANKS = [f"{matrix}_{kind}" for matrix in ("gradient", "agop") for kind in ("numerical_rank", "effective_rank")]


class Residual(nn.Module):
    """What bypasses the layer must not be taken for what goes through it."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.mix = linear(weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.mix(x)) + x


def data(n: int = N) -> dict[str, Tensor]:
    x = {"a": noise(0, n, 4), "b": noise(1, n, 3)}
    return {**x, "label": (x["a"][:, 0] + x["b"][:, 0] > 0).long() + (x["a"][:, 1] > 1).long()}


def residual() -> Study:
    return study(Planted(plain("ab"), Residual(noise(5, 7, 7)), linear(noise(7, 3, 7))), {"test": data()})


def side_by_side(s: Study, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
    x = s.features.inputs
    return torch.cat([x["a"] if a is None else x["a"][a], x["b"] if b is None else x["b"][b]], 1)


def entropy_rank(x: np.ndarray) -> float:
    p = np.linalg.svd(x, compute_uv=False)
    p = p / p.sum()
    return float(np.exp(-(p[p > 0] * np.log(p[p > 0])).sum()))


def loss_gradient(s: Study, x: Tensor) -> dict[str, np.ndarray]:
    """By the model's own forward and backward, over all examples at once."""
    fusion, head = s.adapter.model.fusion, s.adapter.model.head
    named = {k: p for k, p in s.adapter.model.named_parameters() if not k.startswith("encoders")}
    grads = torch.autograd.grad(F.cross_entropy(head(fusion(x)), s.features.targets), list(named.values()))
    return {k: g.double().numpy() for k, g in zip(named, grads, strict=True)}


def agop(s: Study, of_loss: bool = False) -> np.ndarray:
    """From Jacobians of what follows as a function of the layer's own input."""
    fusion, head = s.adapter.model.fusion, s.adapter.model.head

    def rest(own: Tensor, x: Tensor, y: Tensor) -> Tensor:
        out = head(torch.tanh(fusion.mix(own)) + x)
        return F.cross_entropy(out[None], y[None])[None] if of_loss else out

    x = side_by_side(s)
    j = torch.func.vmap(torch.func.jacrev(rest))(x, x, s.features.targets).detach().double().numpy()
    return np.einsum("nci,ncj->ij", j, j) / len(x)


def test_the_gradients_ranks_are_those_of_one_backward_pass() -> None:
    s = residual()
    g = loss_gradient(s, side_by_side(s))
    found = s.run("gradient_rank", rtol=0.1)
    weight = g["fusion.mix.weight"]
    sigma = np.linalg.svd(weight, compute_uv=False)
    assert found["gradient_numerical_rank", None, None].value == (sigma > 0.1 * sigma[0]).sum()
    assert found["gradient_effective_rank", None, None].value == pytest.approx(entropy_rank(weight), rel=1e-4)
    layers = found["layers", None, None].curve
    assert layers.x == ("fusion.mix.weight", "head.weight")
    assert layers.y == pytest.approx([entropy_rank(g[k]) for k in layers.x], rel=1e-4)
    assert "fusion.mix" in found["gradient_effective_rank", None, None].note


@pytest.mark.parametrize("of", ["outputs", "loss"])
def test_the_agop_is_that_of_the_jacobians_through_the_layer(of: str) -> None:
    s = residual()
    found, expected = s.run("gradient_rank", agop=of, rtol=0.05), agop(s, of == "loss")
    sigma = np.linalg.svd(expected, compute_uv=False)
    assert found["agop_numerical_rank", None, None].value == (sigma > 0.05 * sigma[0]).sum()
    assert found["agop_effective_rank", None, None].value == pytest.approx(entropy_rank(expected), rel=1e-5)
    w = s.adapter.model.fusion.mix.weight.detach().double().numpy()
    for modality, part in ((None, slice(0, 7)), ("a", slice(0, 4)), ("b", slice(4, 7))):
        x, y = (w.T @ w)[part, part].ravel(), expected[part, part].ravel()
        cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
        assert found["ansatz", modality, None].value == pytest.approx(cosine, rel=1e-5)


@pytest.mark.parametrize("inplace", [False, True])
def test_what_follows_may_write_into_the_layers_output(inplace: bool) -> None:
    fusion = nn.Sequential(linear(noise(5, 6, 7)), nn.ReLU(inplace=inplace))
    s = study(Planted(plain("ab"), fusion, linear(noise(7, 3, 6))), {"test": data()})
    w, out = fusion[0].weight.detach().double().numpy(), s.adapter.model.head.weight.detach().double().numpy()
    on = fusion[0](side_by_side(s)).detach().numpy() > 0
    j = np.einsum("co,no,oi->nci", out, on, w)
    found = s.run("gradient_rank")["agop_effective_rank", None, None].value
    assert found == pytest.approx(entropy_rank(np.einsum("nci,ncj->ij", j, j)), rel=1e-5)


def test_alignment_is_that_of_scipys_angles_between_weights_and_agop() -> None:
    s = residual()
    found, values = s.run("gradient_rank", leading=0.8), np.linalg.eigh(agop(s))
    w = s.adapter.model.fusion.mix.weight.detach().double().numpy()

    def leading(eigen: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        held = eigen[0][::-1].cumsum() / eigen[0].sum()
        return eigen[1][:, ::-1][:, : int((held < 0.8).sum()) + 1]

    for modality, part in (("a", slice(0, 4)), ("b", slice(4, 7))):
        own = np.zeros_like(w)
        own[:, part] = w[:, part]
        angles = subspace_angles(leading(values), leading(np.linalg.eigh(own.T @ own)))
        expected = np.mean(np.cos(angles) ** 2)
        assert found["alignment", modality, None].value == pytest.approx(expected, rel=1e-5)


def test_conflict_is_the_cosine_of_gradients_with_the_others_from_other_examples() -> None:
    s = residual()
    found = s.run("gradient_rank", draws=3)
    alone = []
    for absent in "ba":
        draws = [loss_gradient(s, side_by_side(s, **{absent: other})) for other in marginal_samples(N, 3, 0)]
        alone.append(sum(np.concatenate([g.ravel() for g in d.values()]) for d in draws))
    expected = alone[0] @ alone[1] / np.linalg.norm(alone[0]) / np.linalg.norm(alone[1])
    assert found["conflict", "a", "b"].value == pytest.approx(expected, abs=1e-5)
    assert found["conflict", "b", "a"] == found["conflict", "a", "b"].model_copy(
        update={"modality": "b", "versus": "a"}
    )


def test_all_the_others_are_absent_together() -> None:
    x = {m: noise(i, N, 3) for i, m in enumerate("abc")}
    model = Planted(plain("abc"), nn.Sequential(linear(noise(5, 6, 9)), nn.Tanh()), linear(noise(7, 3, 6)))
    s = study(model, {"test": {**x, "label": torch.arange(N) % 3}})
    other, own = marginal_samples(N, 1, 0)[0], s.features.inputs
    alone = []
    for m in "abc":
        given = torch.cat([own[k] if k == m else own[k][other] for k in "abc"], 1)
        alone.append(np.concatenate([g.ravel() for g in loss_gradient(s, given).values()]))
    found = s.run("gradient_rank", draws=1)
    for (i, one), (j, two) in permutations(enumerate("abc"), 2):
        expected = alone[i] @ alone[j] / np.linalg.norm(alone[i]) / np.linalg.norm(alone[j])
        assert found["conflict", one, two].value == pytest.approx(expected, abs=1e-5)


def averaged(redundant: bool) -> dict[Key, object]:
    """A regression: two copies of one thing averaged, or two things that have an output each."""
    a, b = noise(0, 400, 1), noise(1, 400, 1)
    b, weight = (a, torch.tensor([[0.5, 0.5]])) if redundant else (b, torch.eye(2))
    arrays = {"a": a, "b": b, "label": a[:, 0] if redundant else torch.cat([a, b], 1)}
    model = Planted(plain("ab"), linear(weight), linear(torch.eye(len(weight))))
    return study(model, {"test": arrays}, task="regression").run("gradient_rank", draws=8)


def test_redundant_modalities_conflict_and_complementary_ones_do_not() -> None:
    redundant, complementary = (averaged(r)["conflict", "a", "b"] for r in (True, False))
    assert redundant.interval[1] < -0.7
    assert complementary.interval[0] < 0.1
    assert complementary.interval[1] > -0.1


def leaning(strong: str) -> dict[Key, object]:
    weight = noise(5, 6, 8)
    weight[:, slice(4, 8) if strong == "a" else slice(0, 4)] *= 0.05
    x = {"a": noise(0, N, 4), "b": noise(1, N, 4), "label": torch.arange(N) % 3}
    model = Planted(plain("ab"), nn.Sequential(linear(weight), nn.Tanh()), linear(noise(7, 3, 6)))
    return study(model, {"test": x}).run("gradient_rank")


@pytest.mark.parametrize(("strong", "weak"), ["ab", "ba"])
def test_the_agop_leans_to_the_modality_with_the_weights(strong: str, weak: str) -> None:
    found = leaning(strong)
    assert found["alignment", strong, None].interval[0] > 0.8
    assert found["alignment", weak, None].interval[1] < 0.1


def test_a_modality_that_is_never_read_has_no_alignment() -> None:
    weight = noise(5, 6, 7)
    weight[:, 4:] = 0
    s = study(Planted(plain("ab"), nn.Sequential(linear(weight), nn.Tanh()), linear(noise(7, 3, 6))), {"test": data()})
    found = s.run("gradient_rank")
    assert "all 0" in found["alignment", "b", None].skipped
    assert found["alignment", "a", None].value > 0.99


def test_a_low_rank_layer_has_a_low_rank_agop_but_not_gradient() -> None:
    weight = noise(5, 7, 2) @ noise(6, 2, 7)
    s = study(Planted(plain("ab"), nn.Sequential(linear(weight), nn.Tanh()), linear(noise(7, 7, 7))), {"test": data()})
    found = s.run("gradient_rank", rtol=1e-5)
    assert found["agop_numerical_rank", None, None].value == 2
    assert found["gradient_numerical_rank", None, None].value == 7


class Separate(nn.Module):
    """A projection of each modality by itself before the layer that both enter."""

    def __init__(self, columns: int = 10) -> None:
        super().__init__()
        self.of_a, self.of_b, self.mix = linear(noise(2, 5, 4)), linear(noise(3, 5, 3)), linear(noise(4, 6, columns))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.of_a(x[:, :4]), self.of_b(x[:, 4:])
        return torch.tanh(self.mix(torch.cat([a, b], 1) if self.mix.in_features == 10 else a + b))


def test_the_layer_is_the_first_that_all_modalities_enter() -> None:
    s = study(Planted(plain("ab"), Separate(), linear(noise(7, 3, 6))), {"test": data()})
    found = s.run("gradient_rank")
    assert found["agop_effective_rank", None, None].note == "the layer is fusion.mix"
    assert found["alignment", "a", None].skipped is None
    assert set(found["layers", None, None].curve.x) == {
        "fusion.of_a.weight",
        "fusion.of_b.weight",
        "fusion.mix.weight",
        "head.weight",
    }


def test_modalities_that_are_added_up_own_no_inputs() -> None:
    s = study(Planted(plain("ab"), Separate(5), linear(noise(7, 3, 6))), {"test": data()})
    found = s.run("gradient_rank", owned=0.99)
    assert all("mixed with others" in found["alignment", m, None].skipped for m in "ab")
    assert found["agop_effective_rank", None, None].note == "the layer is fusion.mix"


def test_after_a_mere_concatenation_it_is_the_next_layer_and_says_so() -> None:
    s = study(Planted(plain("ab"), nn.Identity(), linear(noise(7, 3, 7))), {"test": data()})
    note = s.run("gradient_rank")["gradient_effective_rank", None, None].note
    assert "the layer is head" in note
    assert "only concatenates" in note


def test_a_model_without_weights_after_its_encoders_is_refused() -> None:
    s = study(Planted(plain("ab"), nn.Identity()), {"test": {**data(), "label": torch.arange(N) % 7}})
    assert "no weights" in refusal(s, "gradient_rank")


class Crossed(nn.Module):
    """A first layer that is no matrix times its input."""

    def __init__(self, attention: bool) -> None:
        super().__init__()
        self.cross = nn.MultiheadAttention(3, 1, batch_first=True) if attention else nn.Bilinear(4, 3, 6)
        self.after = linear(noise(3, 6, 3 if attention else 6))

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.cross, nn.Bilinear):
            return self.after(self.cross(x[:, :4], x[:, 4:]))
        tokens = torch.stack([x[:, :3], x[:, 4:]], 1)
        return self.after(self.cross(tokens, tokens, tokens)[0].mean(1))


@pytest.mark.parametrize("attention", [False, True])
def test_a_first_layer_that_is_no_matrix_is_reported_weight_by_weight(attention: bool) -> None:
    torch.manual_seed(0)
    fusion = Crossed(attention)
    found = study(Planted(plain("ab"), fusion, linear(noise(7, 3, 6))), {"test": data()}).run("gradient_rank")
    for name in [*RANKS, "ansatz"]:
        assert f"fusion.cross ({type(fusion.cross).__name__})" in found[name, None, None].skipped
    assert found["layers", None, None].curve.x[-2:] == ("fusion.after.weight", "head.weight")
    assert ("fusion.cross.in_proj_weight" in found["layers", None, None].curve.x) == attention
    assert found["conflict", "a", "b"].value is not None


def test_a_layer_used_twice_is_not_read() -> None:
    shared = linear(noise(3, 6, 6))

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = shared

        def forward(self, x: Tensor) -> Tensor:
            return self.shared(torch.tanh(self.shared(x[:, :6])))

    found = study(Planted(plain("ab"), Twice(), linear(noise(7, 3, 6))), {"test": data()}).run("gradient_rank")
    assert "called 2 times" in found["agop_effective_rank", None, None].skipped


def test_frozen_weights_are_measured_and_stay_frozen() -> None:
    s, frozen = residual(), residual()
    for p in frozen.adapter.model.parameters():
        p.requires_grad_(False)
    frozen.adapter.model.head.bias.grad = torch.ones(3)
    with torch.no_grad():
        assert frozen.run("gradient_rank") == s.run("gradient_rank")
    assert not any(p.requires_grad for p in frozen.adapter.model.parameters())
    assert torch.equal(frozen.adapter.model.head.bias.grad, torch.ones(3))
    assert all(p.grad is None for k, p in frozen.adapter.model.named_parameters() if k != "head.bias")


def test_wide_outputs_are_read_through_random_signs_to_the_same_end() -> None:
    arrays = {**data(), "label": torch.arange(N) % 80}
    model = Planted(plain("ab"), nn.Sequential(linear(noise(5, 6, 7)), nn.Tanh()), linear(noise(7, 80, 6)))
    s = study(model, {"test": arrays})
    exact, drawn = s.run("gradient_rank", projections=80), s.run("gradient_rank", projections=40)
    assert drawn["agop_effective_rank", None, None] != exact["agop_effective_rank", None, None]
    for key in (("agop_effective_rank", None, None), ("alignment", "a", None), ("ansatz", None, None)):
        assert drawn[key].value == pytest.approx(exact[key].value, rel=0.03)
    assert s.run("gradient_rank", projections=40) == drawn


def test_parts_too_large_to_keep_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    s = residual()
    kept = s.run("gradient_rank", projections=2)
    monkeypatch.setattr("collapsekit.interventions.gradients.KEEP", 0)
    assert s.run("gradient_rank", projections=2) == kept


@pytest.mark.parametrize("ignored", [False, True])
def test_a_modality_tapped_where_it_enters_a_layer_is_not_charged_for_what_lies_before(ignored: bool) -> None:
    class Tapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.a, self.b = linear(noise(2, 4, 4)), nn.Identity(), nn.Identity()
            self.fusion, self.head = linear(noise(5, 6, 7)), linear(noise(7, 3, 6))

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(torch.tanh(self.fusion(torch.cat([self.a(self.first(a)), self.b(b) * (not ignored)], 1))))

    raw = {
        "modalities": {"a": {"encoder": "a:input"}, "b": {"encoder": "b:input"}},
        "fusion": "fusion",
        "data": {"path": "unused.npz"},
    }
    source = ArraySource({"test": data()}, "memory")
    adapter = ModuleAdapter(check_config(raw, base=Path()), model=Tapped(), source=source)
    found = Study(adapter, extract(adapter, "test")).run("gradient_rank")
    assert found["gradient_effective_rank", None, None].note == "the layer is fusion"
    assert found["layers", None, None].curve.x == ("fusion.weight", "head.weight")
    assert f"all {6 * 7 + 6 + 3 * 6 + 3} weights" in found["conflict", "a", "b"].definition
