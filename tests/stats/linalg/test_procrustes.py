"""The cosine after alignment against SciPy's rotation, its invariances, and what chance gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.inference.jackknife import assign_groups
from collapsekit.stats.linalg.procrustes import procrustes_cosine, procrustes_leave_out, procrustes_null

QUICK = settings(max_examples=25, deadline=None, derandomize=True)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(seed: int, d: int) -> Tensor:
    return torch.linalg.qr(normal(seed, d, d))[0]


def by_scipy(x: Tensor, y: Tensor) -> float:
    a, b = (t.numpy() - t.numpy().mean(0) for t in (x, y))
    turned = a @ orthogonal_procrustes(a, b)[0]
    return float(((turned * b).sum(1) / np.linalg.norm(turned, axis=1) / np.linalg.norm(b, axis=1)).mean())


@QUICK
@given(seed=st.integers(0, 999), n=st.integers(3, 30), d=st.integers(1, 12), alike=st.sampled_from([0.0, 0.5, 5.0]))
def test_equals_scipy(seed: int, n: int, d: int, alike: float) -> None:
    x = normal(seed, n, d) + 3
    y = alike * x @ rotation(seed + 1, d) + normal(seed + 2, n, d)
    assert procrustes_cosine(x, y) == pytest.approx(by_scipy(x, y), abs=1e-9)


@QUICK
@given(seed=st.integers(0, 999), factor=st.sampled_from([1e-200, 1e-3, 1e150]))
def test_rotations_shifts_and_units_do_not_matter(seed: int, factor: float) -> None:
    x, y = normal(seed, 20, 4), normal(seed + 1, 20, 4)
    y = y + x
    value = procrustes_cosine(x, y)
    assert procrustes_cosine(y, x) == pytest.approx(value, abs=1e-12)
    assert procrustes_cosine(factor * (x @ rotation(seed + 2, 4)), y - 2) == pytest.approx(value, abs=1e-9)
    assert procrustes_cosine(x, x @ rotation(seed + 3, 4) + 1) == pytest.approx(1, abs=1e-12)


def test_directions_that_have_nothing_in_common_add_nothing() -> None:
    # Exactly uncorrelated in the second direction, so that a rotation of it is anyone's choice.
    a = torch.tensor([1.0, 1, -1, -1]).repeat(5)
    b, c = torch.tensor([1.0, -1, 1, -1]).repeat(5), torch.tensor([1.0, -1, -1, 1]).repeat(5)
    x, y = torch.stack([a, b], 1), torch.stack([a, c], 1)
    assert procrustes_cosine(x, y) == pytest.approx(0.5, abs=1e-12)  # 1·1 of lengths √2
    b, c = torch.tensor([[1.0], [1], [1], [-3]]), torch.tensor([[2.0], [-1], [-1], [0]])
    assert procrustes_cosine(b, c) == 0  # not 1/4 or -1/4, as either sign would have it


def test_an_example_at_the_mean_has_no_direction_and_counts_as_zero() -> None:
    x = torch.tensor([[1.0], [-2.0], [0.0], [4.0], [-3.0]], dtype=torch.float64) / 3
    for shift in (0.0, 0.1, 0.7, 1e6 + 0.1):  # their means are rounded, so that its row is not quite 0
        assert procrustes_cosine(x + shift, x) == pytest.approx(0.8, abs=1e-12)
        assert procrustes_cosine(x + shift, x + shift) == pytest.approx(0.8, abs=1e-12)


def test_leaving_out_is_what_the_rest_alone_gives() -> None:
    x, y = normal(0, 40, 3), normal(1, 40, 3)
    y = y + x
    groups = assign_groups(40, 5)
    full, out = procrustes_leave_out(x, y, groups, 5)
    assert full == procrustes_cosine(x, y)
    expected = [by_scipy(x[groups != g], y[groups != g]) for g in range(5)]
    assert out == pytest.approx(expected, abs=1e-9)
    assert len(set(out)) == 5


def test_fitted_to_few_examples_independent_features_look_alike_and_the_null_says_so() -> None:
    for n in (12, 160, 4000):
        x, y = normal(0, n, 16), normal(1, n, 16)
        orders = [torch.randperm(n, generator=torch.Generator().manual_seed(k)) for k in range(10)]
        null = procrustes_null(x, y, orders)
        assert len(null) == 20
        assert min(null) - 0.03 < procrustes_cosine(x, y) < max(null) + 0.03
        if n == 12:
            assert min(null) > 0.7
        else:
            assert float(np.mean(null)) == pytest.approx(8 / (3 * np.pi) * (16 / n) ** 0.5, rel=0.1)


def test_the_null_does_not_depend_on_which_side_comes_first() -> None:
    x, y = normal(0, 30, 4), normal(1, 30, 4)
    orders = [torch.randperm(30, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    assert sorted(procrustes_null(x, y, orders)) == pytest.approx(sorted(procrustes_null(y, x, orders)), abs=1e-12)
    assert procrustes_null(x, y, orders)[0] == pytest.approx(by_scipy(x[orders[0]], y), abs=1e-9)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (torch.ones(9, 3), normal(1, 9, 3), "the first are the same"),
        (normal(1, 9, 3), torch.full((9, 3), 0.1, dtype=torch.float64), "the second are the same"),
        (normal(1, 9, 3), normal(2, 9, 4), "(9, 3) and (9, 4)"),
        (normal(1, 9, 3), normal(2, 8, 3), "(9, 3) and (8, 3)"),
        (normal(1, 2, 3), normal(2, 2, 3), "at least 3 examples and a dimension, found 2"),
        (normal(1, 9, 0), normal(2, 9, 0), "a dimension, found 9 and 0"),
        (normal(1, 9), normal(2, 9), "must be a matrix"),
        (normal(1, 9, 3) / 0, normal(2, 9, 3), "finite"),
    ],
)
def test_what_cannot_be_aligned_is_refused(x: Tensor, y: Tensor, said: str) -> None:
    with pytest.raises(NumericsError) as e:
        procrustes_cosine(x, y)
    assert said in str(e.value)
