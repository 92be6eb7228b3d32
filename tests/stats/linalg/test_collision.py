"""Lemma 1 against random allocation, and strongest pairs against counting by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.linalg.collision import collisions, lemma_bound, random_collision

QUICK = settings(max_examples=50, deadline=None, derandomize=True)
WIDTHS = st.lists(st.integers(1, 40), min_size=2, max_size=6)


def owners(*widths: int) -> Tensor:
    return torch.cat([torch.full((d,), i) for i, d in enumerate(widths)])


@pytest.mark.parametrize("m", [2, 3, 7])
@pytest.mark.parametrize("d", [1, 5, 64])
def test_equal_widths_give_one_less_an_mth(m: int, d: int) -> None:
    assert lemma_bound([d] * m) == pytest.approx((m - 1) / m, rel=1e-12)
    assert random_collision([d] * m) == pytest.approx((m - 1) * d / (m * d - 1), rel=1e-12)


@pytest.mark.parametrize("widths", [(3, 9), (4, 6, 10), (2, 2, 5, 11)])
def test_a_simulation_of_the_lemmas_allocation_gives_its_bound(widths: tuple[int, ...]) -> None:
    # As its proof counts: features drawn from all F, of each modality only min(dim f) ones making a collision.
    rng, draws = np.random.default_rng(0), 200_000
    modality = owners(*widths).numpy()
    place = np.concatenate([np.arange(d) for d in widths])
    one, two = rng.integers(0, len(modality), (2, draws))
    least = min(widths)
    counted = (modality[one] != modality[two]) & (place[one] < least) & (place[two] < least)
    assert counted.mean() == pytest.approx(lemma_bound(widths), abs=4 * 0.5 / draws**0.5)
    # And every pair of two different features, which is what it bounds.
    kept = one != two
    found = (modality[one] != modality[two])[kept].mean()
    assert found == pytest.approx(random_collision(widths), abs=4 * 0.5 / kept.sum() ** 0.5)


@QUICK
@given(WIDTHS)
def test_the_lemma_bounds_random_allocation_and_no_order_of_modalities_matters(widths: list[int]) -> None:
    bound, exact = lemma_bound(widths), random_collision(widths)
    pairs = list(combinations(owners(*widths).tolist(), 2))
    assert exact == pytest.approx(sum(a != b for a, b in pairs) / len(pairs), rel=1e-12)
    assert 0 < bound <= exact + 1e-12 <= 1 + 1e-12
    assert lemma_bound(widths[::-1]) == bound
    assert random_collision(widths[::-1]) == exact


def test_what_the_lemma_is_not_about_is_refused() -> None:
    for widths in ([], [4], [4, 0]):
        with pytest.raises(NumericsError, match="two or more modalities"):
            lemma_bound(widths)
    assert random_collision([3, 0]) == 0
    with pytest.raises(NumericsError, match="needs two"):
        random_collision([1, 0])


@QUICK
@given(seed=st.integers(0, 999), second=st.sampled_from([0.01, 0.5, 0.9]))
def test_strongest_pairs_are_those_of_sorting(seed: int, second: float) -> None:
    drive = torch.rand(40, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 4
    owner = owners(2, 3, 4)
    pairs, reach = torch.zeros(3, 3, dtype=torch.float64), []
    for row in drive:
        order = row.argsort(descending=True)
        if row[order[1]] >= second * row[order[0]]:
            i, j = owner[order[0]], owner[order[1]]
            pairs[i, j] += 0.5
            pairs[j, i] += 0.5
            reach.append(float(row[order[:2]].sum() / row.sum()))
    found = collisions(drive, owner, 3, second)
    assert (found.driven, found.polysemantic) == (40, len(reach))
    torch.testing.assert_close(found.pairs, pairs / len(reach), atol=1e-12, rtol=0)
    assert found.reach == pytest.approx(np.mean(reach), rel=1e-12)
    assert found.cross_modal == pytest.approx(1 - float(found.pairs.trace()), abs=1e-12)


@QUICK
@given(seed=st.integers(0, 999))
def test_neither_units_nor_the_order_of_features_nor_names_matter(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    drive = torch.randint(0, 4, (30, 8), generator=g).double()  # many ties
    drive[0, 0] = 3
    owner, order = owners(3, 5), torch.randperm(8, generator=g)
    found = collisions(drive, owner, 2, 0.3)
    unit = torch.logspace(-3, 3, 30, dtype=torch.float64)[:, None]
    moved = collisions((drive * unit)[:, order], owner[order], 2, 0.3)
    torch.testing.assert_close(moved.pairs, found.pairs, atol=1e-12, rtol=0)
    assert (moved.polysemantic, moved.reach) == (found.polysemantic, pytest.approx(found.reach, rel=1e-9))
    swapped = collisions(drive, 1 - owner, 2, 0.3)
    torch.testing.assert_close(swapped.pairs, found.pairs.flip(0, 1), atol=1e-12, rtol=0)
    assert float(found.pairs.sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("row", "cross"),
    [
        ([3.0, 1, 2, 2], 1.0),  # second is one of b's, either way
        ([1.0, 2, 2, 3], 0.5),  # second is a's or b's
        ([2.0, 3, 2, 0], 0.5),
        ([3.0, 3, 3, 1], 2 / 3),  # two of three: aa, ab, ab
        ([2.0, 2, 2, 2], 4 / 6),
        ([3.0, 3, 2, 2], 0.0),
    ],
)
def test_ties_are_shared_alike(row: list[float], cross: float) -> None:
    owner = torch.tensor([0, 0, 1, 1])
    found = collisions(torch.tensor([row]), owner, 2)
    assert found.cross_modal == pytest.approx(cross, abs=1e-12)
    # What rounding, drawn at random, would decide on the average.
    g = torch.Generator().manual_seed(0)
    noisy = torch.tensor([row]).double() + 1e-3 * torch.rand(4000, 4, generator=g, dtype=torch.float64)
    assert collisions(noisy, owner, 2).cross_modal == pytest.approx(cross, abs=0.04)


def test_drives_permuted_over_features_give_the_chance_in_closed_form() -> None:
    g = torch.Generator().manual_seed(0)
    row = torch.linspace(1, 0, 11, dtype=torch.float64) ** 2
    drive = torch.stack([row[torch.randperm(11, generator=g)] for _ in range(20000)])
    found = collisions(drive, owners(2, 3, 6), 3)
    assert found.cross_modal == pytest.approx(random_collision([2, 3, 6]), abs=0.015)
    assert 2 * float(found.pairs[0, 2]) == pytest.approx(2 * 6 / 55, abs=0.015)


def test_neurons_that_hardly_anything_or_one_feature_drives_do_not_count() -> None:
    drive = torch.tensor([[4.0, 0.0, 4.0], [0.0, 4.0, 0.1], [0, 0, 0], [1e-12, 1e-12, 0]])
    found = collisions(drive, torch.tensor([0, 0, 1]), 2)
    assert (found.driven, found.polysemantic, found.cross_modal, found.reach) == (2, 1, 1.0, 1.0)
    assert collisions(drive, torch.tensor([0, 0, 1]), 2, second=0.02).polysemantic == 2


@pytest.mark.parametrize(
    ("drive", "said"),
    [
        (torch.zeros(3, 2), "no feature drives any neuron"),
        (torch.zeros(0, 2), "no feature drives any neuron"),
        (torch.eye(2), "none is polysemantic"),
        (-torch.ones(3, 2), ">= 0"),
        (torch.ones(3, 3), "one owner a feature"),
        (torch.full((3, 2), float("nan")), "finite"),
    ],
)
def test_drives_without_pairs_are_refused(drive: Tensor, said: str) -> None:
    with pytest.raises(NumericsError) as e:
        collisions(drive, torch.tensor([0, 1]), 2)
    assert said in str(e.value)
