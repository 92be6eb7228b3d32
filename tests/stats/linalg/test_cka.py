"""Debiased CKA against the n by n kernels it avoids, its invariances, and independent features."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collapsekit.errors import NumericsError
from collapsekit.stats.inference.jackknife import assign_groups
from collapsekit.stats.linalg.cka import CrossSums, Side, _all_sums, debiased_cka, sides_leave_out

QUICK = settings(max_examples=25, deadline=None, derandomize=True)


def cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """CKA of all examples, as the sides sum it."""
    everyone = torch.zeros(len(x), dtype=torch.long)
    return debiased_cka(*_all_sums(Side.of(x, everyone, 1, "first"), Side.of(y, everyone, 1, "second"), everyone == 0))


def cka_leave_out(x: torch.Tensor, y: torch.Tensor, groups: torch.Tensor, count: int) -> tuple[float, list[float]]:
    return sides_leave_out(Side.of(x, groups, count), Side.of(y, groups, count))


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(seed: int, n: int = 40, dx: int = 5, dy: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    x = normal(seed, n, dx)
    return x, x @ normal(seed + 1, dx, dy) + normal(seed + 2, n, dy)


def brute_hsic(x: torch.Tensor, y: torch.Tensor) -> float:
    """The unbiased HSIC as a U-statistic: over kernels with zeroed diagonals, entry by entry."""
    n = x.shape[0]
    k, v = x @ x.T, y @ y.T
    k.fill_diagonal_(0)
    v.fill_diagonal_(0)
    ones = torch.ones(n, dtype=torch.float64)
    trace = torch.trace(k @ v)
    product = (ones @ k @ ones) * (ones @ v @ ones) / ((n - 1) * (n - 2))
    return float(trace + product - 2 / (n - 2) * (ones @ k @ v @ ones)) / (n * (n - 3))


def brute_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    return brute_hsic(x, y) / math.sqrt(brute_hsic(x, x) * brute_hsic(y, y))


def biased_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    self_x, self_y = torch.linalg.matrix_norm(x.T @ x), torch.linalg.matrix_norm(y.T @ y)
    return float(torch.linalg.matrix_norm(x.T @ y).square() / (self_x * self_y))


@pytest.mark.parametrize(("n", "dx", "dy"), [(40, 5, 8), (6, 20, 3), (100, 1, 1)])
def test_equals_the_kernel_version(n: int, dx: int, dy: int) -> None:
    x, y = related(0, n, dx, dy)
    x, y = x + 2, y - 1
    assert CrossSums.of(x, y).hsic() == pytest.approx(brute_hsic(x, y), rel=1e-9)
    assert cka(x, y) == pytest.approx(brute_cka(x, y), rel=1e-9, abs=1e-12)
    assert cka(y, x) == pytest.approx(cka(x, y), rel=1e-12)


def test_the_brute_force_is_the_mean_over_distinct_quadruples() -> None:
    """HSIC's own definition: E k(1,2) l(1,2) + E k(1,2) l(3,4) - 2 E k(1,2) l(1,3), indices all different."""
    x, y = related(3, 7, 2, 3)
    k, v = x @ x.T, y @ y.T
    total, count = 0.0, 0
    for a in range(7):
        for b in range(7):
            for c in range(7):
                for d in range(7):
                    if len({a, b, c, d}) == 4:
                        total += float(k[a, b] * (v[a, b] + v[c, d] - 2 * v[a, c]))
                        count += 1
    assert brute_hsic(x, y) == pytest.approx(total / count, rel=1e-9)


def test_independent_features_read_zero_where_the_biased_one_does_not() -> None:
    for seed in range(5):
        x, y = normal(10 * seed, 64, 128), normal(10 * seed + 1, 64, 128)
        assert biased_cka(x, y) > 0.5
        assert abs(cka(x, y)) < 0.1


@QUICK
@given(
    seed=st.integers(0, 999),
    factor=st.sampled_from([1e-200, 1e-3, -2.0, 1e6, 1e200]),
    shift=st.sampled_from([0.0, 1.0, 1e4]),
)
def test_rotation_common_factor_and_shift_do_not_matter(seed: int, factor: float, shift: float) -> None:
    x, y = related(seed)
    turned = factor * (x @ torch.linalg.qr(normal(seed + 5, 5, 5)).Q + shift)
    assert cka(turned, y) == pytest.approx(cka(x, y), rel=1e-6, abs=1e-7)
    assert cka(x, turned) == pytest.approx(1.0, abs=1e-7)


@QUICK
@given(seed=st.integers(0, 999), shift=st.floats(-3, 3))
def test_the_sums_do_not_depend_on_the_origin(seed: int, shift: float) -> None:
    x, y = related(seed)
    moved = CrossSums.of(x + shift, y - shift)
    assert moved.hsic() == pytest.approx(CrossSums.of(x, y).hsic(), rel=1e-7, abs=1e-9)


def test_stretching_one_direction_does_matter() -> None:
    x, y = related(4)
    stretched = x.clone()
    stretched[:, 0] *= 10
    assert abs(cka(stretched, y) - cka(x, y)) > 0.01


def test_sums_merge() -> None:
    x, y = related(5)
    whole = debiased_cka(CrossSums.of(x, x), CrossSums.of(x, y), CrossSums.of(y, y))
    pairs = ((x, x), (x, y), (y, y))
    halves = [CrossSums.of(a[:13], b[:13]).merge(CrossSums.of(a[13:], b[13:])) for a, b in pairs]
    assert debiased_cka(*halves) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("count", [2, 5, 16])
def test_leave_out_equals_the_other_rows_alone(count: int) -> None:
    x, y = related(6)
    x = x + 1e4
    groups = assign_groups(40, count)
    full, left_out = cka_leave_out(x, y, groups, count)
    assert full == pytest.approx(cka(x, y), rel=1e-12)
    assert left_out == pytest.approx([cka(x[groups != g], y[groups != g]) for g in range(count)], rel=1e-9)


@QUICK
@given(seed=st.integers(0, 999), n=st.integers(4, 8))
def test_lies_between_minus_one_and_one(seed: int, n: int) -> None:
    x, y = normal(seed, n, 4), normal(seed + 1000, n, 4)
    assert abs(brute_cka(x, y)) <= 1 + 1e-9
    assert -1 <= cka(x, y) <= 1
    assert cka(x, x) <= 1
    # Similarities turned upside down: near pairs become far.
    kernel = x @ x.T
    enough = 20 * torch.linalg.matrix_norm(kernel) * torch.eye(n, dtype=x.dtype)
    flipped = torch.linalg.cholesky(enough - kernel)
    assert -1 <= cka(x, flipped) < -0.99


def test_input_without_cka_is_refused() -> None:
    x, y = related(7)
    constants = (10.0 ** torch.linspace(-8, 12, 41, dtype=torch.float64) / 3).expand(40, 41)
    for c in range(41):
        with pytest.raises(NumericsError, match="the first are the same"):
            cka(constants[:, c : c + 1], y)
    with pytest.raises(NumericsError, match="the second are the same"):
        cka(x, constants)
    with pytest.raises(NumericsError, match="found 3"):
        cka(x[:3], y[:3])
    with pytest.raises(NumericsError, match="40 and 39"):
        CrossSums.of(x, y[1:])
    # Orthogonal examples: every pair has the same similarity, so there is nothing to align with.
    with pytest.raises(NumericsError, match="self-HSIC"):
        cka(torch.eye(40), y)
    with pytest.raises(NumericsError):
        cka(x * float("nan"), y)
    with pytest.raises(NumericsError):
        cka_leave_out(x, y, torch.zeros(40, dtype=torch.long), 1)
    with pytest.raises(NumericsError):
        cka_leave_out(x, y, torch.arange(40), 16)
