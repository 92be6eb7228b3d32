"""Predictive and noisy parts against least squares and scikit-learn; chance against counting every case."""

from __future__ import annotations

from itertools import combinations, permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from scipy.stats import binom
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.linalg.entanglement import (
    NOISY,
    PREDICTIVE,
    CarriedParts,
    carried_parts,
    chance_of_entanglement,
    chance_of_pair,
    class_directions,
    count_range,
    explained_covariance,
    explained_part,
    feature_ratio,
    features_of_neurons,
    gradient_sums,
    grouped_forms,
    leading_values,
)

QUICK = settings(max_examples=40, deadline=None, derandomize=True)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drives(seed: int, k: int = 9, m: int = 3) -> Tensor:
    return noise(seed, k, m, 2).square() ** 2


# -- parts -------------------------------------------------------------------------------------------------------------


def test_what_a_readout_tells_is_what_least_squares_fits() -> None:
    x = noise(0, 90, 5) @ noise(1, 5, 5) + 3
    readout = noise(2, 5, 2)
    readout = torch.cat([readout, readout.sum(1, keepdim=True)], 1)  # its third value is the sum of the others
    values = np.column_stack([np.ones(90), (x @ readout[:, :2]).numpy()])
    fitted = values @ np.linalg.lstsq(values, x.numpy(), rcond=None)[0]
    np.testing.assert_allclose(explained_part(x, readout), fitted, atol=1e-9)
    covariance = torch.cov(x.T, correction=0)
    np.testing.assert_allclose(
        explained_covariance(covariance, readout), np.cov(fitted.T, bias=True), atol=1e-9 * float(covariance.max())
    )


def test_parts_turn_with_the_features() -> None:
    x, readout, turn = noise(0, 60, 4), noise(2, 4, 2), noise(3, 4, 4)
    moved = torch.linalg.solve(turn, readout)  # the same values of other coordinates
    np.testing.assert_allclose(explained_part(x @ turn, moved), explained_part(x, readout) @ turn, atol=1e-9)


def test_no_readout_tells_nothing_and_a_full_one_all() -> None:
    x = noise(0, 30, 3)
    np.testing.assert_allclose(explained_part(x, torch.zeros(3, 0)), x.mean(0).expand(30, 3), atol=1e-12)
    np.testing.assert_allclose(explained_part(x, noise(1, 3, 3)), x, atol=1e-9)
    covariance = torch.cov(x.T, correction=0)
    assert bool((explained_covariance(covariance, torch.zeros(3, 0)) == 0).all())


def test_discriminant_directions_span_those_of_scikit_learn() -> None:
    y = torch.arange(200) % 4
    x = noise(0, 200, 6) @ noise(1, 6, 6) + noise(2, 4, 6)[y]
    found = class_directions(x, y * 3, ridge=0.0)
    assert found.shape == (6, 4)
    assert float((found * torch.full((4,), 0.25).sqrt()).sum(1).abs().max()) < 1e-9
    reference = LinearDiscriminantAnalysis(solver="eigen").fit(x.numpy(), y.numpy()).scalings_[:, :3]
    assert subspace_angles(leading_values(found, x, 1.0).numpy(), reference).max() < 1e-6


def test_leading_values_are_the_fewest_that_hold_the_share() -> None:
    x = noise(0, 4000, 3)
    readout = torch.diag(torch.tensor([3.0, 1.0, 0.1], dtype=torch.float64))
    sizes = {share: leading_values(readout, x, share).shape[1] for share in (0.5, 0.95, 0.9999, 1.0)}
    assert sizes == {0.5: 1, 0.95: 2, 0.9999: 3, 1.0: 3}
    first = leading_values(readout, x, 0.5)[:, 0]
    assert float(first[0].abs() / first.norm()) > 0.99
    assert leading_values(torch.zeros(3, 2), x, 0.9).shape == (3, 0)


def test_classes_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(NumericsError, match="two classes"):
        class_directions(noise(0, 8, 2), torch.zeros(8, dtype=torch.long))
    with pytest.raises(NumericsError, match="vary within"):
        class_directions(torch.ones(8, 2), torch.arange(8) % 2)


def test_forms_add_up_by_group() -> None:
    slopes, groups, forms = noise(0, 20, 3), torch.arange(20) % 3, torch.stack([torch.eye(3), torch.ones(3, 3)])
    found = grouped_forms(slopes, groups, 4, forms.double())
    for g, (i, form) in product(range(4), enumerate(forms.double())):
        wanted = sum((s @ form @ s for s in slopes[groups == g]), torch.zeros(()))
        assert float(found[i, g]) == pytest.approx(float(wanted))


# -- what neurons carry ------------------------------------------------------------------------------------------------


def test_neurons_carry_what_has_a_share_of_their_drive() -> None:
    # Modalities a, b; parts predictive, noisy.
    drive = torch.tensor(
        [
            [[9.0, 0.0], [0.0, 1.0]],  # predictive a, and noisy b by a hair
            [[8.0, 3.0], [0.2, 0.0]],  # both of a
            [[0.0, 5.0], [0.0, 5.0]],  # noise of both
            [[0.0, 0.0], [0.0, 0.0]],
        ]
    )
    found = carried_parts(drive, 0.1)
    assert len(found.shares) == 3
    assert found.carried.tolist() == [
        [[True, False], [False, True]],
        [[True, True], [False, False]],
        [[False, True], [False, True]],
    ]
    assert found.entangled.any(2).any(1).tolist() == [True, False, False]
    assert bool(found.entangled[0, 1, 0])  # noise of b, predictive of a
    assert found.entangled.sum() == 1
    assert found.conjugate.tolist() == [[False, False], [True, False], [False, False]]
    assert carried_parts(drive, 0.11).entangled.sum() == 0


@QUICK
@given(seed=st.integers(0, 99))
def test_shared_drive_is_the_chance_of_two_draws(seed: int) -> None:
    found = carried_parts(drives(seed), 0.1)
    wanted = 0.0
    for s in found.shares:
        for (i, p), (j, q) in product(product(range(3), range(2)), repeat=2):
            if i != j and p != q:
                wanted += float(s[i, p] * s[j, q]) / len(found.shares)
    assert found.shared_drive == pytest.approx(wanted)


@pytest.mark.parametrize("there", [[[1, 1], [1, 1]], [[1, 1], [0, 1]], [[1, 0], [0, 1]], [[1, 0], [1, 1]]])
def test_chance_is_that_of_all_permutations(there: list[list[int]]) -> None:
    exists = torch.tensor(there).bool()
    drive = drives(5, k=4, m=2) * exists
    found = carried_parts(drive, 0.2)
    places = exists.flatten().nonzero()[:, 0].tolist()
    mixed, shared = [], []
    for order in permutations(places):
        moved = drive.flatten(1).clone()
        moved[:, places] = drive.flatten(1)[:, list(order)]
        other = carried_parts(moved.reshape(drive.shape), 0.2)
        mixed.append(other.entangled.any(2).any(1).double())
        shared.append(other.shared_drive)
    for s, chance in zip(found.carried.sum((1, 2)).tolist(), torch.stack(mixed).mean(0).tolist(), strict=True):
        assert chance_of_entanglement(s, exists) == pytest.approx(chance)
    assert found.expected_shared(exists) == pytest.approx(np.mean(shared))


@pytest.mark.parametrize("m", [2, 3, 4])
def test_chance_is_that_of_all_sets_of_parts(m: int) -> None:
    there = torch.ones(m, 2, dtype=torch.bool)
    parts = list(product(range(m), range(2)))
    for s in range(2 * m + 1):
        hits = [any(i != j and p != q for (i, p), (j, q) in product(c, repeat=2)) for c in combinations(parts, s)]
        assert chance_of_entanglement(s, there) == pytest.approx(np.mean(hits))
        pair = [(0, 0) in c and (1, 1) in c for c in combinations(parts, s)]
        assert chance_of_pair(s, 2 * m) == pytest.approx(np.mean(pair))
    with pytest.raises(NumericsError, match="cannot be drawn"):
        chance_of_entanglement(2 * m + 1, there)


def test_the_number_of_events_lies_where_scipy_has_it() -> None:
    for p, n in ((0.3, 40), (0.0, 5), (1.0, 5)):
        assert count_range(torch.full((n,), p), 0.95) == tuple(map(int, binom.interval(0.95, n, p)))
    chances = torch.tensor([0.1, 0.9, 0.5, 0.5, 0.2])
    mass = np.zeros(6)
    for hits in product((0, 1), repeat=5):
        mass[sum(hits)] += np.prod([p if h else 1 - p for p, h in zip(chances.tolist(), hits, strict=True)])
    below = mass.cumsum()
    assert count_range(chances, 0.8) == (int((below < 0.1).sum()), int((below < 0.9).sum()))


def test_the_ratio_of_features_is_by_weighted_means() -> None:
    shares = torch.tensor([[[0.5, 0.1], [0.4, 0.0]], [[0.2, 0.6], [0.1, 0.1]]], dtype=torch.float64)
    parts, sizes = CarriedParts(shares, shares > 0.1), torch.tensor([[2, 5], [1, 3]])
    a = shares.numpy()
    weight = a[:, 1, PREDICTIVE]
    wanted = (weight @ a[:, 0, PREDICTIVE] / 2) / (weight @ a[:, 0, NOISY] / 5)
    assert feature_ratio(parts, sizes, 0, 1) == pytest.approx(wanted)
    assert feature_ratio(parts, sizes, 0, None) == pytest.approx((0.7 / 2) / (0.7 / 5))
    with pytest.raises(NumericsError, match="no noisy features"):
        feature_ratio(parts, torch.tensor([[2, 0], [1, 3]]), 0, 1)
    with pytest.raises(NumericsError, match="no predictive features"):
        feature_ratio(parts, torch.tensor([[0, 3], [1, 3]]), 0, 1)
    quiet = CarriedParts(shares * torch.tensor([[1.0, 0.0], [1.0, 1.0]]), shares > 0.1)
    with pytest.raises(NumericsError, match="no bound"):
        feature_ratio(quiet, sizes, 0, 1)
    deaf = CarriedParts(shares * torch.tensor([[1.0, 1.0], [0.0, 1.0]]), shares > 0.1)
    with pytest.raises(NumericsError, match="drive no neuron"):
        feature_ratio(deaf, sizes, 0, 1)


def test_features_of_a_neuron_are_counted() -> None:
    drive = torch.tensor([[4.0, 0.4, 0.39, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    assert features_of_neurons(drive, 0.1) == (2 + 4) / 2
    with pytest.raises(NumericsError, match="drives any"):
        features_of_neurons(drive[2:], 0.1)


@pytest.mark.parametrize(
    ("drive", "reason"),
    [(torch.zeros(3, 2, 2), "no feature drives"), (-torch.ones(3, 2, 2), ">= 0"), (torch.ones(3, 4), "of shape")],
)
def test_drives_of_no_neuron_are_refused(drive: Tensor, reason: str) -> None:
    with pytest.raises(NumericsError, match=reason):
        carried_parts(drive, 0.1)


# -- gradients ---------------------------------------------------------------------------------------------------------


def test_gradient_sums_are_those_of_example_by_example() -> None:
    x, by_output, groups = noise(0, 10, 3, 4), noise(1, 10, 3, 2), torch.arange(10) % 2
    each = np.einsum("nto,ntd->nod", by_output, x)
    found = gradient_sums(x, by_output, groups, 2)
    wanted = np.linalg.norm(each.sum(0), axis=1).sum() / np.linalg.norm(each, axis=2).sum()
    assert found.agreement() == pytest.approx(wanted)
    left = each[groups.numpy() != 1]
    assert found.agreement(1) == pytest.approx(
        np.linalg.norm(left.sum(0), axis=1).sum() / np.linalg.norm(left, axis=2).sum()
    )
    signs = np.random.default_rng(0).choice([-1, 1], (4000, 10))
    lengths = np.linalg.norm(np.einsum("sn,nod->sod", signs, each), axis=2)
    chance = np.sqrt((lengths**2).mean(0)).sum() / np.linalg.norm(each, axis=2).sum()
    assert found.chance == pytest.approx(chance, rel=0.02)


def test_gradients_that_agree_and_that_cancel() -> None:
    x, groups = torch.ones(8, 1, 2), torch.arange(8) % 2
    assert gradient_sums(x, torch.ones(8, 1, 3), groups, 2).agreement() == pytest.approx(1)
    opposed = torch.ones(8, 1, 3)
    opposed[:4] = -1
    assert gradient_sums(x, opposed, groups, 2).agreement() == 0
    nothing = gradient_sums(x, torch.zeros(8, 1, 3), groups, 2)
    assert nothing.agreement() == nothing.chance == 0
