"""Spectra against NumPy's float64 SVD; ranks against their closed forms and invariances."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collapsekit.errors import NumericsError
from collapsekit.stats.linalg.moments import Moments, grouped_moments, merge_all
from collapsekit.stats.linalg.spectrum import (
    effective_rank,
    numerical_rank,
    participation_ratio,
    singular_values,
    singular_values_svd,
    stable_rank,
)

QUICK = settings(max_examples=25, deadline=None, derandomize=True)
RANKS: list[Callable[[torch.Tensor], float]] = [
    effective_rank,
    numerical_rank,
    stable_rank,
    participation_ratio,
]


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def decaying(seed: int, n: int = 200, d: int = 12) -> torch.Tensor:
    """Correlated features whose singular values span four decades."""
    return normal(seed, n, d) * torch.logspace(0, -4, d, dtype=torch.float64) @ rotation(seed + 1, d)


def rotation(seed: int, d: int) -> torch.Tensor:
    q, _ = torch.linalg.qr(normal(seed, d, d))
    return torch.as_tensor(q)


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize(("n", "d"), [(200, 12), (10, 25)])
def test_equals_numpys_svd(n: int, d: int, offset: float) -> None:
    x = decaying(0, n, d) + offset
    reference = np.zeros(d)
    found = np.linalg.svd(x.numpy() - x.numpy().mean(axis=0), compute_uv=False)
    reference[: min(n - 1, d)] = found[: min(n - 1, d)]
    grouped = merge_all(grouped_moments(x, torch.arange(n) % 3, 3))
    for sigma in (singular_values(Moments.of(x)), singular_values(grouped), singular_values_svd(x)):
        assert sigma.shape == (d,)
        np.testing.assert_allclose(sigma, reference, rtol=1e-6, atol=1e-9)


def test_ranks_are_their_definitions() -> None:
    sigma = np.array([5.0, 2.0, 1.0, 0.004, 0.0])
    p = sigma[:4] / sigma.sum()
    t = torch.from_numpy(sigma)
    assert effective_rank(t) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-12)
    assert stable_rank(t) == pytest.approx((sigma**2).sum() / 25, rel=1e-12)
    assert participation_ratio(t) == pytest.approx((sigma**2).sum() ** 2 / (sigma**4).sum(), rel=1e-12)
    assert numerical_rank(t) == 3
    assert numerical_rank(t, rtol=1e-4) == 4
    x = decaying(3)
    x = x - x.mean(dim=0)
    ours = singular_values(Moments.of(x))
    for rtol in (1e-1, 1e-2, 1e-3):
        assert numerical_rank(ours, rtol) == np.linalg.matrix_rank(x.numpy(), tol=rtol * float(ours[0]))


@pytest.mark.parametrize("k", [1, 3, 8])
def test_k_equal_directions_have_rank_k(k: int) -> None:
    for size in (7.0, 1e-200, 1e200):
        sigma = torch.zeros(8, dtype=torch.float64)
        sigma[:k] = size
        for rank in RANKS:
            assert rank(sigma) == pytest.approx(k, rel=1e-12)


@QUICK
@given(seed=st.integers(0, 999), factor=st.sampled_from([1e-150, 1e-6, 3.0, 1e9, 1e120]))
def test_ranks_do_not_change_under_rotation_scaling_and_shift(seed: int, factor: float) -> None:
    x = decaying(seed)
    moved = factor * (x @ rotation(seed + 7, 12) + 5)
    a, b = singular_values(Moments.of(x)), singular_values(Moments.of(moved))
    precise = singular_values_svd(moved)
    for rank in RANKS:
        assert rank(a) == pytest.approx(rank(b), rel=1e-6)
        assert rank(a) == pytest.approx(rank(precise), rel=1e-6)


@QUICK
@given(values=st.lists(st.floats(0, 1e6), min_size=1, max_size=20).filter(lambda v: max(v) > 1e-3))
def test_ranks_lie_between_one_and_the_count_of_directions(values: list[float]) -> None:
    sigma = torch.tensor(values, dtype=torch.float64)
    top = len(values) * (1 + 1e-12)
    assert 1 - 1e-12 <= stable_rank(sigma) <= participation_ratio(sigma) * (1 + 1e-12) ** 2 * len(values)
    for rank in RANKS:
        assert 1 - 1e-12 <= rank(sigma) <= top


def test_rounding_counts_for_nothing() -> None:
    """Three directions in 40 columns, one of them 1e12 and rounding, have rank 3."""
    x = normal(9, 500, 3) @ normal(10, 3, 40)
    x[:, 5] = 1e12 * (1 + 1e-13 * x[:, 5])
    assert numerical_rank(singular_values(Moments.of(x)), rtol=0.0) == 3
    batches = merge_all([Moments.of(b) for b in torch.tensor_split(x, [1, 8, 333])])
    assert numerical_rank(singular_values(batches), rtol=0.0) == 3
    assert numerical_rank(singular_values_svd(x), rtol=0.0) == 3
    few = normal(11, 6, 40)
    assert numerical_rank(singular_values(Moments.of(few)), rtol=0.0) == 5
    assert numerical_rank(singular_values_svd(few), rtol=0.0) == 5


@settings(QUICK, max_examples=200)
@given(seed=st.integers(0, 9999), n=st.integers(2, 6), d=st.integers(1, 8), offset=st.sampled_from([0, 1e6]))
def test_centring_takes_one_direction(seed: int, n: int, d: int, offset: float) -> None:
    x = normal(seed, n, d) + offset
    singly = merge_all([Moments.of(row) for row in torch.tensor_split(x, n)])
    for sigma in (singular_values(Moments.of(x)), singular_values(singly), singular_values_svd(x)):
        assert numerical_rank(sigma, rtol=0.0) <= min(n - 1, d)


def test_svd_resolves_what_the_scatter_cannot() -> None:
    x = torch.linalg.qr(normal(12, 300, 3) - normal(12, 300, 3).mean(dim=0)).Q
    x = x * torch.tensor([1.0, 1e-3, 1e-10], dtype=torch.float64)
    assert numerical_rank(singular_values_svd(x), rtol=1e-12) == 3
    assert numerical_rank(singular_values(Moments.of(x)), rtol=1e-12) == 2


def test_constant_features_have_no_rank() -> None:
    x = (10.0 ** torch.linspace(-8, 12, 41, dtype=torch.float64) / 3).expand(997, 41)
    x = x * (1 + 1e-13 * normal(13, 997, 41))
    batches = merge_all([Moments.of(b) for b in torch.tensor_split(x, [1, 8, 200, 731])])
    for sigma in (singular_values(Moments.of(x)), singular_values(batches), singular_values_svd(x)):
        assert sigma.tolist() == [0.0] * 41
        for rank in RANKS:
            with pytest.raises(NumericsError, match="constant"):
                rank(sigma)


def test_input_without_a_spectrum_is_refused() -> None:
    for n, d in ((1, 3), (0, 3), (3, 0)):
        with pytest.raises(NumericsError):
            singular_values(Moments.of(torch.zeros(n, d)))
        with pytest.raises(NumericsError):
            singular_values_svd(torch.zeros(n, d))
    for sigma in (
        torch.tensor([]),
        torch.tensor([1.0, -1.0]),
        torch.tensor([float("nan")]),
        torch.ones(2, 2),
    ):
        for rank in RANKS:
            with pytest.raises(NumericsError):
                rank(sigma)
    with pytest.raises(NumericsError):
        numerical_rank(torch.ones(3), rtol=-1.0)
