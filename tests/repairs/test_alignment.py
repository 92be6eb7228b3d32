"""Losses of latent encodings against their definitions in NumPy, and where they are least."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from collapsekit.repairs.ingredients.alignment import (
    ALIGNMENTS,
    contrast_modalities,
    draw_together,
    match_moments,
    spread_apart,
)


def encodings(seed: int = 0, n: int = 12, d: int = 5, modalities: int = 3) -> list[Tensor]:
    return list(torch.randn(modalities, n, d, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("classes", [True, False])
def test_the_contrast_is_the_mean_over_pairs_of_cross_entropies_of_who_belongs_together(classes: bool) -> None:
    latents, labels = encodings(), torch.arange(12) % 3 if classes else None
    unit = [x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True) for x in latents]
    total, y = [], np.arange(12) % 3 if classes else np.arange(12)
    for i, a in enumerate(unit):
        for j, b in enumerate(unit):
            if i == j:
                continue
            near = a @ b.T / 0.1
            log_p = near - np.log(np.exp(near).sum(1, keepdims=True))
            total += [np.mean([-log_p[r, y == y[r]].mean() for r in range(12)])]
    assert float(contrast_modalities(latents, labels)) == pytest.approx(np.mean(total), rel=1e-5)


def test_the_contrast_is_least_where_classes_meet_across_modalities() -> None:
    labels = torch.arange(12) % 3
    corners = torch.eye(5)[labels]
    together = contrast_modalities([corners, corners], labels)
    apart = contrast_modalities([corners, torch.eye(5)[(labels + 1) % 3]], labels)
    assert float(together) == pytest.approx(math.log(4), abs=1e-3)  # four of a class share what is left
    assert float(apart) > float(together) + 5
    alike = torch.ones(12, 5)
    assert float(contrast_modalities([alike, alike], None)) == pytest.approx(math.log(12), rel=1e-5)


def test_moments_are_matched_as_in_coral() -> None:
    a, b, c = encodings()
    total = []
    for x, y in ((a, b), (a, c), (b, c)):
        mean = x.numpy().mean(0) - y.numpy().mean(0)
        covariance = np.cov(x.numpy().T) - np.cov(y.numpy().T)
        total.append((mean**2).sum() / 5 + (covariance**2).sum() / (4 * 25))
    assert float(match_moments([a, b, c])) == pytest.approx(np.mean(total), rel=1e-5)
    assert float(match_moments([a, a[torch.randperm(12)]])) == pytest.approx(0, abs=1e-9)


def test_encodings_are_spread_as_in_vicreg() -> None:
    a, b = (0.3 * x for x in encodings(modalities=2))
    distance, terms = ((a - b) ** 2).mean().item(), []
    for x in (a.numpy(), b.numpy()):
        covariance = np.cov(x.T)
        spread = np.maximum(0, 1 - np.sqrt(np.diag(covariance) + 1e-4)).mean()
        off = (covariance**2).sum() - (np.diag(covariance) ** 2).sum()
        terms.append(spread + 0.04 * off / 5)
    assert float(spread_apart([a, b])) == pytest.approx(distance + np.mean(terms), rel=1e-5)
    collapsed = torch.ones(12, 5)
    assert float(spread_apart([collapsed, collapsed])) == pytest.approx(1 - 0.01, rel=1e-6)


@pytest.mark.parametrize("name", [*ALIGNMENTS, "draw_together"])
def test_each_is_least_of_its_own_where_it_is_followed_and_knows_no_order(name: str) -> None:
    loss = (lambda x, _: draw_together(x)) if name == "draw_together" else ALIGNMENTS[name][0]
    labels = torch.arange(12) % 3
    latents = [x.requires_grad_() for x in encodings(3)]
    first = loss(latents, labels)
    assert float(loss(latents[::-1], labels)) == pytest.approx(float(first), rel=1e-5)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    assert float(loss([x[order] for x in latents], labels[order])) == pytest.approx(float(first), rel=1e-5)
    optimizer = torch.optim.SGD(latents, lr=0.5)
    for _ in range(50):
        optimizer.zero_grad()
        loss(latents, labels).backward()
        optimizer.step()
    assert float(loss(latents, labels)) < 0.9 * float(first)
