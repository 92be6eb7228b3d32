"""VIF against statsmodels, its invariances, and what it says of singular data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.outliers_influence import variance_inflation_factor

from collapsekit.errors import NumericsError
from collapsekit.stats.linalg.moments import Moments, grouped_moments, merge_all
from collapsekit.stats.linalg.vif import vif

QUICK = settings(max_examples=25, deadline=None, derandomize=True)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(seed: int, n: int = 200, d: int = 6) -> torch.Tensor:
    return normal(seed, n, d) @ (torch.eye(d, dtype=torch.float64) + 0.4 * normal(seed + 1, d, d))


@pytest.mark.parametrize(("n", "d", "offset"), [(200, 6, 0.0), (200, 6, 50.0), (21, 20, 0.0)])
def test_equals_statsmodels(n: int, d: int, offset: float) -> None:
    x = correlated(0, n, d) + offset
    found = vif(merge_all(grouped_moments(x, torch.arange(n) % 4, 4)))
    design = np.column_stack([np.ones(n), x.numpy()])
    reference = [variance_inflation_factor(design, i + 1) for i in range(d)]
    # n = d + 1 leaves no residual freedom but one: conditioning is poor there, in both.
    np.testing.assert_allclose(found.values, reference, rtol=1e-8 if n > 2 * d else 1e-6)
    assert found.kept == tuple(range(d))
    assert not found.bound


def test_two_columns_have_the_textbook_value() -> None:
    x = correlated(2, 100, 2)
    r = float(torch.corrcoef(x.T)[0, 1])
    assert vif(Moments.of(x)).values.tolist() == pytest.approx([1 / (1 - r**2)] * 2, rel=1e-10)


@QUICK
@given(
    seed=st.integers(0, 999),
    exponents=st.lists(st.integers(-40, 40), min_size=6, max_size=6),
    shift=st.floats(-100, 100),
)
def test_units_and_origin_of_a_column_do_not_matter(seed: int, exponents: list[int], shift: float) -> None:
    x = correlated(seed)
    factors = torch.tensor([(-1) ** e * 10.0**e for e in exponents], dtype=torch.float64)
    moved = (x + shift) * factors
    torch.testing.assert_close(vif(Moments.of(moved)).values, vif(Moments.of(x)).values, rtol=1e-7, atol=0.0)


@QUICK
@given(order=st.permutations(range(6)))
def test_permuting_columns_permutes_values(order: list[int]) -> None:
    x = correlated(3)
    torch.testing.assert_close(
        vif(Moments.of(x[:, order])).values, vif(Moments.of(x)).values[order], rtol=1e-8, atol=0.0
    )


def test_constant_columns_are_dropped_and_listed() -> None:
    x = correlated(4)
    wide = torch.cat([torch.full((200, 1), 0.1), x[:, :2], torch.zeros(200, 1), x[:, 2:]], dim=1)
    found = vif(Moments.of(wide))
    assert found.constant == (0, 3)
    assert found.kept == (1, 2, 4, 5, 6, 7)
    torch.testing.assert_close(found.values, vif(Moments.of(x)).values, rtol=1e-8, atol=0.0)


@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-6])
def test_near_singular_data_give_a_bound_from_below(noise: float) -> None:
    """Column 5 is column 0 plus noise: both have VIF about 2/noise²; no other column gains from it."""
    x = normal(5, 300, 6)
    x[:, 5] = x[:, 0] + noise * x[:, 5]
    found = vif(Moments.of(x))
    assert found.bound
    assert bool((found.values >= 1).all())
    assert min(float(found.values[0]), float(found.values[5])) > 1e8
    if noise:
        others = np.column_stack([np.ones(300), x[:, :5]])
        residual = np.linalg.lstsq(others, x[:, 5].numpy(), rcond=None)[1][0]
        true = float((x[:, 5] - x[:, 5].mean()).square().sum()) / residual
        assert float(found.values[5]) <= true * (1 + 1e-9)
    without = vif(Moments.of(x[:, :5])).values
    torch.testing.assert_close(found.values[1:5], without[1:5], rtol=0.02, atol=0.0)


def test_well_conditioned_collinearity_is_not_called_a_bound() -> None:
    x = normal(6, 300, 4)
    x[:, 3] = x[:, 0] + 1e-3 * x[:, 3]
    found = vif(Moments.of(x))
    assert not found.bound
    assert float(found.values[3]) > 1e5


def test_input_without_vif_is_refused() -> None:
    with pytest.raises(NumericsError, match="more than 6 examples, found 6"):
        vif(Moments.of(normal(7, 6, 6)))
    one = torch.ones(50, 3)
    one[:, 0] = torch.arange(50)
    with pytest.raises(NumericsError, match="found 1 of 3"):
        vif(Moments.of(one))
    with pytest.raises(NumericsError):
        vif(Moments.of(torch.ones(50, 3)))
    with pytest.raises(NumericsError):
        vif(Moments.empty(3))
