"""Which two features drive a neuron most, whose they are, and what chance would give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.checks import matrix

_TIE = 1e-6  # drives this near one another, relatively, are equal: float32 gradients do not tell them apart
_IDLE = 1e-10  # of the largest drive of any neuron; below, a neuron is driven by rounding


def lemma_bound(widths: Sequence[int]) -> float:
    """Compute a lower bound on the probability that a 2-semantic neuron encodes features of two modalities, in [0, 1).

    m(m-1)·(min dim f)²/(Σ dim f)² for ``widths`` dim f of m encoders: Chaudhuri et al. 2025, Lemma 1 (Section 3.1,
    proof in Appendix B; the display has no number), features being allocated to neurons at random. (m-1)/m for equal
    widths. Raises NumericsError for fewer than two modalities or an empty one.
    """
    m, total = _checked(widths), sum(widths)
    return m * (m - 1) * (min(widths) / total) ** 2


def random_collision(counts: Sequence[int]) -> float:
    """Compute the probability that two different features drawn at random are of different modalities, in [0, 1].

    1 - Σ d(d-1)/(F(F-1)) for ``counts`` d of features a modality, F = Σd: what Lemma 1 bounds, whose proof counts only
    min(d)² pairs for every two modalities and writes F² for F(F-1). Modalities may have none; raises NumericsError with
    fewer than two features.
    """
    total = sum(counts)
    if total < 2 or min(counts) < 0:
        raise NumericsError(f"a pair of features needs two, found {list(counts)} a modality: use wider encoders.")
    return 1.0 - sum(d * (d - 1) for d in counts) / (total * (total - 1))


def _checked(widths: Sequence[int]) -> int:
    if len(widths) < 2 or min(widths) < 1:
        raise NumericsError(f"the lemma is about two or more modalities with features, found widths {list(widths)}.")
    return len(widths)


@dataclass(frozen=True, eq=False)
class Collisions:
    """What the strongest pairs of features of some neurons have in common."""

    driven: int  # neurons that any feature drives
    polysemantic: int  # of those, neurons with a second feature that counts
    pairs: Tensor  # "m m", symmetric, sum 1: mean over polysemantic neurons of whose the two features are
    reach: float  # mean over polysemantic neurons of the pair's part of all drive

    @property
    def cross_modal(self) -> float:
        """Fraction of polysemantic neurons whose two strongest features are of different modalities."""
        return min(1.0, max(0.0, 1.0 - float(self.pairs.diagonal().sum())))


def collisions(drive: Tensor, owner: Tensor, m: int, second: float = 0.1) -> Collisions:
    """Count by modality which two features drive each neuron most.

    A neuron is polysemantic where its second feature has at least ``second`` of the drive of its first. Equal features
    (within 1e-6) share a place: each choice among them counts as likely as another, so that no order of features matters.

    Args:
        drive: (k, F), >= 0, how much of neuron k's variance feature j accounts for.
        owner: (F,), modality 0..m-1 of each feature.
        m: how many modalities there are.
        second: share of the first feature's drive, in (0, 1].

    Returns:
        The counts, with pairs of shape (m, m).

    Raises:
        NumericsError: where shapes do not fit, no neuron is driven, or none by two features.
    """
    drive = matrix(drive, "the drives")
    if owner.shape != drive.shape[1:] or bool((drive < 0).any()):
        raise NumericsError(
            f"drives must be >= 0 with one owner a feature, found shape {tuple(drive.shape)} and {tuple(owner.shape)} "
            "owners: pass variances."
        )
    if drive.shape[1] < 2 or drive.numel() == 0 or float(drive.max()) == 0.0:
        raise NumericsError("no feature drives any neuron: check that the representation varies with the features.")
    top = drive.amax(dim=1)
    kept = top > _IDLE * top.max()
    share = drive[kept] / top[kept, None]  # of the strongest
    first = share >= 1.0 - _TIE
    rest = share.masked_fill(first, -1.0)
    runner_up = rest.amax(dim=1)
    tied = first.sum(dim=1) > 1
    enough = tied | (runner_up >= second)
    if not bool(enough.any()):
        raise NumericsError(
            f"no neuron is driven by two features, the second with {second:g} of the first's drive or more, so none is "
            "polysemantic"
        )
    share, first, rest, runner_up, tied = (t[enough] for t in (share, first, rest, runner_up, tied))
    members = torch.nn.functional.one_hot(owner, m).double()  # F m
    a = first.double() @ members
    b = (rest >= (runner_up * (1.0 - _TIE))[:, None]).double() @ members
    pairs = torch.where(tied[:, None, None], _among(a), _between(a, b)).mean(dim=0)
    strongest = torch.where(tied, 2.0, 1.0 + runner_up)
    reach = float((strongest / share.sum(dim=1)).mean())
    return Collisions(int(kept.sum()), int(enough.sum()), pairs, min(1.0, reach))


def _among(counts: Tensor) -> Tensor:
    """Draw two different ones among ``counts`` (k, m) equal features: whose they are, (k, m, m)."""
    total = counts.sum(dim=1)
    ordered = counts[:, :, None] * counts[:, None, :] - torch.diag_embed(counts)
    return ordered / (total * (total - 1)).clamp_min(1)[:, None, None]


def _between(first: Tensor, second: Tensor) -> Tensor:
    """Pair the one first feature and one of several equal second ones, both (k, m), in either order: (k, m, m)."""
    one = first[:, :, None] * second[:, None, :]
    return (one + one.transpose(1, 2)) / (2 * second.sum(dim=1).clamp_min(1))[:, None, None]
