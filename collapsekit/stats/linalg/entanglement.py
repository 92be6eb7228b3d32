"""Predictive and noisy parts of features, which neurons carry both, of different modalities, and what chance would give."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.checks import finite, matrix

PREDICTIVE, NOISY = 0, 1  # places of a modality's two parts
_IDLE = 1e-10  # of the largest drive of any neuron; below, a neuron is driven by rounding
_FLAT = 1e-10  # of the largest variance of a readout's values; below, a value is a combination of others
_ALIKE = 1e-6  # drives this near a limit, relatively, reach it: float32 gradients do not tell them apart


def class_directions(x: Tensor, classes: Tensor, ridge: float = 1e-3) -> Tensor:
    """Find the directions of Fisher's linear discriminant analysis, one a class, which sum up to none.

    (W + λI)⁻¹(μ_c - μ)√p_c, W the covariance within classes, μ_c, μ means of a class and of all, p_c the class's share, λ
    ``ridge`` times the mean variance within classes. With no ridge their span is that of
    ``sklearn.discriminant_analysis.LinearDiscriminantAnalysis(solver="eigen").scalings_``.

    Args:
        x: (n, d), features.
        classes: (n,), int64, class numbers.
        ridge: at least 0, over 0 where W has no inverse.

    Returns:
        (d, C), float64, for the C classes that there are.

    Raises:
        NumericsError: where there are fewer than two classes, or nothing varies within them.
    """
    x = matrix(x, "the features")
    numbers, where, counts = classes.unique(return_inverse=True, return_counts=True)
    if len(numbers) < 2 or len(classes) != len(x):
        raise NumericsError(f"a discriminant needs two classes, found {len(numbers)}: use examples of more.")
    means = x.new_zeros(len(numbers), x.shape[1]).index_add_(0, where, x) / counts[:, None]
    within = x - means[where]
    spread = within.T @ within / len(x)
    level = float(spread.diagonal().mean())
    if level <= 0:
        raise NumericsError("the features do not vary within classes, so there is no discriminant: use more examples.")
    between = (means - x.mean(0)).T * (counts / len(x)).sqrt()
    found: Tensor = torch.linalg.solve(spread + ridge * level * torch.eye(x.shape[1], dtype=x.dtype), between)
    return found


def leading_values(readout: Tensor, x: Tensor, share: float) -> Tensor:
    """Choose the fewest uncorrelated combinations of a readout's values that hold a share of their variance.

    Args:
        readout: (d, C), slopes of C values by d features.
        x: (n, d), features.
        share: over 0 and up to 1.

    Returns:
        (d, k), their slopes, the combination of most variance first; of no columns where no value varies.
    """
    readout = matrix(readout, "the readout")
    values = _centred(x) @ readout
    power, turn = torch.linalg.eigh(values.T @ values / len(values))
    power, turn = power.flip(0).clamp_min(0), turn.flip(1)
    power = power[power > _FLAT * power.max()]
    before = power.cumsum(0) - power
    size = int((before < share * (1 - 1e-12) * power.sum()).sum())
    kept: Tensor = readout @ turn[:, :size]
    return kept


def explained_part(x: Tensor, readout: Tensor) -> Tensor:
    """Compute what a readout's values tell of features, by least squares: the mean, and what goes along with the values.

    What is left is uncorrelated with every value. Both turn with the features: of features xA they are those of x times A,
    for readouts of the same values.

    Args:
        x: (n, d), features.
        readout: (d, k), slopes of k values.

    Returns:
        (n, d), float64.
    """
    centred = _centred(x)
    values = centred @ matrix(readout, "the readout")
    along = values @ _whitening(values.T @ values / len(values))
    return x.double() - centred + along @ (along.T @ centred) / len(centred)


def _centred(x: Tensor) -> Tensor:
    x = matrix(x, "the features")
    return x - x.mean(0)


def _whitening(covariance: Tensor) -> Tensor:
    """A (k, r) with AᵀCA = 1 for ``covariance`` C (k, k), of directions that vary."""
    if len(covariance) == 0:
        return covariance
    power, turn = torch.linalg.eigh(covariance)
    kept = power > _FLAT * power.max().clamp_min(torch.finfo(torch.float64).tiny)
    found: Tensor = turn[:, kept] / power[kept].sqrt()
    return found


def explained_covariance(covariance: Tensor, readout: Tensor) -> Tensor:
    """Compute the covariance of :func:`explained_part`: ΣB(BᵀΣB)⁺BᵀΣ for a covariance Σ (d, d) and slopes B (d, k).

    Returns (d, d), float64, positive semidefinite; Σ minus it is the covariance of the rest.
    """
    covariance, readout = matrix(covariance, "the covariance"), matrix(readout, "the readout")
    along = covariance @ readout
    slopes = along @ _whitening(readout.T @ along)
    return slopes @ slopes.T


def grouped_forms(slopes: Tensor, groups: Tensor, count: int, forms: Tensor) -> Tensor:
    """Add up sᵀMs over the examples of each group, for several matrices M.

    Args:
        slopes: (n, d), s of each example.
        groups: (n,), group 0..count-1 of each.
        count: how many groups there are.
        forms: (l, d, d), symmetric.

    Returns:
        (l, count), float64.
    """
    slopes, d = matrix(slopes, "the slopes"), slopes.shape[1]
    outer = torch.zeros(count, d, d, dtype=torch.float64)
    for g in groups.unique().tolist():
        part = slopes[groups == g]
        outer[g] = part.T @ part
    return finite(forms, "the forms").reshape(len(forms), -1) @ outer.reshape(count, -1).T


@dataclass(frozen=True, eq=False)
class CarriedParts:
    """Which parts of which modalities each neuron carries, of the k neurons that anything drives."""

    shares: Tensor  # (k, m, 2), each part's share of the neuron's drive
    carried: Tensor  # (k, m, 2), bool

    @property
    def entangled(self) -> Tensor:
        """(k, m, m), bool: the neuron carries the noisy part of the first and the predictive part of the second, another."""
        both = self.carried[:, :, None, NOISY] & self.carried[:, None, :, PREDICTIVE]
        return both & ~torch.eye(both.shape[1], dtype=torch.bool)

    @property
    def shared_drive(self) -> float:
        """Probability that of two features of a neuron one predicts and one is noise of another modality."""
        noisy, predictive = self.shares[..., NOISY], self.shares[..., PREDICTIVE]
        every = noisy.sum(1) * predictive.sum(1) - (noisy * predictive).sum(1)
        return float(2 * every.clamp_min(0).mean())

    def expected_shared(self, there: Tensor) -> float:
        """Average that over all ways to permute a neuron's shares over the parts that are ``there``, (m, 2) bool."""
        parts = int(there.sum())
        pairs = int(there[:, NOISY].sum() * there[:, PREDICTIVE].sum() - there.all(1).sum())
        apart = 1 - self.shares.square().sum((1, 2))
        return float(2 * pairs * apart.clamp_min(0).mean()) / (parts * (parts - 1)) if parts > 1 else 0.0

    @property
    def conjugate(self) -> Tensor:
        """(k, m), bool: the neuron carries both parts of one modality."""
        return self.carried.all(2)


def carried_parts(drive: Tensor, least: float) -> CarriedParts:
    """Decide which parts a neuron carries: those with a share of at least ``least`` of its drive.

    Args:
        drive: (k, m, 2), >= 0, the predictive and the noisy part of each modality.
        least: in (0, 1).

    Returns:
        Shares, and what is carried, of neurons that anything drives.

    Raises:
        NumericsError: where no neuron is driven.
    """
    drive = finite(drive, "the drives")
    if drive.ndim != 3 or drive.shape[2] != 2 or bool((drive < 0).any()):
        raise NumericsError(f"drives are >= 0 of shape (k, m, 2), found {tuple(drive.shape)}: pass variances.")
    total = drive.sum((1, 2))
    if len(total) == 0 or float(total.max()) == 0.0:
        raise NumericsError("no feature drives any neuron: check that the representation varies with the features.")
    kept = total > _IDLE * total.max()
    shares = drive[kept] / total[kept, None, None]
    return CarriedParts(shares, shares >= least * (1 - _ALIKE))


def chance_of_entanglement(carried: int, there: Tensor) -> float:
    """Compute the probability that of some parts, drawn at random, one is noisy and one predictive of another modality.

    1 - (C(a, s) + C(b, s) + [s = 2]·c)/C(a + b, s) for s parts ``carried`` of a predictive and b noisy ones that are
    ``there``, c modalities having both: what is not entangled is of one kind, or the two parts of one modality.

    Args:
        carried: how many parts are drawn.
        there: (m, 2), bool, which parts there are.

    Returns:
        A probability.

    Raises:
        NumericsError: where more are drawn than there are.
    """
    a, b = int(there[:, PREDICTIVE].sum()), int(there[:, NOISY].sum())
    if not 0 <= carried <= a + b:
        raise NumericsError(f"{carried} of {a + b} parts cannot be drawn.")
    apart = math.comb(a, carried) + math.comb(b, carried)
    apart += int(there.all(1).sum()) if carried == 2 else 0
    apart -= carried == 0  # drawing none is counted for either kind
    return 1.0 - apart / math.comb(a + b, carried)


def chance_of_pair(carried: int, parts: int) -> float:
    """Compute the probability that two parts in particular are among those ``carried``, drawn at random from ``parts``."""
    return carried * (carried - 1) / (parts * (parts - 1)) if parts > 1 else 0.0


def count_range(chances: Tensor, level: float) -> tuple[int, int]:
    """Find where the number of independent events lies: quantiles (1 - level)/2 and (1 + level)/2 of the exact distribution.

    ``chances`` (k,) are the events' probabilities. Equals ``scipy.stats.binom.interval`` where all are the same.
    """
    mass = np.ones(1)
    for p in chances.tolist():
        mass = np.convolve(mass, [1 - p, p])
    below = np.cumsum(mass) + 1e-12
    return int(np.searchsorted(below, (1 - level) / 2)), int(np.searchsorted(below, (1 + level) / 2))


def feature_ratio(parts: CarriedParts, sizes: Tensor, modality: int, versus: int | None) -> float:
    """Compare what a predictive and what a noisy feature of a modality drives, in the neurons of another.

    The mean over neurons of the predictive part's share for each of its features, divided by the same of the noisy part.
    Neurons are weighted by the share of the predictive part of ``versus``: they count as far as they represent it.

    Args:
        parts: what neurons carry.
        sizes: (m, 2), features of each part.
        modality: whose features.
        versus: whose neurons; None: all neurons count alike.

    Returns:
        The ratio, at least 0.

    Raises:
        NumericsError: where a part has no features, no neuron counts, or the noisy part drives none of them.
    """
    if bool((sizes[modality] < 1).any()):
        kind = "predictive" if sizes[modality, PREDICTIVE] < 1 else "noisy"
        raise NumericsError(f"it has no {kind} features, so there is nothing to compare")
    weight = torch.ones(len(parts.shares), dtype=torch.float64)
    if versus is not None:
        weight = parts.shares[:, versus, PREDICTIVE]
    if float(weight.sum()) <= _IDLE:
        raise NumericsError("the other modality's predictive features drive no neuron")
    drive = (weight[:, None] * parts.shares[:, modality]).sum(0) / weight.sum()
    if float(drive[NOISY]) <= _IDLE:
        raise NumericsError("its noisy features drive no neuron of these, so the ratio has no bound")
    drive = drive / sizes[modality]
    return float(drive[PREDICTIVE] / drive[NOISY])


def features_of_neurons(drive: Tensor, second: float) -> float:
    """Count the features of a neuron, mean over neurons: those with at least ``second`` of its strongest one's drive.

    Args:
        drive: (k, F), >= 0.
        second: in (0, 1).

    Returns:
        The mean over neurons that anything drives, at least 1.

    Raises:
        NumericsError: where no neuron is driven.
    """
    drive = matrix(drive, "the drives")
    top = drive.amax(1)
    if float(top.max()) == 0.0:
        raise NumericsError("no feature drives any neuron: check that the representation varies with the features.")
    kept = top > _IDLE * top.max()
    reached = drive[kept] >= second * (1 - _ALIKE) * top[kept, None]
    return float(reached.sum(1).double().mean())


@dataclass(frozen=True, eq=False)
class GradientSums:
    """Gradients of each neuron's weights, summed over the examples of each group, and their lengths."""

    sums: Tensor  # (G, o, d)
    lengths: Tensor  # (G, o), summed
    squares: Tensor  # (G, o), lengths squared, summed

    def agreement(self, left_out: int | None = None) -> float:
        """Divide the length of the sum by the sum of lengths, both added up over neurons; nan-free: 0 for no gradient.

        1 where all examples pull alike, 0 where they cancel. ``left_out``: a group that does not count.
        """
        keep = torch.arange(len(self.sums)) != (-1 if left_out is None else left_out)
        total = float(self.lengths[keep].sum())
        return float(self.sums[keep].sum(0).norm(dim=1).sum()) / total if total > 0 else 0.0

    @property
    def chance(self) -> float:
        """The same of gradients that have a random sign each: in root mean square, neuron by neuron."""
        total = float(self.lengths.sum())
        return float(self.squares.sum(0).sqrt().sum()) / total if total > 0 else 0.0


def gradient_sums(x: Tensor, by_output: Tensor, groups: Tensor, count: int) -> GradientSums:
    """Add up the gradients of a linear layer's weights, group by group.

    Args:
        x: (n, t, d), what enters the layer at t positions.
        by_output: (n, t, o), the loss's gradient by what leaves it.
        groups: (n,), group 0..count-1 of each example.
        count: how many groups there are.

    Returns:
        The sums; of an example, its positions are one gradient.
    """
    x, by_output = finite(x, "the inputs"), finite(by_output, "the gradients")
    sums = torch.stack([torch.einsum("nto,ntd->od", by_output[groups == g], x[groups == g]) for g in range(count)])
    gram = torch.einsum("ntd,nsd->nts", x, x)
    squares = torch.einsum("nto,nts,nso->no", by_output, gram, by_output).clamp_min(0)
    made = [
        torch.zeros(count, squares.shape[1], dtype=torch.float64).index_add_(0, groups, v)
        for v in (squares.sqrt(), squares)
    ]
    return GradientSums(sums, *made)
