"""Spread and area against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collapsekit.errors import NumericsError
from collapsekit.stats.noise import area, spread

QUICK = settings(max_examples=30, deadline=None, derandomize=True)


def test_spread_is_numpys() -> None:
    x = torch.randn(50, 3, 2, generator=torch.Generator().manual_seed(0)) * 3 + 1000
    values = x.double().numpy()
    assert spread(x, "range") == pytest.approx(np.ptp(values, axis=0).max(), rel=1e-12)
    assert spread(x, "deviation") == pytest.approx(np.var(values, axis=0).mean() ** 0.5, rel=1e-12)
    for how in ("range", "deviation"):  # an offset of one entry is no spread
        shifted = x.double() + 1e3 * torch.arange(6.0).reshape(3, 2)
        assert spread(shifted, how) == pytest.approx(spread(x, how), rel=1e-9)
    pixels = torch.tensor([[3, 250], [7, 0]], dtype=torch.uint8)
    assert spread(pixels, "range") == 250
    assert spread(torch.tensor([[3.0, 250.0], [3.0, 250.0]]), "deviation") == 0
    assert spread(torch.empty(0, 3), "range") == 0
    assert not math.isfinite(spread(torch.tensor([0.0, -torch.inf]), "range"))


@QUICK
@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=6, unique=True), st.integers(0, 99))
def test_area_is_numpys_trapezoid(levels: list[float], seed: int) -> None:
    x = [0.0, *sorted(levels)]
    y = torch.rand(len(x), 4, generator=torch.Generator().manual_seed(seed)).double() + 0.1
    expected = np.trapezoid(y.numpy(), x, axis=0) / (x[-1] * y[0].numpy())
    np.testing.assert_allclose(area(x, y), expected, rtol=1e-9)


def test_a_constant_has_area_one_and_a_straight_fall_one_half() -> None:
    assert float(area([0, 0.1, 0.5], torch.tensor([0.7, 0.7, 0.7]))) == 1
    assert float(area([0, 0.25, 0.5], torch.tensor([0.8, 0.4, 0.0]))) == pytest.approx(0.5)


@pytest.mark.parametrize("levels", [[0.1, 0.2], [0, 0], [0], [0, 0.2, 0.1]])
def test_levels_ascend_from_nothing(levels: list[float]) -> None:
    with pytest.raises(NumericsError, match="ascending levels from 0"):
        area(levels, torch.ones(len(levels)))


def test_a_negative_loss_is_refused() -> None:
    with pytest.raises(NumericsError, match=r"found -0\.1"):
        area([0, 1], torch.tensor([[0.5, -0.1], [0.2, 0.2]]))
