"""How many modalities drive one dimension: shares and their entropy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.checks import matrix


def row_entropy(p: Tensor) -> Tensor:
    """Compute the Shannon entropy in nats, (n,) float64 in [0, ln m], of each row of ``p`` (n, m), with 0·log 0 = 0.

    Rows are distributions; what rounding left them off a sum of 1 (up to 1e-4) is divided out. Equals
    ``scipy.stats.entropy(p, axis=1)``. Raises NumericsError where a row is not a distribution.
    """
    p = matrix(p, "the distributions")
    total = p.sum(dim=1, keepdim=True)
    if p.shape[1] == 0 or bool((p < 0).any()) or bool(((total - 1).abs() > 1e-4).any()):
        raise NumericsError(
            "each row must be a distribution (entries >= 0 that add up to 1), found one that is not: "
            "normalise the rows, for instance by a softmax."
        )
    p = p / total
    return (-torch.xlogy(p, p).sum(dim=1)).clamp(min=0.0, max=math.log(p.shape[1]))


def drive_shares(total_effects: Tensor) -> tuple[Tensor, Tensor]:
    """Compute each modality's share of what drives each dimension, and which dimensions are driven at all.

    ``total_effects``: (m, D), >= 0, the effect of modality i on dimension j (such as Sobol total-effect
    variances). Returns shares (m, k) whose columns add up to 1, and a bool mask (D,) of the k columns kept: those
    whose total exceeds 1e-10 of the largest. Raises NumericsError for a negative effect, or if none is kept.
    """
    effects = matrix(total_effects, "the total effects")
    if bool((effects < 0).any()):
        raise NumericsError(
            f"total effects must be >= 0, found {float(effects.min()):.3g}: pass variances or magnitudes."
        )
    if effects.numel() == 0 or float(effects.max()) == 0.0:
        raise NumericsError(
            "no modality drives any dimension, so there are no shares: check that the representation varies."
        )
    effects = effects / effects.max()
    total = effects.sum(dim=0)
    kept = total > 1e-10 * total.max()
    return effects[:, kept] / total[kept], kept
