"""Contrastive and generative networks: their losses against loops and densities, heads, distillation, ranks."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from collapsekit.reproduce.methods import CONTROL, EBR, HEADS, KD, VANILLA
from collapsekit.reproduce.models.contrastive import ContrastiveNetwork, contrast_with_joint
from collapsekit.reproduce.models.encoding import JointEncoding
from collapsekit.reproduce.models.mixture import LEAST, MOST, MixtureAutoencoder, log_normal
from collapsekit.reproduce.studies.contrastive_prefix import contrastive_prefix
from collapsekit.reproduce.studies.subjects import StudySubject
from collapsekit.reproduce.studies.unlabelled import (
    distil,
    inputs_of,
    joined_rows,
    rank_at,
    rank_of,
    train_alone,
    train_jointly,
)

SHAPES = {"a": (6,), "b": (3,)}
MAKES = [ContrastiveNetwork, MixtureAutoencoder]


def subject(epochs: int = 2, n: int = 96) -> StudySubject:
    """Two views of three classes."""
    torch.manual_seed(0)
    arrays: dict[str, Tensor] = {}
    centres = {m: 2 * torch.randn(3, *shape) for m, shape in SHAPES.items()}
    for split in ("train", "val", "test"):
        label = torch.arange(n) % 3
        for m, c in centres.items():
            arrays[f"{split}/{m}"] = c[label] + torch.randn(n, *SHAPES[m])
        arrays[f"{split}/label"] = label
    return StudySubject(arrays, "b", 0, epochs)


def test_the_contrast_is_that_of_a_loop() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(4, 3).double(), torch.randn(4, 3).double()
    both = [*a, *b]
    near = [[math.exp(float(F.cosine_similarity(x, y, dim=0)) / 0.1) for y in both] for x in both]
    lost = [-math.log(near[i][(i + 4) % 8] / (sum(near[i]) - near[i][i])) for i in range(8)]
    assert float(contrast_with_joint(a, b)) == pytest.approx(sum(lost) / 8)


def test_a_log_density_is_torchs() -> None:
    torch.manual_seed(0)
    x, mean, log_variance = torch.randn(3, 5, 4).double().unbind()
    expected = Normal(mean, (log_variance / 2).exp()).log_prob(x).sum(1)
    assert torch.allclose(log_normal(x, mean, log_variance), expected)
    assert torch.allclose(log_normal(x, mean), Normal(mean, 1.0).log_prob(x).sum(1))


def test_the_bound_of_one_expert_is_the_elbo() -> None:
    """E log p(x|z) - KL(q(z|x), p(z)), in closed form but for the decoder, which is linear here."""
    torch.manual_seed(0)
    network = MixtureAutoencoder({"a": (6,)}).double()
    network.decoders["a"] = decode = torch.nn.Linear(32, 6).double()
    x = {"a": torch.randn(1, 6).double()}
    features, _ = network.encode(x)
    mean, spread = network.means["a"](features["a"]), network.spreads["a"](features["a"]).clamp(LEAST, MOST)
    q = Normal(mean, (spread / 2).exp())
    # E (x - decode(z))²: of the mean, and the variance of a linear map
    variance = (decode.weight.square() @ spread.exp().T).T
    told = log_normal(x["a"], decode(mean)) - variance.sum(1) / 2
    expected = told - kl_divergence(q, Normal(torch.zeros_like(mean), 1.0)).sum(1)
    many = 40_000
    found = network.objective({"a": x["a"].expand(many, -1)}, {"a": features["a"].expand(many, -1)})
    assert float(found.detach()) == pytest.approx(-float(expected.detach()) / 6, rel=0.005)


def test_experts_that_agree_are_one() -> None:
    """The mixture of two that are the same is each: nothing is gained by counting it twice."""
    torch.manual_seed(0)
    network = MixtureAutoencoder({"a": (6,), "b": (6,)})
    with torch.no_grad():
        for p in network.spreads.parameters():
            p.fill_(0)
        network.spreads["a"].bias.fill_(LEAST)  # so that samples hardly differ
    for part in (network.means, network.spreads, network.decoders):
        part["b"].load_state_dict(part["a"].state_dict())
    one = MixtureAutoencoder({"a": (6,)})
    one.load_state_dict({k: v for k, v in network.state_dict().items() if ".b." not in k})
    x, f = torch.randn(20_000, 6), torch.rand(20_000, 64)
    with torch.no_grad():
        twice = float(network.objective({"a": x, "b": x}, {"a": f, "b": f}))
        once = float(one.objective({"a": x}, {"a": f}))
        second = -float(log_normal(x, one.decoders["a"](one.means["a"](f))).mean())
    assert 6 * twice == pytest.approx(6 * once + second, abs=0.3)  # ln 2 is 0.69


@pytest.mark.parametrize("make", MAKES)
def test_heads_begin_by_changing_nothing(make: type[JointEncoding]) -> None:
    torch.manual_seed(0)
    network, x = make(SHAPES), inputs_of(subject(), "test")
    before, none = network.encode(x)
    assert none == []
    network.add_heads()
    after, latents = network.encode(x)
    assert [g.shape for g in latents] == [(96, 64), (96, 64)]
    for m in SHAPES:
        assert torch.allclose(before[m], after[m], atol=1e-5)


def test_distillation_trains_the_weak_encoder_alone_and_brings_it_to_its_teacher() -> None:
    """The weak view is one number that both have, under two loud ones that are its own."""
    torch.manual_seed(0)
    network, one = ContrastiveNetwork(SHAPES), subject(epochs=30)
    for split in ("train", "val", "test"):
        s = torch.randn(96, 1)
        one.arrays[f"{split}/a"] = s * torch.linspace(-1, 1, 6) + 0.1 * torch.randn(96, 6)
        one.arrays[f"{split}/b"] = torch.cat([s, 3 * torch.randn(96, 2)], 1)

    def likeness() -> float:
        """Linear CKA of the encoders' features of test examples."""
        with torch.no_grad():
            a, b = (network.encoders[m](one.arrays[f"test/{m}"]) for m in SHAPES)
        a, b = a - a.mean(0), b - b.mean(0)
        return float((a.T @ b).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm()))

    before, alike = copy.deepcopy(network.state_dict()), likeness()
    distil(one, network, "a")
    changed = {k.rsplit(".", 2)[0] for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"encoders.b"}
    assert likeness() > alike + 0.2


@pytest.mark.parametrize("make", MAKES)
def test_the_objective_falls_by_training_and_rows_are_the_same_twice(make: type[JointEncoding]) -> None:
    one = subject(epochs=6)
    torch.manual_seed(0)
    network = make(SHAPES)

    def lost() -> float:
        torch.manual_seed(3)
        with torch.no_grad():
            x = inputs_of(one, "test")
            return float(network.objective(x, network.encode(x)[0]))

    before = lost()
    train_jointly(one, network)
    assert lost() < before
    ranks = [{row: rank_at(n, one, 4.0) for row, n in joined_rows(one, make, ["a"])} for _ in range(2)]
    assert list(ranks[0]) == [VANILLA, CONTROL, HEADS, EBR, KD]
    assert ranks[0] == ranks[1]
    assert len(set(ranks[0].values())) == 5


@pytest.mark.parametrize("make", MAKES)
def test_alignment_brings_latent_encodings_together(make: type[JointEncoding]) -> None:
    one = subject(epochs=6)
    found = {row: network for row, network in joined_rows(one, make, ["a"]) if row in (HEADS, EBR)}

    def apart(network: JointEncoding) -> float:
        with torch.no_grad():
            a, b = network.encode(inputs_of(one, "test"))[1]
        near = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
        return float(near.mean() - near.diagonal().mean())

    assert apart(found[EBR]) < apart(found[HEADS]) - 0.1


@pytest.mark.parametrize("make", MAKES)
def test_strength_multiplies_the_weak_view_before_it_is_joined(make: type[JointEncoding]) -> None:
    torch.manual_seed(0)
    network, one = make(SHAPES), subject()
    features, _ = network.encode(inputs_of(one, "test"))
    if isinstance(network, ContrastiveNetwork):
        expected = network.fusion(features["a"], 4 * features["b"])
    else:
        expected = (network.means["a"](features["a"]) + 4 * network.means["b"](features["b"])) / 2
    assert torch.allclose(network.represent(features, {"b": 4.0}), expected)
    assert rank_at(network, one, 4.0) == pytest.approx(rank_of(expected.detach()))
    assert rank_at(network, one, 0.0) != rank_at(network, one, 4.0)


def test_an_encoder_alone_learns_the_label() -> None:
    one = subject(epochs=20)
    encoder = train_alone(one)
    with torch.no_grad():
        f, aim = encoder(one.arrays["test/b"]), F.one_hot(one.arrays["test/label"]).float()
    fit = torch.linalg.lstsq(f, aim).solution
    assert float(((f @ fit).argmax(1) == one.arrays["test/label"]).float().mean()) > 0.8


def test_the_baseline_reads_its_label_better_than_the_prefix() -> None:
    one = subject(epochs=12)
    prefix, baseline = (contrastive_prefix(one, unimodal=alone) for alone in (False, True))
    assert 0 < baseline.train < prefix.train < math.log(3)
    assert 0 < baseline.test < math.log(3)
    assert contrastive_prefix(one, unimodal=False) == prefix
