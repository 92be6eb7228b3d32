"""Random features, against NumPy, SciPy and scikit-learn."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.preprocessing import StandardScaler

from collapsekit.stats.random_features import (
    ConvolutionalFeatures,
    FourierFeatures,
    count_tokens,
    evenly,
    laid_out,
    median_distance,
    sketch,
    standardised,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_scales_are_those_of_scikit_learn_and_constant_columns_vanish() -> None:
    x = normal(50, 4) * torch.tensor([1.0, 10.0, 0.1, 0.0]) + torch.tensor([5.0, -3.0, 0.0, 7.0])
    z = StandardScaler().fit(x[:30].numpy()).transform(x.numpy())
    assert torch.allclose(standardised(x, x[:30])[:, :3], torch.as_tensor(z)[:, :3].float().clamp(-10, 10), atol=1e-4)
    assert (standardised(x, x[:30])[:, 3] == 0).all()


def test_the_median_distance_is_that_of_scipy() -> None:
    x = normal(31, 5)
    assert median_distance(x) == pytest.approx(np.sort(pdist(x.double()))[(31 * 30 // 2 - 1) // 2], rel=1e-9)
    assert median_distance(torch.zeros(4, 2)) == 1.0


def test_inner_products_of_fourier_features_are_the_kernel() -> None:
    x, bandwidth = normal(20, 3), 1.7
    features = FourierFeatures.draw(3, 20000, bandwidth, 0)(x)
    kernel = rbf_kernel(x.numpy(), gamma=1 / (2 * bandwidth**2))
    assert torch.allclose(features @ features.T, torch.as_tensor(kernel).float(), atol=0.04)


def test_a_sketch_keeps_inner_products_on_average() -> None:
    x = normal(6, 300)
    found = torch.stack([sketch(x, 64, seed) @ sketch(x, 64, seed).T for seed in range(400)]).mean(0)
    assert torch.allclose(found, x @ x.T, atol=8.0)
    assert sketch(x, 64, 1).shape == (6, 64)


def test_tokens_are_counted_as_scikit_learn_counts_them() -> None:
    ids = torch.randint(0, 40, (25, 9), generator=torch.Generator().manual_seed(0))
    texts = [" ".join(f"w{i}" for i in row) for row in ids.tolist()]
    theirs = CountVectorizer(vocabulary=[f"w{i}" for i in range(40)]).fit_transform(texts).toarray()
    assert np.array_equal(count_tokens(ids, None, 40, 0, placed=False).numpy(), theirs)
    keep = torch.arange(9).expand(25, 9) < 5
    texts = [" ".join(f"w{i}" for i in row[:5]) for row in ids.tolist()]
    theirs = CountVectorizer(vocabulary=[f"w{i}" for i in range(40)]).fit_transform(texts).toarray()
    assert np.array_equal(count_tokens(ids, keep, 40, 0, placed=False).numpy(), theirs)


def test_tokens_beyond_the_columns_are_hashed_and_none_is_lost() -> None:
    ids = torch.randint(-5, 10**6, (25, 9), generator=torch.Generator().manual_seed(0))
    for placed in (False, True):
        counts = count_tokens(ids, None, 64, 0, placed=placed)
        assert (counts.sum(1) == 9).all()
        assert (counts.sum(0) > 0).sum() > 40
    swapped = ids.flip(1)
    assert torch.equal(count_tokens(ids, None, 64, 0, placed=False), count_tokens(swapped, None, 64, 0, placed=False))
    assert not torch.equal(count_tokens(ids, None, 64, 0, placed=True), count_tokens(swapped, None, 64, 0, placed=True))


@pytest.mark.parametrize("shape", [(2, 11), (2, 7, 8)])
def test_convolutions_are_sums_over_windows(shape: tuple[int, ...]) -> None:
    x = normal(5, *shape)
    drawn = ConvolutionalFeatures.draw(x, 24, 0)
    assert drawn is not None
    found, at = drawn(x), 0
    z = ((x - drawn.centre) / drawn.scale).double().numpy()
    for bank in drawn.banks:
        assert bank.stride == 1
        size, axes = bank.kernels.shape[2], len(shape) - 1
        places = [range(n - (size - 1) * bank.dilation) for n in shape[1:]]
        steps = np.arange(size) * bank.dilation
        k = bank.kernels.double().numpy()
        values = np.empty((5, len(k), *[len(p) for p in places]))
        for place in np.ndindex(*values.shape[2:]):
            window = z[:, :, place[0] + steps]
            window = window if axes == 1 else window[..., place[1] + steps]
            values[(slice(None), slice(None), *place)] = window.reshape(5, -1) @ k.reshape(len(k), -1).T
        shaped = (1, -1, *[1] * axes)
        values = (values - bank.mean.numpy().reshape(shaped)) / bank.deviation.numpy().reshape(shaped)
        values = (values - bank.threshold.numpy().reshape(shaped)).reshape(5, len(k), -1)
        assert np.allclose(found[:, at : at + len(k)], values.max(2), atol=1e-4)
        assert np.allclose(found[:, at + len(k) : at + 2 * len(k)], np.maximum(values, 0).mean(2), atol=1e-4)
        at += (2 + 2**axes) * len(k)
    assert at == found.shape[1]


def test_either_layout_of_a_wave_gives_the_same_features() -> None:
    x = normal(6, 3, 40)
    one, other = laid_out(x), laid_out(x.transpose(1, 2))
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(laid_out(normal(6, 3, 9, 8))[0], laid_out(normal(6, 3, 9, 8).movedim(1, 3))[0])


def test_what_is_too_short_for_kernels_has_none() -> None:
    assert ConvolutionalFeatures.draw(normal(4, 1, 2), 24, 0) is None
    assert laid_out(normal(4, 255)) == []
    assert laid_out(normal(4, 256))[0].shape == (4, 1, 256)


def test_large_images_are_averaged_and_cost_stays_bounded() -> None:
    x = normal(3, 1, 200, 200)
    drawn = ConvolutionalFeatures.draw(x, 24, 0)
    assert drawn is not None
    assert torch.isfinite(drawn(x)).all()
    long = ConvolutionalFeatures.draw(normal(3, 1, 60000), 160, 0)
    assert long is not None
    assert long.banks[0].stride > 1


def test_rows_are_picked_evenly_and_in_order() -> None:
    rows = torch.arange(100, 200)
    assert torch.equal(evenly(rows, 200), rows)
    assert evenly(rows, 5).tolist() == [100, 125, 150, 174, 199]


def test_the_cost_is_linear_in_the_number_of_rows() -> None:
    x = normal(2048, 1, 20, 20)
    drawn = ConvolutionalFeatures.draw(x[:50], 40, 0)
    assert drawn is not None

    def seconds(n: int) -> float:
        began = time.process_time()
        drawn(x[:n])
        return time.process_time() - began

    seconds(256)
    assert min(seconds(2048) for _ in range(3)) < 16 * min(seconds(256) for _ in range(3))  # 8 times as many
