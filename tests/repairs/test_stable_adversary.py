"""What keeps the adversary steady: spectral normalisation, the penalty of its slope, and classes beside encodings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit import registry
from collapsekit.adapters.inserts import capture_latents, posts_of
from collapsekit.errors import ConfigError
from collapsekit.repairs.ingredients.adversary import Discriminator
from collapsekit.repairs.methods.ebr import EbrOptions
from collapsekit.repairs.training.job import Job, Stage, Step
from tests.repairs.making import differing, make_job, make_model, run, state

ADVERSARY = {"alignment": "none", "substitution": 0.0, "adversary": 0.1, "ramp": 0}
STABLE = {**ADVERSARY, "spectral_norm": True, "r1": 0.5, "conditional": True}


def encodings(*means: float, n: int = 11, width: int = 6) -> list[Tensor]:
    g = torch.Generator().manual_seed(7)
    return [torch.randn(n, width, generator=g) + mean for mean in means]


def discriminator(modalities: int = 3, **how: Any) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(6, modalities, normalize=False, **how)


def first(options: dict[str, Any], **how: Any) -> tuple[Job, Stage]:
    job = make_job(make_model(), method="ebr", options=options, **how)
    return job, next(iter(registry.get_repair("ebr").stages(job)))


def linear(psi: Discriminator) -> list[nn.Linear]:
    return [layer for layer in psi.layers if isinstance(layer, nn.Linear)]


def test_of_every_weight_the_largest_singular_value_is_one() -> None:
    """By NumPy, after as many power iterations as two epochs of steps make; without it they are far from one."""
    for spectral in (True, False):
        psi = discriminator(spectral_norm=spectral)
        with torch.no_grad():
            for number, layer in enumerate(linear(psi)):
                at = layer.parametrizations.weight.original if spectral else layer.weight
                at.mul_(3.0 + number)
            for _ in range(40):
                psi(encodings(0.0)[0])
        psi.eval()
        top = [np.linalg.svd(layer.weight.detach().numpy(), compute_uv=False)[0] for layer in linear(psi)]
        assert (top == pytest.approx([1.0] * 3, rel=1e-3)) == spectral


def test_a_spectrally_normalised_discriminator_is_no_steeper_than_one() -> None:
    psi = discriminator(spectral_norm=True)
    with torch.no_grad():
        for layer in linear(psi):
            layer.parametrizations.weight.original.mul_(20.0)
        for _ in range(40):
            psi(encodings(0.0)[0])
        psi.eval()
        a, b = encodings(0.0, 1.0, n=200)
        assert bool(((psi(a) - psi(b)).norm(dim=1) <= (a - b).norm(dim=1) * 1.001).all())


@pytest.mark.parametrize("modalities", [2, 4])
def test_the_slope_is_that_of_finite_differences_and_of_autograd_by_hand(modalities: int) -> None:
    psi = discriminator(modalities).double()
    x = torch.cat(encodings(*map(float, range(modalities)))).double()
    labels = torch.arange(modalities).repeat_interleave(11)

    def margin(at: Tensor) -> Tensor:
        logits = psi(at)
        own = logits.gather(1, labels[:, None])[:, 0]
        return own - (logits.sum(1) - own) / (modalities - 1)

    step, slopes = 1e-6, []
    for d in range(6):
        move = step * F.one_hot(torch.tensor(d), 6).double()
        slopes.append((margin(x + move) - margin(x - move)) / (2 * step))
    expected = torch.stack(slopes, 1).square().sum(1).mean()
    assert float(psi.slope(x, labels).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    at = x.clone().requires_grad_()
    by_hand = torch.autograd.grad(margin(at).sum(), at, create_graph=True)[0].square().sum(1).mean()
    for a, b in zip(
        torch.autograd.grad(psi.slope(x, labels), [*psi.parameters()][:5:2]),
        torch.autograd.grad(by_hand, [*psi.parameters()][:5:2]),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_the_penalty_counts_half_its_weight_for_the_discriminator_and_nothing_for_encoders() -> None:
    plain, given = discriminator(), [g.requires_grad_() for g in encodings(0.0, 1.0, -1.0)]
    steady = discriminator(r1=3.0)
    labels = torch.arange(3).repeat_interleave(11)
    (own, against), (with_r1, same) = plain.losses(given, "uniform"), steady.losses(given, "uniform")
    assert torch.equal(against, same)
    slope = plain.slope(torch.cat(given), labels)
    assert float((with_r1 - own).detach()) == pytest.approx(3.0 / 2 * 3 * float(slope.detach()), rel=1e-4)
    assert torch.autograd.grad(with_r1, given, allow_unused=True) == (None, None, None)


def test_shown_classes_it_reads_the_outer_product_with_the_class() -> None:
    """Encodings of a class by weights of that class alone, as NumPy's outer product has them."""
    psi, x = discriminator(classes=4), encodings(0.0)[0]
    classes = torch.arange(11) % 4
    shown = np.stack([np.outer(np.eye(4)[c], g).ravel() for c, g in zip(classes.numpy(), x.numpy(), strict=True)])
    expected = psi.layers[1:](torch.from_numpy(shown).float())
    torch.testing.assert_close(psi(x, classes), expected)
    with torch.no_grad():
        linear(psi)[0].weight[:, :6] += 1.0
    changed = (psi(x, classes) != expected).any(1)
    assert torch.equal(changed, classes == 0)


@pytest.mark.parametrize("conditional", [True, False])
def test_a_conditional_one_tells_modalities_apart_that_differ_within_classes_only(conditional: bool) -> None:
    """Encodings of two modalities that are alike all together, one's class 0 where the other has its class 1."""
    classes = torch.arange(12) % 2
    given = [F.one_hot(c, 6).float() for c in (classes, 1 - classes)]
    psi = discriminator(2, classes=2 if conditional else 0)
    optimizer = torch.optim.Adam(psi.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        psi.losses(given, "reverse", classes if conditional else None)[0].backward()
        optimizer.step()
    loss = float(psi.losses(given, "reverse", classes if conditional else None)[0].detach())
    assert loss == pytest.approx(0.0 if conditional else 2 * math.log(2), abs=0.02)


def test_a_step_is_shown_the_classes_of_its_rows() -> None:
    job, stage = first({**STABLE, "spectral_norm": False})
    g = torch.Generator().manual_seed(0)
    for post in posts_of(job.adapter.model, "basis").values():
        for p in post.insert.parameters():
            p.data += 0.3 * torch.randn(p.shape, generator=g)
    rows = torch.arange(5, 18)
    with capture_latents(job.adapter.model) as heard:
        outputs = job.adapter.model(**job.batch(rows))
    given, y = [heard[m] for m in job.adapter.modalities], job.at.train.targets[rows]
    psi = stage.module[1]
    own, against = psi.losses(given, "uniform", y)
    assert psi.classes == 3
    expected = F.cross_entropy(outputs, y) + own + 0.1 * against
    assert float(stage.loss(Step(rows, 1)).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("option", [{"spectral_norm": True}, {"r1": 1.0}, {"conditional": True}])
def test_each_changes_what_is_trained_and_is_refused_without_an_adversary(
    tmp_path: Path, option: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=rf"^ebr\.{next(iter(option))} is about the adversary"):
        first(option)
    trained = []
    for asked in ({}, option):
        job, stage = first({**ADVERSARY, **asked}, epochs=3)
        run(job, tmp_path / str(len(trained)), [stage], method="ebr")
        trained.append(state(job))
    assert differing(*trained)


def test_conditional_is_refused_where_an_example_has_no_class() -> None:
    with pytest.raises(ConfigError, match=r"conditional is true, but task 'regression' has no single class"):
        first(STABLE, task="regression")


@pytest.mark.parametrize("interleave", [0, 2])
def test_a_steady_adversary_trains_and_notes_how_well_it_tells_modalities_apart(
    tmp_path: Path, interleave: int
) -> None:
    job = make_job(make_model(lively=True), method="ebr", options={**STABLE, "interleave": interleave}, epochs=8)
    curve, *_ = run(job, tmp_path, method="ebr")
    assert curve.held[curve.kept] < curve.held[0] - 0.1
    assert curve.kept % max(1, 2 * interleave) == 0
    values = {r.name: r.value for r in job.findings}
    assert 0.3 < values["ebr.discriminator_loss"] < 1.1  # ln 2 and about that: it neither wins nor loses


def test_its_definition_says_so_and_only_then() -> None:
    define = registry.get_repair("ebr").define
    for name, words in (("spectral_norm", "singular value"), ("r1", "slope"), ("conditional", "one class")):
        assert words in define(EbrOptions(**STABLE))
        assert words not in define(EbrOptions(**{k: v for k, v in STABLE.items() if k != name}))
