"""Variance inflation factors: how well each feature is told by the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.linalg.moments import Moments
from collapsekit.stats.threads import threads_for

# Relative to the trace k of a k-column correlation matrix. Above it an inverse keeps 6 digits or more.
_SINGULAR_RTOL = 1e-10


@dataclass(frozen=True, eq=False)
class Vif:
    """Variance inflation factors ``values`` (k,), float64, each >= 1, of the columns in ``kept``.

    Columns in ``constant`` were dropped. Where ``bound``, the correlation matrix is near-singular and each value is a lower
    bound.
    """

    values: Tensor
    kept: tuple[int, ...]
    constant: tuple[int, ...]
    bound: bool


def vif(m: Moments) -> Vif:
    """Compute variance inflation factors 1/(1 - R²), (k,), of each feature regressed (with intercept) on all others.

    The diagonal of the inverse correlation matrix (Belsley, Kuh and Welsch 1980, section 3.2); equals
    ``statsmodels.stats.outliers_influence.variance_inflation_factor`` on a design with a constant column.
    Constant columns (see ``Moments.constant``) have no factor; they are dropped and listed. Where the
    smallest eigenvalue is at or below 1e-10·k, eigenvalues are raised to that, which lowers every value:
    each is then a bound from below, and ``bound`` is True.
    Raises NumericsError where n <= d (every factor would be infinite) or under two columns vary.
    """
    if m.n <= m.d:
        raise NumericsError(
            f"VIF of {m.d} features needs more than {m.d} examples, found {m.n}: "
            "use more examples, or fewer features, for instance leading principal components."
        )
    fixed = m.constant()
    kept = torch.nonzero(~fixed).flatten()
    if kept.shape[0] < 2:
        raise NumericsError(
            f"VIF needs at least two features that vary, found {kept.shape[0]} of {m.d}: "
            "check that the encoder varies with its input."
        )
    spread = m.scatter.diagonal()[kept].sqrt()
    correlation = m.scatter[kept][:, kept] / spread[:, None] / spread[None, :]
    correlation.fill_diagonal_(1.0)
    with threads_for(9.0 * m.d**3):
        eigenvalues, vectors = torch.linalg.eigh(correlation)
    floor = _SINGULAR_RTOL * kept.shape[0]
    bound = bool(eigenvalues[0] <= floor)
    values = (vectors.square() / eigenvalues.clamp(min=floor)).sum(dim=1)
    # No factor is below 1, so raising what rounding or the floor left there keeps it a bound from below.
    return Vif(
        values=values.clamp(min=1.0),
        kept=tuple(kept.tolist()),
        constant=tuple(torch.nonzero(fixed).flatten().tolist()),
        bound=bound,
    )
