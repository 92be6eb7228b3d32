"""Small fusions: of one example alone, with modalities absent, with losses of their own, and their parts against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.adapters.inserts import insert
from collapsekit.reproduce.models.absence import (
    AttachedLoss,
    PresentFusion,
    mean_of_present,
    presence,
    recovery_loss,
    take_some_away,
)
from collapsekit.reproduce.models.bipartite import BipartiteFusion, MessageRound, agreement
from collapsekit.reproduce.models.encoders import WIDTH
from collapsekit.reproduce.models.meta_learned import MetaLearnedFusion
from collapsekit.reproduce.models.neighbours import NeighbourFusion
from collapsekit.reproduce.models.shared_specific import SharedSpecificFusion
from collapsekit.reproduce.studies.fusion_rows import answer, orders_of, printed_for, row_of, rows_of
from collapsekit.reproduce.studies.networks import FUSIONS, build
from collapsekit.reproduce.studies.subjects import Repaired

SHAPES = {"a": (7,), "b": (2, 12), "c": (1, 8, 8)}
OF_PRESENT = [name for name in FUSIONS if name != "concatenation"]


def features(n: int = 9, modalities: int = 3, seed: int = 0) -> list[Tensor]:
    """Features as encoders give them."""
    return list(torch.rand(modalities, n, WIDTH, generator=torch.Generator().manual_seed(seed)).unbind())


def fusion_named(name: str, modalities: int = 3) -> nn.Module:
    torch.manual_seed(1)
    return FUSIONS[name](modalities, WIDTH).eval()


def inputs(n: int = 9) -> dict[str, Tensor]:
    torch.manual_seed(2)
    return {m: torch.randn(n, *shape) for m, shape in SHAPES.items()}


@pytest.mark.parametrize("name", FUSIONS)
def test_an_answer_depends_on_its_example_alone(name: str) -> None:
    fusion, x = fusion_named(name), features()
    x[1][::2] = 0  # absent in every other one
    whole = fusion(*x)
    assert whole.shape == (9, WIDTH)
    alone = torch.cat([fusion(*(f[i : i + 1] for f in x)) for i in range(9)])
    assert torch.allclose(whole, alone, atol=1e-6)
    assert torch.allclose(fusion(*(f.flip(0) for f in x)).flip(0), whole, atol=1e-6)
    assert float(whole.detach().std(0).max()) > 0


@pytest.mark.parametrize("name", OF_PRESENT)
def test_every_pattern_of_absence_has_its_answer(name: str) -> None:
    fusion, answers = fusion_named(name), []
    for pattern in range(8):
        x = [f if pattern >> i & 1 else torch.zeros_like(f) for i, f in enumerate(features())]
        answers.append(fusion(*x))
        assert torch.isfinite(answers[-1]).all()
    for i in range(7):
        assert not torch.allclose(answers[i], answers[7]), "what is absent makes a difference"


@pytest.mark.parametrize("name", OF_PRESENT)
def test_an_input_of_zeros_is_absent_whatever_its_encoder_makes_of_it(name: str) -> None:
    torch.manual_seed(0)
    network, x = build(SHAPES, 4, name).eval(), inputs()
    x["b"] = torch.zeros_like(x["b"])
    before = network(**x)
    with torch.no_grad():
        for p in network.encoders["b"].parameters():
            p.add_(0.5)
    assert torch.equal(network(**x), before)
    x["b"] += 1
    assert not torch.equal(network(**x), before)


def test_concatenation_reads_what_the_encoder_makes_of_zeros() -> None:
    torch.manual_seed(0)
    network, x = build(SHAPES, 4).eval(), inputs()
    x["b"] = torch.zeros_like(x["b"])
    before = network(**x)
    with torch.no_grad():
        for p in network.encoders["b"].parameters():
            p.add_(0.5)
    assert not torch.equal(network(**x), before)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_an_attached_loss_has_weight_1_whatever_is_made_of_the_output(scale: float) -> None:
    a, b = torch.tensor([2.0, 3.0], requires_grad=True), torch.tensor([5.0], requires_grad=True)
    out = AttachedLoss.apply(a * 1, 3 * b.sum())
    assert torch.equal(out, a)
    (scale * out.sum()).backward()
    assert a.grad is not None
    assert b.grad is not None
    assert a.grad.tolist() == [scale, scale]
    assert b.grad.tolist() == [3.0]


@pytest.mark.parametrize(("name", "part"), [("shared-specific", "which"), ("meta-learned", "priors")])
def test_a_fusion_trains_by_its_own_loss_in_training_alone(name: str, part: str) -> None:
    """Nothing but its own loss reaches these, where all modalities are present."""
    fusion = fusion_named(name)
    own = [p for n, p in fusion.named_parameters() if n.startswith(part)]
    fusion(*features()).sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in own)
    fusion.train()
    (0 * fusion(*features()).sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in own)


def test_some_modalities_are_taken_away_and_never_all() -> None:
    torch.manual_seed(0)
    x = features(4000)
    seen = take_some_away(x, 0.5)
    there = presence(seen)
    assert there.any(1).all()
    # of each example all three would go in one of eight, and one stays then: 1/2 + 1/8 · 1/3
    assert there.double().mean(0).tolist() == pytest.approx([1 / 2 + 1 / 24] * 3, abs=0.03)
    for f, kept, mark in zip(x, seen, there.unbind(1), strict=True):
        assert torch.equal(kept, f * mark[:, None])
    assert presence(x).all()


def test_means_and_distances_are_over_what_is_there() -> None:
    values = torch.arange(12.0).reshape(2, 3, 2)
    present = torch.tensor([[True, False, True], [False, False, False]])
    assert mean_of_present(values, present).tolist() == [[2.0, 3.0], [0.0, 0.0]]
    whole = [torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2)]
    recovered = torch.tensor([[[2.0, 4.0], [9.0, 9.0]]], requires_grad=True)
    assert float(recovery_loss(recovered, whole).detach()) == (1 + 4) / 2


def test_messages_are_those_of_a_loop() -> None:
    torch.manual_seed(0)
    step, n, m = MessageRound(4).double(), 3, 2
    nodes, modalities = torch.randn(n, 4).double(), torch.randn(m, 4).double()
    edges, present = torch.randn(n, m, 4).double(), torch.tensor([[True, True], [True, False], [False, True]])
    found = step.examples(nodes, modalities, edges, present)
    for e in range(n):
        told = [F.relu(step.to_example(torch.cat([modalities[i], edges[e, i]]))) for i in range(m) if present[e, i]]
        assert torch.allclose(found[e], F.relu(step.of_example(torch.cat([nodes[e], sum(told) / len(told)]))))
    back = step.modalities(modalities, nodes, edges)
    for i in range(m):
        told = [F.relu(step.to_modality(torch.cat([nodes[e], edges[e, i]]))) for e in range(n)]
        assert torch.allclose(back[i], F.relu(step.of_modality(torch.cat([modalities[i], sum(told) / n]))))
    new = step.edges(nodes, modalities, edges)
    assert torch.allclose(new[2, 1], F.relu(step.of_edge(torch.cat([nodes[2], modalities[1], edges[2, 1]]))))


def test_a_graph_reads_its_memory() -> None:
    torch.manual_seed(0)
    fusion, x = BipartiteFusion(3, WIDTH).eval(), features()
    before = fusion(*x)
    with torch.no_grad():
        fusion.memory[:, 1].mul_(3)
    assert not torch.allclose(fusion(*x), before)


def test_agreement_is_the_contrast_of_a_loop() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(5, 3).double(), torch.randn(5, 3).double()
    near = [[math.exp(float(F.cosine_similarity(x, y, dim=0)) / 0.1) for y in b] for x in a]
    ways = [-math.log(near[i][i] / sum(near[i])) for i in range(5)]
    ways += [-math.log(near[i][i] / sum(row[i] for row in near)) for i in range(5)]
    assert float(agreement(a, b)) == pytest.approx(sum(ways) / 10)
    assert float(agreement(a, a)) < float(agreement(a, b))


def test_neighbours_are_weighted_by_what_is_present() -> None:
    torch.manual_seed(0)
    fusion, x = NeighbourFusion(3, WIDTH).eval(), features()
    x[2] = torch.zeros_like(x[2])
    found, kept = fusion.recover(x), fusion.memory
    keys = [key.weight for key in fusion.keys]
    for e in range(9):
        alike = torch.stack([sum((keys[i] @ x[i][e]) @ (keys[i] @ one[i]) for i in (0, 1)) / (8 * 2) for one in kept])
        assert torch.allclose(found[e], (alike.softmax(0)[:, None, None] * kept).sum(0), atol=1e-5)
    with torch.no_grad():  # an example that is like one of the memory, by what is present, is filled by it
        fusion.memory[5, :2] *= 30
        like = [fusion.memory[5, i].expand(2, -1) for i in range(2)]
        for key in fusion.keys:
            key.weight.copy_(torch.eye(WIDTH))
        filled = fusion.recover([*like, torch.zeros(2, WIDTH)])
    assert torch.allclose(filled[:, 2], fusion.memory[5, 2].expand(2, -1), atol=1e-5)


def test_generated_features_are_blends_of_priors_by_what_is_present() -> None:
    torch.manual_seed(0)
    fusion, x = MetaLearnedFusion(2, WIDTH).eval(), features(modalities=2)
    x[1] = torch.zeros_like(x[1])
    made = fusion.generate(x)
    for i in range(2):
        weights = fusion.weights[i](x[0]).softmax(1)
        assert torch.allclose(made[:, i], weights @ fusion.priors[i], atol=1e-6)
    assert torch.equal(fusion.perturb(x[0]), fusion.perturb(x[0]))
    fusion.train()
    assert not torch.equal(fusion.perturb(x[0]), fusion.perturb(x[0]))


def test_what_others_share_stands_in() -> None:
    torch.manual_seed(0)
    fusion, x = SharedSpecificFusion(3, WIDTH).eval(), features()
    x[1] = torch.zeros_like(x[1])
    shared = [fusion.shared(f) for f in x]
    full = [fusion.residue(torch.cat([s, own(f)], 1)) + s for s, own, f in zip(shared, fusion.specific, x, strict=True)]
    full[1] = (shared[0] + shared[2]) / 2
    assert torch.allclose(fusion(*x), fusion.layers(torch.cat(full, 1)), atol=1e-6)
    _, loss = fusion.fuse(x, x)
    told = [F.cross_entropy(fusion.which(fusion.specific[i](x[i])), torch.full((9,), i)) for i in (0, 2)]
    alike = (shared[0] - shared[2]).abs().mean()
    assert float(loss) == pytest.approx(float(0.1 * alike + 0.02 * (told[0] + told[1]) / 2), rel=1e-5)


def test_a_fusion_without_a_rule_is_none() -> None:
    with pytest.raises(NotImplementedError):
        PresentFusion()(*features())


class _Holder:
    """Stands for an adapter."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model


def _arrays() -> dict[str, Tensor]:
    return {**{f"test/{m}": v for m, v in inputs().items()}, "test/label": torch.zeros(9)}


def _repaired(*, heads: bool) -> Repaired:
    torch.manual_seed(0)
    network = build(SHAPES, 4, "shared-specific").eval()
    if heads:
        record = {"kind": "basis", "part": None, "channels": None, "features": WIDTH, "latent": WIDTH, "hidden": 128}
        insert(network, [{**record, "modality": m, "path": f"encoders.{m}"} for m in SHAPES])
    return Repaired("row", _Holder(network))  # type: ignore[arg-type]


@pytest.mark.parametrize("heads", [False, True])
def test_what_is_missing_is_not_read(heads: bool) -> None:
    repaired, arrays = _repaired(heads=heads), _arrays()
    whole, found = answer(repaired, arrays, "test"), answer(repaired, arrays, "test", ["b"])
    assert not torch.allclose(whole, found)
    arrays["test/b"] = torch.randn_like(arrays["test/b"])
    assert torch.equal(answer(repaired, arrays, "test", ["b"]), found)
    assert not torch.equal(answer(repaired, arrays, "test"), whole)


def test_with_heads_another_encoding_stands_in_and_without_the_fusion_does() -> None:
    arrays = _arrays()
    plain, network = _repaired(heads=False), _repaired(heads=True)
    assert torch.allclose(answer(plain, arrays, "test"), answer(network, arrays, "test"), atol=1e-5)
    model = plain.adapter.model
    x = {m: arrays[f"test/{m}"] for m in SHAPES}
    with torch.no_grad():
        a, c = (model.encoders[m](x[m]) for m in ("a", "c"))
        stands = model.head(model.fusion(a, a, c))  # the first other one's, as made
        own = model.head(model.fusion(a, torch.zeros_like(a), c))
    assert torch.allclose(answer(network, arrays, "test", ["b"]), stands, atol=1e-5)
    assert torch.allclose(answer(plain, arrays, "test", ["b"]), own, atol=1e-5)


def test_rows_are_named_once_and_printed_numbers_lie_in_them() -> None:
    models = {"X": "attention", "Y": "neighbours"}
    rows = rows_of(models)
    assert len(set(rows)) == len(rows) == 10
    numbers = {"X": ((1.0,), (2.0,), (3.0,))}
    assert printed_for(numbers) == {"X-like": (1.0,), "X-like + KD": (2.0,), "X-like + EBR": (3.0,)}
    every, of_x, _ = orders_of(models, ("c",), "accuracy")
    assert list(every.steps) == ["vanilla", "KD", "EBR"]
    assert every.steps["KD"] == [(row_of("X", "KD"), "c"), (row_of("Y", "KD"), "c")]
    assert list(of_x.steps) == ["X-like", "X-like + KD", "X-like + EBR"]
