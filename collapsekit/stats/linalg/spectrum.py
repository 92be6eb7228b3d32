"""Singular values of centred features, and the four ranks read off them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.checks import finite, matrix
from collapsekit.stats.linalg.moments import Moments
from collapsekit.stats.threads import side_by_side, threads_for

_EPS = torch.finfo(torch.float64).eps


def singular_values(m: Moments) -> Tensor:
    """Compute singular values, (d,) float64, descending, of the centred data matrix from the scatter alone.

    They are square roots of eigenvalues, which are exact to about eps·d of the largest: values at or below
    1.5e-8·sqrt(d)·σmax are rounding and set to 0, as are constant columns (see ``Moments.constant``).
    ``singular_values_svd`` resolves smaller ones.
    Equals ``numpy.linalg.svd(x - x.mean(0), compute_uv=False)`` elsewhere, zero-padded to d.
    Raises NumericsError with fewer than 2 examples.
    """
    _check_size(m.n, m.d)
    varies = (~m.constant()).to(m.scatter.dtype)
    scatter = m.scatter * torch.outer(varies, varies)
    scale = scatter.diagonal().max().clamp(min=torch.finfo(torch.float64).tiny)
    with threads_for(4 / 3 * m.d**3):
        eigenvalues: Tensor = torch.linalg.eigvalsh(scatter / scale)
    eigenvalues = eigenvalues.flip(0)
    eigenvalues[eigenvalues <= _EPS * m.d * eigenvalues[0]] = 0.0
    sigma: Tensor = eigenvalues.clamp(min=0.0).sqrt() * scale.sqrt()
    return sigma


def spectra(moments: Iterable[Moments], d: int) -> list[Tensor]:
    """Compute :func:`singular_values`, each (d,), of several moments of ``d`` features."""
    return side_by_side(singular_values, moments, 4 / 3 * d**3)


def singular_values_svd(x: Tensor) -> Tensor:
    """Compute singular values, (d,) float64, descending, of ``x`` (n, d) after centring, by a float64 SVD.

    Resolves values down to eps·max(n, d)·σmax (the tolerance of ``numpy.linalg.matrix_rank``), and sets
    smaller ones to 0. Needs all of x at once. Raises NumericsError with fewer than 2 examples.
    """
    x = matrix(x, "the features")
    n, d = x.shape
    _check_size(n, d)
    mean = x.mean(dim=0)
    centred = x - mean
    centred -= centred.mean(dim=0)
    constant = Moments(n, mean, torch.diag(centred.square().sum(dim=0))).constant()
    centred[:, constant] = 0.0
    with threads_for(4 / 3 * n * d * min(n, d)):
        found = torch.linalg.svdvals(centred)
    found[found <= _EPS * max(n, d) * found[0]] = 0.0
    sigma = x.new_zeros(d)
    sigma[: found.shape[0]] = found
    return sigma


def effective_rank(sigma: Tensor) -> float:
    """Compute exp of the entropy of σ/Σσ for singular values ``sigma`` (d,).

    1 for one direction, d for an isotropic spectrum. Roy and Vetterli 2007; the entropy is of the singular values
    themselves, not of their squares. Raises NumericsError where all of them are 0.
    """
    s = _relative(sigma)
    p = s / s.sum()
    return math.exp(float(-torch.xlogy(p, p).sum()))


def numerical_rank(sigma: Tensor, rtol: float = 1e-3) -> int:
    """Count the singular values in ``sigma`` (d,) over ``rtol``·σmax: ``numpy.linalg.matrix_rank`` with that tolerance.

    From 1 to d. Raises NumericsError where all of them are 0, and for a tolerance outside [0, 1).
    """
    if not 0 <= rtol < 1:
        raise NumericsError(f"the relative tolerance of a rank lies in [0, 1), found {rtol}: use 1e-3.")
    return int((_relative(sigma) > rtol).sum())


def stable_rank(sigma: Tensor) -> float:
    """Compute Σσ²/σmax² of ``sigma`` (d,), the squared Frobenius over the squared spectral norm.

    Rudelson and Vershynin 2007. From 1 to d. Raises NumericsError where all of them are 0.
    """
    return float(_relative(sigma).square().sum())


def participation_ratio(sigma: Tensor) -> float:
    """Compute (Σσ²)²/Σσ⁴ of ``sigma`` (d,), the participation ratio of the covariance's eigenvalues.

    Gao et al. 2017. From 1 to d. Raises NumericsError where all of them are 0.
    """
    power = _relative(sigma).square()
    return float(power.sum().square() / power.square().sum())


def _relative(sigma: Tensor) -> Tensor:
    """σ/σmax, so that nothing that follows can overflow."""
    sigma = finite(sigma, "the singular values")
    if sigma.ndim != 1 or sigma.shape[0] == 0 or bool((sigma < 0).any()):
        raise NumericsError(
            f"singular values are a list of numbers >= 0, found shape {tuple(sigma.shape)} "
            "or a negative one: use singular_values."
        )
    top = sigma.max()
    if float(top) == 0.0:
        raise NumericsError(
            "the features are constant, so they have no rank: check that the encoder varies with its input."
        )
    return sigma / top


def _check_size(n: int, d: int) -> None:
    if n < 2 or d < 1:
        raise NumericsError(
            f"a spectrum needs at least 2 examples and 1 feature, found {n} and {d}: use more examples."
        )
