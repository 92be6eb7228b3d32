"""Moments against NumPy in extended precision, and that merging in any order changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collapsekit.errors import NumericsError
from collapsekit.stats.linalg.moments import Moments, grouped_moments, leave_one_out, merge_all

QUICK = settings(max_examples=25, deadline=None, derandomize=True)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same(a: Moments, b: Moments, rtol: float = 1e-9) -> None:
    assert a.n == b.n
    torch.testing.assert_close(a.mean, b.mean, rtol=1e-13, atol=1e-13)
    size = float(b.scatter.abs().max())
    torch.testing.assert_close(a.scatter, b.scatter, rtol=rtol, atol=rtol * size)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_equals_numpy_at_any_mean(offset: float) -> None:
    x = normal(0, 400, 7) @ normal(1, 7, 7)
    m = Moments.of(x + offset)
    # The offset costs float64 digits of x itself, before any of our code: 1e6 leaves about 1e-10.
    np.testing.assert_allclose(m.scatter, 399 * np.cov(x.numpy().T), rtol=1e-8, atol=1e-6)
    exact = (x + offset).numpy().astype(np.longdouble)
    centred = exact - exact.mean(axis=0)
    np.testing.assert_allclose(m.scatter, (centred.T @ centred).astype(float), rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_merging_batches_of_float32_features_equals_one_pass(offset: float) -> None:
    x = (normal(2, 1000, 5) * 30 + offset).float()
    parts = [Moments.of(b) for b in torch.tensor_split(x, [1, 3, 303, 303])]
    assert_same(merge_all(parts), Moments.of(x.double()))


@QUICK
@given(seed=st.integers(0, 999), cut=st.integers(0, 30), offset=st.sampled_from([0.0, 1e3, 1e6]))
def test_merge_is_commutative_and_equals_the_whole(seed: int, cut: int, offset: float) -> None:
    x = normal(seed, 30, 4) + offset
    a, b = Moments.of(x[:cut]), Moments.of(x[cut:])
    assert_same(a.merge(b), Moments.of(x))
    assert_same(b.merge(a), a.merge(b))


def test_empty_is_neutral() -> None:
    m = Moments.of(normal(3, 9, 3))
    assert m.merge(Moments.empty(3)) is m
    assert Moments.empty(3).merge(m) is m
    assert Moments.of(torch.zeros(0, 3)).n == 0


@pytest.mark.parametrize("count", [2, 3, 16])
def test_leave_one_out_equals_the_moments_of_the_other_rows(count: int) -> None:
    x = normal(4, 50, 4) + 1e3
    groups = torch.arange(50) % count
    left_out = list(leave_one_out(grouped_moments(x, groups, count)))
    assert len(left_out) == count
    for g in range(count):
        assert_same(left_out[g], Moments.of(x[groups != g]))


def test_a_column_that_differs_by_rounding_alone_is_constant() -> None:
    scales = 10.0 ** torch.linspace(-8, 12, 41, dtype=torch.float64)
    x = scales / 3 * (1 + 1e-13 * normal(7, 997, 41))
    assert bool((Moments.of(x).scatter.diagonal() > 0).all())
    assert bool(Moments.of(x).constant().all())
    assert bool(merge_all([Moments.of(b) for b in torch.tensor_split(x, [1, 8, 200, 731])]).constant().all())
    # The resolution of float32 is coarser than the limit, so a wobble in its last digit does count.
    assert not bool(Moments.of(scales / 3 * (1 + 1e-7 * normal(7, 997, 41))).constant().any())


def test_constant_columns_are_found_at_any_mean() -> None:
    x = normal(5, 100, 5)
    x[:, 1] = 0.1
    x[:, 2] = 0.0
    x[:, 3] = 1e6 + 0.1
    x[:, 4] = 1e6 + 1e-2 * x[:, 4]
    assert Moments.of(x).constant().tolist() == [False, True, True, True, False]
    assert merge_all([Moments.of(b) for b in x.tensor_split(15)]).constant().tolist() == [
        False,
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    "x",
    [
        torch.tensor([[1.0, float("nan")]]),
        torch.tensor([[1.0, float("inf")]]),
        torch.zeros(3),
        torch.zeros(2, 2, 2),
        torch.zeros(2, 2, dtype=torch.complex64),
        torch.tensor([[1e200], [-1e200]], dtype=torch.float64),
    ],
)
def test_input_without_moments_is_refused(x: torch.Tensor) -> None:
    with pytest.raises(NumericsError):
        Moments.of(x)


def test_misfits_are_refused() -> None:
    x = normal(6, 8, 2)
    with pytest.raises(NumericsError, match="2 and 3"):
        Moments.of(x).merge(Moments.empty(3))
    for groups in (torch.arange(7), torch.arange(8), torch.arange(8) - 1, torch.zeros(8)):
        with pytest.raises(NumericsError):
            grouped_moments(x, groups, 4)
    with pytest.raises(NumericsError):
        leave_one_out([Moments.of(x)])
    with pytest.raises(NumericsError):
        merge_all([])
