"""Sums that several processes share out: to the bits of one process, whoever has which rows, and however they come."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collapsekit.errors import NumericsError
from collapsekit.features.segments import GroupMoments, GroupSums, merge_shares, share_of
from collapsekit.stats.linalg import moments
from collapsekit.stats.linalg.moments import MergeTree, Moments, Summing, grouped_moments, segment_rows

THOROUGH = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 32 rows, 8 segments at most, so that few rows are many."""
    for name, value in (("ROWS", 4), ("BLOCK", 32), ("SEGMENTS", 8)):
        monkeypatch.setattr(moments, name, value)


def same_bits(a: Moments, b: Moments) -> bool:
    return a.n == b.n and torch.equal(a.mean, b.mean) and torch.equal(a.scatter, b.scatter)


def shared(x: torch.Tensor, groups: torch.Tensor, count: int, size: int, batch: int) -> list[Moments]:
    """Moments of each group by so many processes, to which rows come so many at a time."""
    nodes = []
    for rank in range(size):
        first, last = share_of(len(x), rank, size)
        sums = GroupSums(x.shape[1], groups, count, first, last)
        for part in x[first:last].split(batch):
            sums.add(part)
        nodes += [(p, s, GroupMoments.unpacked(m.packed())) for p, s, m in sums.tree.nodes]
    return merge_shares(nodes)


@THOROUGH
@given(
    n=st.integers(8, 900),
    size=st.integers(1, 5),
    batch=st.integers(1, 70),
    by_unit=st.booleans(),
    seed=st.integers(0, 99),
)
def test_several_processes_sum_to_the_bits_of_one(n: int, size: int, batch: int, by_unit: bool, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        for name, value in (("ROWS", 4), ("BLOCK", 32), ("SEGMENTS", 8)):
            patched.setattr(moments, name, value)
        g = torch.Generator().manual_seed(seed)
        x = (torch.randn(n, 3, generator=g) + 100 * torch.randn(3, generator=g)).float()
        groups = torch.randint(0, 8, (n,), generator=g) if by_unit else torch.arange(n) % 8
        whole = grouped_moments(x, groups, 8)
        assert all(map(same_bits, shared(x, groups, 8, size, batch), whole))


def test_up_to_one_block_the_sums_are_those_of_rows_one_after_the_other() -> None:
    """As every report until now has them."""
    x = torch.randn(3000, 5, generator=torch.Generator().manual_seed(0))
    groups = torch.arange(3000) % 16
    for g, found in enumerate(grouped_moments(x, groups, 16)):
        plain = Summing(5)
        plain.add(x[groups == g])
        assert same_bits(found, plain.moments())


@pytest.mark.usefixtures("small")
def test_segments_add_up_to_the_moments_of_all_rows() -> None:
    x = torch.randn(5000, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 1e3
    (found,) = shared(x, torch.zeros(5000, dtype=torch.int64), 1, 3, 17)
    expected = Moments.of(x)
    torch.testing.assert_close(found.scatter, expected.scatter, rtol=1e-11, atol=1e-8)
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-14, atol=0)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("n", [1, 31, 32, 33, 256, 257, 10_000])
def test_shares_are_whole_segments_that_follow_one_another(n: int) -> None:
    assert segment_rows(n) % 32 == 0
    assert -(-n // segment_rows(n)) <= 8
    for size in (1, 2, 3, 7):
        ends = [share_of(n, rank, size) for rank in range(size)]
        assert ends[0][0] == 0
        assert ends[-1][1] == n
        assert all(a[1] == b[0] for a, b in itertools.pairwise(ends))
        assert all(first % segment_rows(n) == 0 or first == n for first, _ in ends)


class _Written(str):
    """What was merged with what, in words."""

    __slots__ = ()

    def merge(self, other: _Written) -> _Written:
        return _Written(f"({self}{other})")


def test_what_is_merged_with_what_depends_on_places_alone() -> None:
    alone = MergeTree[_Written]()
    for place, letter in enumerate("abcdefg"):
        alone.add(place, 1, _Written(letter))
    assert alone.whole() == "(((ab)(cd))((ef)g))"
    assert len(alone.nodes) == 3
    parted = MergeTree[_Written]()
    for cut in ("abc", "def", "g"):
        own = MergeTree[_Written]()
        for letter in cut:
            own.add("abcdefg".index(letter), 1, _Written(letter))
        for node in own.nodes:
            parted.add(*node)
    assert parted.whole() == alone.whole()
    with pytest.raises(NumericsError):
        MergeTree[_Written]().whole()
