"""Entropies against SciPy, and shares that add up."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from collapsekit.errors import NumericsError
from collapsekit.stats.polysemy import drive_shares, row_entropy

QUICK = settings(max_examples=25, deadline=None, derandomize=True)


@QUICK
@given(seed=st.integers(0, 999), m=st.integers(1, 6), sharpness=st.sampled_from([0.0, 1.0, 200.0]))
def test_entropy_equals_scipy(seed: int, m: int, sharpness: float) -> None:
    p = (sharpness * torch.randn(9, m, generator=torch.Generator().manual_seed(seed))).softmax(dim=1)
    found = row_entropy(p)
    np.testing.assert_allclose(found, entropy(p.double().numpy(), axis=1), rtol=1e-12, atol=1e-12)
    assert bool(((found >= 0) & (found <= math.log(m))).all())


def test_entropy_at_its_ends() -> None:
    found = row_entropy(torch.tensor([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]]))
    assert found.tolist() == pytest.approx([0.0, math.log(3), math.log(2)], abs=1e-7)
    assert float(found[0]) == 0.0


@pytest.mark.parametrize(
    "p",
    [[[0.5, 0.6]], [[-0.1, 1.1]], [[0.0, 0.0]], [[float("nan"), 1.0]], [0.5, 0.5], [[]], []],
)
def test_rows_that_are_no_distribution_are_refused(p: list[object]) -> None:
    with pytest.raises(NumericsError):
        row_entropy(torch.tensor(p))


def test_shares_are_each_columns_parts() -> None:
    effects = torch.tensor([[1.0, 0.0, 2.0, 1e-14], [3.0, 0.0, 0.0, 0.0]])
    shares, kept = drive_shares(effects)
    assert kept.tolist() == [True, False, True, False]
    torch.testing.assert_close(shares, torch.tensor([[0.25, 1.0], [0.75, 0.0]], dtype=torch.float64))


@QUICK
@given(seed=st.integers(0, 999), factor=st.sampled_from([1e-300, 1e-5, 1e5, 1.7e308]))
def test_shares_ignore_units_and_follow_the_modalities(seed: int, factor: float) -> None:
    effects = torch.rand(3, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    effects[:, 2] = 0
    shares, kept = drive_shares(effects)
    scaled, kept_scaled = drive_shares(effects * factor)
    torch.testing.assert_close(scaled, shares)
    assert kept.tolist() == kept_scaled.tolist() == [True, True, False] + [True] * 5
    torch.testing.assert_close(shares.sum(dim=0), torch.ones(7, dtype=torch.float64))
    torch.testing.assert_close(drive_shares(effects[[2, 0, 1]])[0], shares[[2, 0, 1]])
    assert bool((row_entropy(shares.T) <= math.log(3)).all())


def test_effects_without_shares_are_refused() -> None:
    for effects in (
        torch.zeros(2, 3),
        torch.zeros(2, 0),
        torch.tensor([[-1.0, 2.0]]),
        torch.tensor([[float("inf")]]),
    ):
        with pytest.raises(NumericsError):
            drive_shares(effects)
