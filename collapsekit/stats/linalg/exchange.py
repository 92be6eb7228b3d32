"""Exchanging channels between two modalities: which ones, and what that does to a rank."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.checks import finite
from collapsekit.stats.linalg.moments import Moments
from collapsekit.stats.linalg.spectrum import effective_rank
from collapsekit.stats.threads import threads_for

_ALIKE = 1e-6  # scores this close, relative to the largest, are ties
_CHUNK = 256  # clips an SVD


def exchanged_count(proportion: float, width: int) -> int:
    """Compute how many channels a proportion of ``width`` is: ⌊proportion·width⌋, at least 1.

    Raises NumericsError unless 0 < proportion <= 1 and width > 0.
    """
    if not 0 < proportion <= 1 or width < 1:
        raise NumericsError(
            f"a proportion lies over 0 and up to 1 of at least one channel, found {proportion} of {width}: use 0.3."
        )
    return max(1, math.floor(proportion * width + 1e-9))  # 0.3·10 is 3


def channel_scores(x: Tensor, how: str, keep: Tensor | None = None) -> Tensor:
    """Score how much each channel says; the lowest say least.

    ``energy``: centred energy, the mean over examples of (x - mean)², which is Σσ²v²/n over all right singular directions
    of the centred features; of tokens, over the tokens of an example, averaged over examples. It finds the channels that
    Kim et al. 2025 exchanged in the features they published. ``std``: the root of that, before it is averaged
    ("temporal", of tokens). ``magnitude``: mean absolute value. ``spectral``: share of the channel's own energy that lies
    in the strong right singular directions, the first ⌊effective rank⌋, of the centred features or of all tokens as they
    are; 0 for a channel without energy.

    Args:
        x: (n, c), features, or (n, t, c), tokens.
        how: ``energy``, ``std``, ``magnitude`` or ``spectral``.
        keep: (n, t), bool: tokens that count; the others must be 0 in ``x``.

    Returns:
        (c,), float64, >= 0; in the unit of ``x``, its square, or a share.

    Raises:
        NumericsError: for another ``how``, for features that are not finite, and, ``spectral``, for constant ones.
    """
    x = finite(x, "the features")
    weight = torch.ones(x.shape[:-1], dtype=torch.float64) if keep is None else keep.to(torch.float64)
    if how == "magnitude":
        return x.abs().flatten(0, -2).sum(0) / weight.sum().clamp_min(1)
    if how in ("energy", "std"):
        energy = _energies(x, weight)
        return (energy if how == "energy" else energy.sqrt()).reshape(-1, x.shape[-1]).mean(0)
    if how == "spectral":
        return _strong_share(x - x.mean(0) if x.ndim == 2 else x.flatten(0, -2))
    raise NumericsError(f"channels are scored by energy, std, magnitude or spectral, found {how!r}: use one of them.")


def example_energies(x: Tensor, keep: Tensor | None = None) -> Tensor:
    """Compute the centred energy of each channel in each example's tokens, (n, c) float64, >= 0: the mean over tokens of
    (x - their mean)².

    Args:
        x: (n, t, c), tokens.
        keep: (n, t), bool: tokens that count; the others must be 0 in ``x``.

    Returns:
        (n, c), in the square of the unit of ``x``.

    Raises:
        NumericsError: for another shape, and for features that are not finite.
    """
    if x.ndim != 3:
        raise NumericsError(f"tokens have the shape (examples, tokens, channels), found {tuple(x.shape)}: pass those.")
    x = finite(x, "the features")
    return _energies(x, torch.ones(x.shape[:-1], dtype=torch.float64) if keep is None else keep.to(torch.float64))


def _energies(x: Tensor, weight: Tensor) -> Tensor:
    """The mean of (x - mean)² along the axis before the last, weighted, (c,) or (n, c)."""
    axis = x.ndim - 2
    count = weight.sum(axis, keepdim=True)[..., None].clamp_min(1)
    deviation = (x - x.sum(axis, keepdim=True) / count) * weight[..., None]
    return (deviation.square().sum(axis, keepdim=True) / count).squeeze(axis)


def _strong_share(x: Tensor) -> Tensor:
    with threads_for(2.0 * x.numel() * x.shape[1]):
        gram = x.T @ x
    with threads_for(9.0 * x.shape[1] ** 3):
        values, vectors = torch.linalg.eigh(gram / gram.diagonal().max().clamp_min(torch.finfo(torch.float64).tiny))
    power = values.flip(0).clamp_min(0)
    size = math.floor(effective_rank(power.sqrt()) + 1e-9)
    energy = vectors.flip(1).square() * power
    total = energy.sum(1)
    return torch.where(total > 0, energy[:, :size].sum(1) / total.clamp_min(torch.finfo(torch.float64).tiny), 0.0)


def exchanged_moments(joint: Moments, width: int, to: Tensor, source: Tensor, blend: float = 1.0) -> Moments:
    """Compute the moments of what :func:`exchange` makes of a receiver; no example is looked at, as they are linear.

    Args:
        joint: moments of receiver and giver side by side.
        width: channels of the receiver.
        to: (k,), channels of the receiver that change.
        source: (k,), channels of the giver that they are made of.
        blend: share of the giver's, over 0 and up to 1.

    Returns:
        Moments of ``width`` channels.
    """
    own = torch.arange(width)
    other = own.clone()
    other[to] = width + source
    if blend == 1:
        return Moments(joint.n, joint.mean[other], joint.scatter.index_select(0, other).index_select(1, other))
    share = torch.zeros(width, dtype=torch.float64)
    share[to] = blend
    # Own plus a share of the difference, so that of two that are equal nothing changes by rounding.
    mean = joint.mean[own] + share * (joint.mean[other] - joint.mean[own])
    rows = joint.scatter[own] + share[:, None] * (joint.scatter[other] - joint.scatter[own])
    return Moments(joint.n, mean, rows[:, own] + share * (rows[:, other] - rows[:, own]))


def weakest(scores: Tensor, k: int) -> Tensor:
    """Choose the ``k`` channels of the lowest ``scores`` (c,): (k,), int64, lowest first.

    The lower number comes first among ties (within a millionth of the largest, so that rounding does not choose). Raises
    NumericsError where there are fewer channels.
    """
    if scores.ndim != 1:
        raise NumericsError(f"scores are one a channel, found shape {tuple(scores.shape)}: pass those of one modality.")
    return weakest_of_each(scores[None], k)[0]


def weakest_of_each(scores: Tensor, k: int) -> Tensor:
    """Choose the ``k`` channels of the lowest ``scores`` (n, c) in each row: (n, k), int64, as :func:`weakest` does."""
    scores = finite(scores, "the scores")
    if scores.ndim != 2 or not 0 < k <= scores.shape[1]:
        raise NumericsError(f"{k} of {tuple(scores.shape[1:])} channels cannot be chosen: use a smaller proportion.")
    largest = scores.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.argsort((scores / largest / _ALIKE).round(), dim=1, stable=True)[:, :k]


def exchange(receiver: Tensor, giver: Tensor, to: Tensor, source: Tensor, blend: float = 1.0) -> Tensor:
    """Blend channels of one modality into those of another.

    Args:
        receiver: (..., c), features or tokens.
        giver: (..., e), of the same examples and tokens.
        to: (k,), channels of the receiver that change.
        source: (k,), channels of the giver.
        blend: share of the giver's, over 0 and up to 1; the rest is the receiver's own.

    Returns:
        (..., c), in the receiver's dtype.

    Raises:
        NumericsError: where the two are not of the same examples and tokens, the channels do not pair, or the blend is
            out of range.
    """
    if receiver.shape[:-1] != giver.shape[:-1]:
        raise NumericsError(
            f"channels are exchanged between features of the same examples and tokens, found {tuple(receiver.shape)} "
            f"and {tuple(giver.shape)}: choose modalities with as many tokens, or pool them."
        )
    if to.shape != source.shape or len(to.unique()) != len(to):
        raise NumericsError(f"each channel gets one other, found {len(source)} for {len(to)}: pair them.")
    if not 0 < blend <= 1:
        raise NumericsError(f"the blend lies over 0 and up to 1, found {blend}: 1 replaces the channel.")
    out = receiver.clone()
    given = giver[..., source].to(out.dtype)
    own = receiver[..., to]
    out[..., to] = given if blend == 1 else own + blend * (given - own)
    return out


def exchange_in_each(receiver: Tensor, giver: Tensor, to: Tensor, blend: float = 1.0) -> Tensor:
    """Blend channels of one modality's tokens into those of another, other channels in every example.

    Args:
        receiver: (n, t, c), tokens.
        giver: (n, t, e), of the same examples and tokens.
        to: (n, k), the channels of each example that change; the giver's are those of the same number.
        blend: share of the giver's, over 0 and up to 1; the rest is the receiver's own.

    Returns:
        (n, t, c), in the receiver's dtype.

    Raises:
        NumericsError: as :func:`exchange`.
    """
    if receiver.shape[:-1] != giver.shape[:-1] or len(to) != len(receiver):
        raise NumericsError(
            f"channels are exchanged between features of the same examples and tokens, found {tuple(receiver.shape)}, "
            f"{tuple(giver.shape)} and channels of {len(to)}: choose modalities with as many tokens, or pool them."
        )
    if not 0 < blend <= 1:
        raise NumericsError(f"the blend lies over 0 and up to 1, found {blend}: 1 replaces the channel.")
    at = to[:, None, :].expand(-1, receiver.shape[1], -1)
    given, own = giver.gather(2, at).to(receiver.dtype), receiver.gather(2, at)
    return receiver.scatter(2, at, given if blend == 1 else own + blend * (given - own))


@dataclass(frozen=True)
class Injection:
    """What blending channels into ``x`` does to its spectrum, beside what Theorem 3.1 of Kim et al. 2025 asks for."""

    k: int  # ⌊effective rank⌋, at least 1: the dominant directions
    top: float  # σ_1
    gap: float  # δ_k = σ_k - σ_(k+1)
    norm: float  # ‖x' - x‖₂, all channels at once
    norms: Tensor  # of each exchanged channel alone, (k,)
    novelty: (
        Tensor  # share of each given channel's norm outside the span of the top k left singular vectors; 0 for none
    )


def injection(x: Tensor, giver: Tensor, blended: Tensor, to: Tensor) -> Injection:
    """Measure what blending channels into features does to their spectrum; all are centred here.

    Where ‖x' - x‖₂ < δ_k / 2 the k dominant directions stay that: σ_k' > σ_(k+1)' (Weyl), and they turn by an angle whose
    sine is at most ‖x' - x‖₂ / (δ_k - ‖x' - x‖₂) < 1 (Wedin 1972).

    Args:
        x: (n, c), the features.
        giver: (n, k), the channels that are blended in.
        blended: (n, c), the features afterwards, x'.
        to: (k,), the channels that changed.

    Returns:
        Norms and directions, in the unit of ``x``.

    Raises:
        NumericsError: for constant features, and for values that are not finite.
    """
    x, blended, giver = (y - y.mean(0) for y in (finite(x, "the features"), finite(blended, "x'"), finite(giver, "y")))
    u, sigma, _ = torch.linalg.svd(x, full_matrices=False)
    k = max(1, math.floor(effective_rank(sigma) + 1e-9))
    following = float(sigma[k]) if k < len(sigma) else 0.0
    outside = giver - u[:, :k] @ (u[:, :k].T @ giver)
    length = giver.norm(dim=0)
    share = outside.norm(dim=0) / length.clamp_min(torch.finfo(torch.float64).tiny)
    change = blended - x
    return Injection(
        k=k,
        top=float(sigma[0]),
        gap=float(sigma[k - 1]) - following,
        norm=float(torch.linalg.matrix_norm(change, 2)),
        norms=change[:, to].norm(dim=0),
        novelty=torch.where(length > 0, share, 0.0),
    )


def clip_ranks(x: Tensor) -> Tensor:
    """Compute the effective rank, (n,) float64 in [1, min(t, c)], of each example's tokens ``x`` (n, t, c), not centred.

    exp of the entropy of σ/Σσ (Roy and Vetterli 2007); 0 for tokens that are all 0. From ``numpy.linalg.svd`` of each.
    Raises NumericsError for another shape and for values that are not finite.
    """
    if x.ndim != 3:
        raise NumericsError(f"tokens have the shape (examples, tokens, channels), found {tuple(x.shape)}: pass those.")
    sigma = torch.cat([torch.linalg.svdvals(part) for part in finite(x, "the tokens").split(_CHUNK)])
    total = sigma.sum(1, keepdim=True)
    p = sigma / total.clamp_min(torch.finfo(torch.float64).tiny)
    ranks = (-torch.xlogy(p, p).sum(1)).exp()
    return torch.where(total[:, 0] > 0, ranks, 0.0)


def harmonic_mean(a: Tensor, b: Tensor) -> Tensor:
    """Compute 2ab/(a + b) of each pair of two tensors of one shape, float64; 0 where one of the two is not positive.

    Equals ``scipy.stats.hmean([a, b])`` for positive numbers. Raises NumericsError where one is not finite.
    """
    a, b = finite(a, "the gains"), finite(b, "the gains")
    both = (a > 0) & (b > 0)
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    # Divided by the larger first, so that the product cannot overflow.
    return torch.where(both, 2 * low / (1 + low / torch.where(both, high, 1.0)), 0.0)
