"""Seeds that follow a modality's content."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from collapsekit.errors import NumericsError
from collapsekit.stats.seeds import content_seeds


def contents() -> list[list[Tensor]]:
    g = torch.Generator().manual_seed(0)
    return [
        [torch.randn(5, 3, generator=g)],
        [torch.randint(0, 9, (5, 2), generator=g), torch.randn(5, generator=g).half()],
        [torch.randn(5, 2, 2, generator=g) > 0],
    ]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_seeds_follow_their_contents_into_any_order(order: tuple[int, ...]) -> None:
    given = contents()
    seeds = content_seeds(given, [0, 0, 0], 7)
    assert content_seeds([given[i] for i in order], [0, 0, 0], 7) == [seeds[i] for i in order]
    assert content_seeds([given[i][::-1] for i in order], [0, 0, 0], 7) == [seeds[i] for i in order]
    assert len(set(seeds)) == 3
    assert all(0 <= s < 2**63 for s in seeds)


def test_one_value_or_another_seed_changes_the_seed() -> None:
    given = contents()
    before = content_seeds(given, [0, 0, 0], 7)
    assert all(a != b for a, b in zip(before, content_seeds(given, [0, 0, 0], 8), strict=True))
    given[0][0][2, 1] += 1
    after = content_seeds(given, [0, 0, 0], 7)
    assert after[0] != before[0]
    assert after[1:] == before[1:]


def test_copies_are_told_apart_by_their_ties_wherever_they_stand() -> None:
    same = [torch.arange(4.0)]
    low, high = content_seeds([same, same], [1.0, 2.0], 0)
    assert low != high
    assert content_seeds([same, same], [2.0, 1.0], 0) == [high, low]
    assert content_seeds([same, same], [1.0, 1.0], 0) == [low, high]


def test_memory_layout_does_not_matter() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    assert content_seeds([[x.T.contiguous().T]], [0], 0) == content_seeds([[x]], [0], 0)


def test_every_content_needs_its_tie() -> None:
    with pytest.raises(NumericsError, match="one tie number for each of 3"):
        content_seeds(contents(), [0.0], 0)
