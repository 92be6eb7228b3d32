"""Subspaces and cosines against SciPy, scikit-learn and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from scipy.spatial.distance import cosine
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.linalg import gradients as gr

QUICK = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 999)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(x: Tensor) -> Tensor:
    return torch.linalg.qr(x)[0]


@QUICK
@given(seed=SEEDS, n=st.integers(1, 9), positions=st.integers(1, 4))
def test_outer_products_are_summed_over_examples_and_positions(seed: int, n: int, positions: int) -> None:
    g = noise(seed, n, positions, 5)
    expected = np.einsum("npi,npj->ij", g.numpy(), g.numpy())
    np.testing.assert_allclose(gr.outer_product_sum(g), expected, atol=1e-12)
    halves = gr.outer_product_sum(g[:1]) + gr.outer_product_sum(g[1:]) if n > 1 else gr.outer_product_sum(g)
    np.testing.assert_allclose(halves, expected, atol=1e-12)


@QUICK
@given(seed=SEEDS, rows=st.integers(1, 7), columns=st.integers(1, 7))
def test_the_spectrum_is_numpys_without_centring(seed: int, rows: int, columns: int) -> None:
    x = noise(seed, rows, columns) + 3
    np.testing.assert_allclose(gr.spectrum_of(x), np.linalg.svd(x.numpy(), compute_uv=False), atol=1e-12)


@QUICK
@given(seed=SEEDS, k=st.integers(1, 5), r=st.integers(1, 5))
def test_alignment_is_the_mean_squared_cosine_of_scipys_angles(seed: int, k: int, r: int) -> None:
    a, b = orthonormal(noise(seed, 6, k)), orthonormal(noise(seed + 1, 6, r))
    expected = np.mean(np.cos(subspace_angles(a.numpy(), b.numpy())) ** 2)
    assert gr.subspace_alignment(a, b) == pytest.approx(expected, abs=1e-12)
    assert gr.subspace_alignment(b, a) == pytest.approx(expected, abs=1e-12)


def test_alignment_at_its_ends_and_by_chance() -> None:
    e = torch.eye(20, dtype=torch.float64)
    assert gr.subspace_alignment(e[:, :2], e[:, 2:5]) == 0
    assert gr.subspace_alignment(e[:, 1:3], e[:, :5]) == 1
    found = [gr.subspace_alignment(orthonormal(noise(s, 20, 3)), e[:, :8]) for s in range(200)]
    assert np.mean(found) == pytest.approx(8 / 20, abs=0.02)


@QUICK
@given(seed=SEEDS, share=st.floats(0.05, 1.0))
def test_leading_subspace_is_the_smallest_that_holds_the_share(seed: int, share: float) -> None:
    x = noise(seed, 9, 6) * torch.linspace(3, 0.1, 6)
    gram = x.T @ x
    top = gr.leading_subspace(gram, share)
    values = np.linalg.eigvalsh(gram.numpy())[::-1]
    held, k = values.cumsum() / values.sum(), top.shape[1]
    assert held[k - 1] >= share - 1e-9
    assert k == 1 or held[k - 2] < share
    np.testing.assert_allclose(top.T @ top, np.eye(k), atol=1e-12)
    assert float((top.T @ gram @ top).trace()) == pytest.approx(values[:k].sum())
    assert gr.leading_subspace(gram, share, 4).shape == (6, 4)


@QUICK
@given(seed=SEEDS)
def test_row_subspace_is_that_of_the_kept_columns(seed: int) -> None:
    weight, columns = noise(seed, 3, 6), torch.tensor([True, False, True, True, False, True])
    own = gr.row_subspace(weight, columns, 1.0)
    kept = np.where(columns, weight.numpy(), 0)
    _, _, v = np.linalg.svd(kept)
    assert own.shape == (6, 3)
    np.testing.assert_allclose(own @ own.T, v[:3].T @ v[:3], atol=1e-10)
    assert bool((own[~columns].abs() < 1e-12).all())


@QUICK
@given(seed=SEEDS, scale=st.sampled_from([1e-200, 1.0, 1e200]))
def test_cosines_are_those_of_scikit_learn_at_any_scale(seed: int, scale: float) -> None:
    x = noise(seed, 4, 9)
    found = gr.cosine_matrix(x * scale)
    np.testing.assert_allclose(found, cosine_similarity(x.numpy()), atol=1e-12)
    assert torch.equal(found, found.T)
    a, b = noise(seed + 1, 3, 5), noise(seed + 2, 3, 5)
    expected = 1 - cosine(a.numpy().ravel(), b.numpy().ravel())
    assert gr.frobenius_cosine(a * scale, b) == pytest.approx(expected, abs=1e-12)


def test_columns_have_the_owner_that_moves_them_or_none() -> None:
    drive = torch.tensor([[1.0, 0.0, 0.95, 0.5, 0.0], [0.0, 2.0, 0.05, 0.5, 0.0]])
    assert gr.owned_columns(drive, 0.9).tolist() == [0, 1, 0, -1, -1]
    assert gr.owned_columns(drive, 0.99).tolist() == [0, 1, -1, -1, -1]
    swapped = gr.owned_columns(drive.flip(0), 0.9)
    assert swapped.tolist() == [1, 0, 1, -1, -1]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: gr.leading_subspace(torch.zeros(3, 3), 0.9), "zero"),
        (lambda: gr.leading_subspace(torch.eye(3), 0.0), "share"),
        (lambda: gr.row_subspace(torch.ones(2, 3), torch.zeros(3, dtype=torch.bool), 0.9), "all 0"),
        (lambda: gr.subspace_alignment(torch.eye(3), torch.eye(4)), "(3, 3) and (4, 4)"),
        (lambda: gr.subspace_alignment(torch.eye(3)[:, :0], torch.eye(3)), "a direction each"),
        (lambda: gr.frobenius_cosine(torch.ones(2), torch.ones(3)), "one shape"),
        (lambda: gr.cosine_matrix(torch.tensor([[1.0, 0.0], [0.0, 0.0]])), "is 0"),
        (lambda: gr.owned_columns(torch.ones(2, 3), 0.5), "over 0.5"),
        (lambda: gr.owned_columns(-torch.ones(2, 3), 0.9), ">= 0"),
        (lambda: gr.outer_product_sum(torch.tensor([[float("nan")]])), "finite"),
    ],
)
def test_what_is_not_defined_is_refused(call: object, words: str) -> None:
    with pytest.raises(NumericsError) as raised:
        call()  # type: ignore[operator]
    assert words in str(raised.value)
