"""Losses that bring the latent encodings of an example's modalities together, without an adversary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 0.1  # of the contrast
LEAST_SPREAD = 1.0  # standard deviation below which a latent dimension is spread out
OF_VICREG = (1.0, 1.0, 0.04)  # distance, spread and covariance, in the ratio 25 : 25 : 1 of its authors
EPSILON = 1e-4  # added to a variance before its root, whose slope has no end at 0


def contrast_modalities(latents: Sequence[Tensor], labels: Tensor | None) -> Tensor:
    """Compute the contrast between modalities, a scalar in nats.

    For each encoding the other modality's encodings of the same class are to be nearer, by cosine, than those of other
    classes: InfoNCE (van den Oord et al. 2018) with all of the class as positives (Khosla et al. 2020, eq. 2), mean over
    examples and ordered pairs of modalities.

    Args:
        latents: encodings (n, latent), one a modality.
        labels: of the examples, whole numbers (n,); None: only an example's own encodings belong together.

    Returns:
        The loss; 0 at best, ln n where nothing is told apart and each example is a class.
    """
    n = len(latents[0])
    labels = torch.arange(n, device=latents[0].device) if labels is None else labels
    same = (labels[:, None] == labels[None]).float()
    unit = [F.normalize(g.float(), dim=1) for g in latents]
    parts = []
    for a, b in combinations(unit, 2):
        near = a @ b.T / TEMPERATURE
        for log_p in (near.log_softmax(1), near.T.log_softmax(1)):
            parts.append(-((same * log_p).sum(1) / same.sum(1)).mean())
    return torch.stack(parts).mean()


def match_moments(latents: Sequence[Tensor], _labels: Tensor | None = None) -> Tensor:
    """Compute how far modalities' encodings differ in mean and covariance, a scalar.

    Squared distance of the means over d, plus that of the covariances over 4·d² (CORAL; Sun & Saenko 2016, eq. 1), mean
    over pairs of modalities.

    Args:
        latents: encodings (n, d), one a modality.
        _labels: not read.

    Returns:
        The loss, 0 or more, in the square of the encodings' unit.
    """
    parts = []
    for a, b in combinations([g.float() for g in latents], 2):
        d, mean = a.shape[1], a.mean(0) - b.mean(0)
        covariance = _covariance(a) - _covariance(b)
        parts.append(mean.square().sum() / d + covariance.square().sum() / (4 * d * d))
    return torch.stack(parts).mean()


def spread_apart(latents: Sequence[Tensor], _labels: Tensor | None = None) -> Tensor:
    """Compute the loss of VICReg (Bardes et al. 2022, eq. 6), a scalar.

    Squared distance between an example's encodings, plus how far each dimension's standard deviation is under 1, plus the
    squared covariances between dimensions over d, in the ratio 25 : 25 : 1; mean over pairs and modalities.

    Args:
        latents: encodings (n, d), one a modality.
        _labels: not read.

    Returns:
        The loss, 0 or more.
    """
    x = [g.float() for g in latents]
    distance = torch.stack([(a - b).square().mean() for a, b in combinations(x, 2)]).mean()
    spread, apart = [], []
    for g in x:
        spread.append(F.relu(LEAST_SPREAD - (g.var(0) + EPSILON).sqrt()).mean())
        covariance = _covariance(g)
        apart.append((covariance.square().sum() - covariance.diagonal().square().sum()) / g.shape[1])
    parts = distance, torch.stack(spread).mean(), torch.stack(apart).mean()
    return torch.stack([weight * part for weight, part in zip(OF_VICREG, parts, strict=True)]).sum()


def draw_together(latents: Sequence[Tensor]) -> Tensor:
    """Compute the mean of 1 - cosine between each encoding and the mean of an example's, a scalar, 0 to 2.

    ``latents``: encodings (n, latent), one a modality.
    """
    unit = [F.normalize(g.float(), dim=1) for g in latents]
    centre = F.normalize(torch.stack(unit).mean(0), dim=1).detach()
    return torch.stack([(1 - (u * centre).sum(1)).mean() for u in unit]).mean()


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    return centred.T @ centred / max(1, len(x) - 1)


Alignment = Callable[[Sequence[Tensor], Tensor | None], Tensor]
ALIGNMENTS: dict[str, tuple[Alignment, float]] = {  # and what each counts for where no weight is named
    "infonce": (contrast_modalities, 1.0),
    "coral": (match_moments, 0.1),
    "vicreg": (spread_apart, 0.1),
}
