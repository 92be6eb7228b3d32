"""Random features: fixed draws whose linear readout sees what one of the numbers themselves does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from collapsekit.stats.threads import threads_for

SAMPLE = 256  # training rows that scales are read from
ROWS = 256  # rows a step, so that memory does not grow with the number of examples
LENGTHS, SIDES = (3, 9), (3, 5, 7)  # of kernels over one axis, and over two
WAVE = 256  # numbers from which a vector is read as a wave too
LONGEST = 48  # positions an axis of an image is averaged down to
OPERATIONS = 6e6  # of the kernels, an example: beyond it they are placed at every second, third ... position
FRACTIONS = (-0.5, 1.5)  # where thresholds lie, in deviations of what a kernel gives


def standardised(x: Tensor, sample: Tensor) -> Tensor:
    """Centre and scale features by the mean and deviation of a sample, constant ones to 0.

    Args:
        x: (n, d).
        sample: (r, d), rows of the training examples.

    Returns:
        (n, d), float32, within 10 deviations.
    """
    mean, std = sample.double().mean(0), sample.double().std(0, correction=0)
    constant = std <= 1e-10 * mean.abs().clamp_min(1e-30)
    scaled = (x.double() - mean) / torch.where(constant, 1.0, std) * ~constant
    return scaled.clamp(-10.0, 10.0).float()


def median_distance(x: Tensor) -> float:
    """Compute the median Euclidean distance between at most 400 rows of x (r, d), evenly spaced; 1 where it is 0."""
    rows = torch.linspace(0, len(x) - 1, min(400, len(x))).round().long()
    found = torch.pdist(x[rows].double())
    middle = float(found.median()) if len(found) else 0.0
    return middle if middle > 0 else 1.0


@dataclass(frozen=True)
class FourierFeatures:
    """Random Fourier features of the RBF kernel (Rahimi & Recht 2007): cosines of random projections."""

    frequencies: Tensor  # (d, D)
    phases: Tensor  # (D,)

    @classmethod
    def draw(cls, width: int, count: int, bandwidth: float, seed: int) -> FourierFeatures:
        """Draw features of the kernel exp(-|x - y|² / 2·bandwidth²).

        Args:
            width: d, numbers an example.
            count: D, how many features.
            bandwidth: of the kernel, in the unit of the numbers.
            seed: of the draw.

        Returns:
            The features' frequencies (d, D) and phases (D,).
        """
        g = torch.Generator().manual_seed(seed)
        frequencies = torch.randn(width, count, generator=g) / bandwidth
        return cls(frequencies, 2 * torch.pi * torch.rand(count, generator=g))

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the features (n, D) of x (n, d), whose inner products come near to the kernel."""
        scale = math.sqrt(2 / len(self.phases))
        return scale * torch.cos(x @ self.frequencies + self.phases)


def sketch(x: Tensor, width: int, seed: int) -> Tensor:
    """Project wide rows at random: every number is added, under a random sign, to one of ``width`` sums.

    Inner products are kept in expectation (count sketch, Charikar et al. 2002).

    Args:
        x: (n, d).
        width: how many sums.
        seed: of the projection.

    Returns:
        (n, width), float32.
    """
    g = torch.Generator().manual_seed(seed)
    place = torch.randint(0, width, (x.shape[1],), generator=g)
    sign = torch.randint(0, 2, (x.shape[1],), generator=g).float() * 2 - 1
    parts = [torch.zeros(len(some), width).index_add_(1, place, some.float() * sign) for some in x.split(ROWS)]
    return torch.cat(parts)


def count_tokens(ids: Tensor, keep: Tensor | None, bins: int, seed: int, *, placed: bool) -> Tensor:
    """Count the tokens of each example, a column a token, or a hash of it where there are more than columns.

    Args:
        ids: whole numbers, (n, t).
        keep: bool (n, t), which of them count; None: all.
        bins: how many columns.
        seed: of the hash.
        placed: whether a token at another place is another token.

    Returns:
        Counts (n, bins), float32. Not placed, a token below ``bins`` is counted in the column of its number.
    """
    ids = ids.reshape(len(ids), -1).long()
    if placed:
        ids = ids * 1000003 + (torch.arange(ids.shape[1]) + 1) * 7919
    hashed = (ids * 2654435761 + seed) % 2147483647 % bins
    column = hashed if placed else torch.where((ids >= 0) & (ids < bins), ids, hashed)
    weight = torch.ones_like(column, dtype=torch.float32) if keep is None else keep.reshape(column.shape).float()
    return torch.zeros(len(ids), bins).scatter_add_(1, column, weight)


@dataclass(frozen=True)
class KernelBank:
    """Random kernels of one size and dilation, with the scale and the threshold of what each gives."""

    kernels: Tensor  # (k, c, size) or (k, c, size, size)
    dilation: int
    stride: int
    mean: Tensor  # (k,)
    deviation: Tensor  # (k,)
    threshold: Tensor  # (k,)

    def __call__(self, x: Tensor) -> Tensor:
        """Compute what kernels give at every position of x (n, c, l) or (n, c, h, w), over the threshold: (n, k, ...)."""
        z = _convolved(x, self.kernels, self.dilation, self.stride)
        shape = (1, -1, *[1] * (z.ndim - 2))
        scaled: Tensor = (z - self.mean.reshape(shape)) / self.deviation.reshape(shape) - self.threshold.reshape(shape)
        return scaled


@dataclass(frozen=True)
class ConvolutionalFeatures:
    """Random convolutions, rectified and pooled (Coates & Ng 2012; over one axis after ROCKET, Dempster et al. 2020)."""

    banks: tuple[KernelBank, ...]
    centre: float
    scale: float

    @classmethod
    def draw(cls, sample: Tensor, count: int, seed: int) -> ConvolutionalFeatures | None:
        """Draw about ``count`` kernels of a few sizes and dilations.

        Args:
            sample: training rows, (r, c, l) or (r, c, h, w), by which what kernels give is scaled.
            count: how many kernels.
            seed: of the draw.

        Returns:
            The kernels; None where an axis is too short for any.
        """
        centre, scale = float(sample.double().mean()), float(sample.double().std(correction=0)) or 1.0
        x = _shrunk((sample.float() - centre) / scale)
        shortest, axes = min(x.shape[2:]), x.ndim - 2
        sizes = LENGTHS if axes == 1 else SIDES
        most = shortest if axes == 1 else 3  # dilations over an image stay small
        pairs = [(s, 2**e) for s in sizes for e in range(16) if 2**e < most and (s - 1) * 2**e < shortest]
        if not pairs:
            return None
        each = max(4, count // len(pairs))
        cost = 2.0 * each * x.shape[1] * x[0, 0].numel() * sum(s**axes for s, _ in pairs)
        stride = 1
        while cost / stride**axes > OPERATIONS:
            stride += 1
        g = torch.Generator().manual_seed(seed)
        return cls(tuple(_drawn(x, each, pair, stride, g) for pair in pairs), centre, scale)

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the features (n, D) of x (n, c, l) or (n, c, h, w).

        They are the largest value of each kernel, the mean of its positive ones, and that in each half or quarter.
        """
        parts = []
        with threads_for(OPERATIONS * min(ROWS, len(x))), torch.no_grad():
            for some in x.split(ROWS):
                small = _shrunk((some.float() - self.centre) / self.scale)
                parts.append(torch.cat([_pooled(bank(small)) for bank in self.banks], 1))
        return torch.cat(parts)


def _drawn(x: Tensor, count: int, pair: tuple[int, int], stride: int, generator: torch.Generator) -> KernelBank:
    size, dilation = pair
    axes = x.ndim - 2
    kernels = torch.randn(count, x.shape[1], *[size] * axes, generator=generator)
    kernels[::2] -= kernels[::2].flatten(2).mean(2).reshape(-1, x.shape[1], *[1] * axes)  # half do not see the level
    low, high = FRACTIONS
    threshold = low + (high - low) * torch.rand(count, generator=generator)
    z = _convolved(x, kernels, dilation, stride).double().transpose(0, 1).flatten(1)
    deviation = z.std(1, correction=0)
    flat = deviation <= 1e-9 * z.abs().amax(1).clamp_min(1e-30)
    return KernelBank(
        kernels, dilation, stride, z.mean(1).float(), torch.where(flat, 1.0, deviation).float(), threshold
    )


def _convolved(x: Tensor, kernels: Tensor, dilation: int, stride: int) -> Tensor:
    if kernels.ndim == 3:
        return F.conv1d(x, kernels, stride=stride, dilation=dilation)
    return F.conv2d(x, kernels, stride=stride, dilation=dilation)


def _pooled(z: Tensor) -> Tensor:
    """Pools of (n, k, ...) over positions, (n, pools·k)."""
    positive = z.clamp_min(0.0)
    if z.ndim == 3:
        parts = F.adaptive_avg_pool1d(positive, 2)
    else:
        parts = F.adaptive_avg_pool2d(positive, 2)
    return torch.cat([z.flatten(2).amax(2), positive.flatten(2).mean(2), parts.flatten(1)], 1)


def _shrunk(x: Tensor) -> Tensor:
    """Images averaged down to at most LONGEST positions an axis; other inputs as they are."""
    if x.ndim != 4:
        return x
    steps = [-(-side // LONGEST) for side in x.shape[2:]]
    return x if steps == [1, 1] else F.avg_pool2d(x, steps)


def laid_out(x: Tensor) -> list[Tensor]:
    """Lay inputs out as maps with channels first, in every way that kernels may read them.

    The axis of channels is the shorter of the first and the last; a matrix may also be an image of one channel.

    Args:
        x: (n, ...).

    Returns:
        Maps, each (n, c, l) or (n, c, h, w); none for short vectors and for more axes than a film's.
    """
    if x.ndim == 2:
        return [x[:, None]] if x.shape[1] >= WAVE else []
    if x.ndim == 3:
        wave = x if x.shape[1] <= x.shape[2] else x.transpose(1, 2)
        image = [wave[:, None]] if min(x.shape[1:]) > SIDES[-1] else []
        return [wave, *image]
    if x.ndim == 4:
        return [x if x.shape[1] <= x.shape[3] else x.movedim(3, 1)]
    return [x.flatten(1, 2)] if x.ndim == 5 and x.shape[1] * x.shape[2] <= 64 else []


def evenly(rows: Tensor, most: int) -> Tensor:
    """Pick at most so many of some rows (r,), evenly spaced, in their order."""
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most).round().long()]


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Put features side by side: (n, ...) each, to (n, d) float32."""
    return torch.cat([p.reshape(len(p), -1).float() for p in parts], 1)
