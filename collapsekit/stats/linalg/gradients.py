"""Gradients as matrices: outer products, leading subspaces, and how far directions agree."""

from __future__ import annotations

import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.checks import doubled, matrix
from collapsekit.stats.threads import threads_for

_TINY = torch.finfo(torch.float64).tiny


def outer_product_sum(gradients: Tensor) -> Tensor:
    """Sum g gᵀ, (d, d) float64, over all examples and positions of ``gradients`` (n, ..., d).

    Divided by n, and summed over the outputs the gradients are of, it is the average gradient outer product of
    Radhakrishnan et al. 2024 (Science 383:1461). Equals ``numpy.einsum('...i,...j->ij', g, g)``.
    Raises NumericsError where a gradient is not finite.
    """
    total = OuterProductSum(gradients.shape[-1])
    total.add(gradients)
    return total.finish()


class OuterProductSum:
    """The sum of ``outer_product_sum`` over many batches of gradients of ``width`` numbers, kept where they lie: a device
    is waited for once, at the end."""

    def __init__(self, width: int) -> None:
        self.total, self.odd = torch.zeros(width, width, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        self.count = 0

    def add(self, gradients: Tensor) -> None:
        """Add gradients (n, ..., width)."""
        flat = doubled(gradients.detach()).reshape(-1, gradients.shape[-1])
        if not self.count:
            self.total, self.odd = self.total.to(flat.device), self.odd.to(flat.device)
        with threads_for(2.0 * flat.numel() * flat.shape[1]):
            self.total += flat.T @ flat
        self.odd += (~torch.isfinite(flat)).sum()
        self.count += flat.numel()

    def finish(self) -> Tensor:
        """Return the sum, (width, width) float64, on the CPU. Raises NumericsError where a gradient was not finite."""
        both = torch.cat([self.total.reshape(-1), self.odd]).cpu()
        if odd := int(both[-1]):
            raise NumericsError(
                f"the gradients must be finite, found {odd} NaN or Inf among {self.count} values: "
                "find what produces them, or drop those examples."
            )
        return both[:-1].reshape(self.total.shape)


def spectrum_of(x: Tensor) -> Tensor:
    """Compute the singular values, (min(r, c),) float64, descending, of ``x`` (r, c) as it is, without centring.

    Equals ``numpy.linalg.svd(x, compute_uv=False)``. Raises NumericsError where x is no finite matrix.
    """
    x = matrix(x, "the gradient")
    with threads_for(4 / 3 * x.numel() * min(x.shape)):
        found: Tensor = torch.linalg.svdvals(x)
    return found


def leading_subspace(gram: Tensor, share: float, size: int | None = None) -> Tensor:
    """Find the fewest leading eigenvectors that hold a share of a matrix's trace.

    Args:
        gram: (d, d), positive semidefinite.
        share: of its trace, over 0 and up to 1.
        size: how many eigenvectors to take instead.

    Returns:
        (d, k), orthonormal columns.

    Raises:
        NumericsError: for a share out of range and where the trace is 0.
    """
    gram = matrix(gram, "the outer product")
    if not 0 < share <= 1:
        raise NumericsError(f"the share of a trace lies over 0 and up to 1, found {share}: use 0.9.")
    scale = gram.diagonal().max()
    if float(scale) <= 0:
        raise NumericsError("the outer product is zero, so it has no leading directions: look for a dead layer.")
    with threads_for(9.0 * gram.shape[0] ** 3):
        values, vectors = torch.linalg.eigh(gram / scale)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    if size is None:
        held = values.cumsum(0) / values.sum()
        size = int((held < share * (1 - 1e-12)).sum()) + 1
    leading: Tensor = vectors[:, :size]
    return leading


def row_subspace(weight: Tensor, columns: Tensor, share: float) -> Tensor:
    """Find the leading directions in which the neurons of a layer read some of its inputs, other weights set to 0.

    Args:
        weight: (o, d), the layer's weights.
        columns: (d,), bool, the inputs.
        share: of the squared singular values, over 0 and up to 1.

    Returns:
        (d, r), orthonormal columns that hold ``share``.

    Raises:
        NumericsError: where all of these weights are 0, or there are none.
    """
    part = matrix(weight, "the weights") * columns.to(torch.float64)
    if not bool((part != 0).any()):
        raise NumericsError("the weights of these inputs are all 0, so they span no subspace.")
    return leading_subspace(part.T @ part, share)


def row_basis(weight: Tensor) -> Tensor:
    """Find orthonormal columns, (d, r) with r the smaller of o and d, whose span holds the rows of ``weight`` (o, d).

    Wᵀ M W lies in that span for any M, so its decomposition is that of the (r, r) matrix in this basis. Raises
    NumericsError where the weights are no finite matrix.
    """
    weight = matrix(weight, "the weights")
    with threads_for(4.0 * weight.numel() * min(weight.shape)):
        found: Tensor = torch.linalg.qr(weight.T)[0]
    return found


def subspace_alignment(a: Tensor, b: Tensor) -> float:
    """Compute the mean squared cosine of the principal angles between the spans of ``a`` (d, k) and ``b`` (d, r).

    Their columns are orthonormal. 0 where the spans are orthogonal, 1 where one lies in the other; for two spans at random
    its mean is max(k, r)/d. Equals ``numpy.mean(numpy.cos(scipy.linalg.subspace_angles(a, b)) ** 2)``.
    Raises NumericsError where the two are of different spaces, or one is empty.
    """
    a, b = matrix(a, "the first subspace"), matrix(b, "the second subspace")
    if a.shape[0] != b.shape[0] or 0 in (*a.shape, *b.shape):
        raise NumericsError(
            f"two subspaces need one space and a direction each, found {tuple(a.shape)} and {tuple(b.shape)}: "
            "pass bases of one space as columns."
        )
    return min(1.0, float((a.T @ b).square().sum()) / min(a.shape[1], b.shape[1]))


def frobenius_cosine(a: Tensor, b: Tensor) -> float:
    """Compute ⟨a, b⟩/(‖a‖‖b‖) of two tensors of one shape, in [-1, 1]; for positive semidefinite matrices in [0, 1].

    Equals ``1 - scipy.spatial.distance.cosine(a.ravel(), b.ravel())``. Raises NumericsError where one is 0.
    """
    if a.shape != b.shape:
        raise NumericsError(f"a cosine needs two tensors of one shape, found {tuple(a.shape)} and {tuple(b.shape)}.")
    return float(cosine_matrix(torch.stack([a.reshape(-1), b.reshape(-1)]))[0, 1])


def cosine_matrix(vectors: Tensor) -> Tensor:
    """Compute cosines, (m, m) symmetric float64 in [-1, 1], between the rows of ``vectors`` (m, p).

    Equals ``sklearn.metrics.pairwise.cosine_similarity``, but for a row of zeros, which raises NumericsError.
    """
    rows = matrix(vectors, "the vectors")
    largest = rows.abs().amax(dim=1, keepdim=True)
    if bool((largest <= _TINY).any()):
        raise NumericsError("one of the vectors is 0, so it has no direction.")
    rows = rows / largest  # so that squares neither overflow nor vanish
    rows = rows / rows.norm(dim=1, keepdim=True)
    found = rows @ rows.T
    cosines: Tensor = ((found + found.T) / 2).clamp(-1.0, 1.0)
    return cosines


def owned_columns(drive: Tensor, share: float) -> Tensor:
    """Decide which of m modalities owns each of d columns: (d,), int64, -1 where none does.

    ``drive`` (m, d), >= 0, says how far each modality moves each column. A column belongs to the modality that does at
    least ``share`` (over 0.5, up to 1) of the moving; a column that none moves, or several do, belongs to none. Raises
    NumericsError for a share out of range or a negative drive.
    """
    drive = matrix(drive, "the drive")
    if not 0.5 < share <= 1:
        raise NumericsError(f"a column has one owner only with a share over 0.5 and up to 1, found {share}: use 0.9.")
    if bool((drive < 0).any()):
        raise NumericsError(f"drives must be >= 0, found {float(drive.min()):.3g}: pass mean squared changes.")
    total = drive.sum(dim=0)
    most, owner = drive.max(dim=0)
    return torch.where((total > 0) & (most >= share * total), owner, -1)
