from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from collapsekit.errors import NumericsError
from collapsekit.stats.inference.wilcoxon import MAX_EXACT, MIN_PAIRS, least_p, signed_rank


def _by_hand(differences: list[float]) -> float:
    """Over all signs: how often the smaller tail is as small as found, twice."""
    ranks = stats.rankdata(np.abs(differences))
    found = ranks[np.asarray(differences) > 0].sum()
    sums = [
        sum(r for r, up in zip(ranks, ups, strict=True) if up) for ups in itertools.product((0, 1), repeat=len(ranks))
    ]
    below, above = np.mean(np.array(sums) <= found), np.mean(np.array(sums) >= found)
    return float(min(1.0, 2 * min(below, above)))


@pytest.mark.parametrize("n", [1, 2, 5, 6, 9, 20, 50])
def test_untied_pairs_are_as_in_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(20):
        a, b = rng.normal(size=n), rng.normal(0.5, 1, size=n)
        theirs = stats.wilcoxon(a, b, method="exact")
        ours = signed_rank(a, b)
        assert ours.exact
        assert ours.p == pytest.approx(theirs.pvalue, rel=1e-10)
        assert ours.statistic == theirs.statistic


def test_a_table_of_the_books() -> None:
    """Darwin's maize, as R's and SciPy's pages have it: T = 24, p = 0.0413."""
    differences = [6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75]
    found = signed_rank(differences, [0] * 15)
    assert found.statistic == 24
    assert found.p == pytest.approx(0.041259765625, rel=1e-12)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_ties_and_equal_pairs_are_exact(differences: list[int]) -> None:
    found = signed_rank(differences, [0] * len(differences))
    kept = [float(d) for d in differences if d]
    assert found.differing == len(kept)
    assert found.p == pytest.approx(_by_hand(kept) if kept else 1.0, rel=1e-12)
    if kept:
        assert found.p >= least_p(len(kept)) - 1e-15


def test_ties_are_as_in_scipys_permutation_test() -> None:
    a, b = [3.0, 1, 4, 1, 5, 9, 2, 6], [2.0, 0, 6, 0, 3, 5, 1, 8]
    theirs = stats.wilcoxon(a, b, method=stats.PermutationMethod(n_resamples=10_000))
    assert signed_rank(a, b).p == pytest.approx(theirs.pvalue, rel=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.05, -0.2])
def test_many_pairs_take_the_normal_approximation(shift: float) -> None:
    rng = np.random.default_rng(1)
    a = np.round(rng.normal(shift, 1, MAX_EXACT + 50), 1)  # tied
    theirs = stats.wilcoxon(a, method="asymptotic", correction=False)
    ours = signed_rank(a, np.zeros_like(a))
    assert not ours.exact
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)


def test_exact_and_normal_meet() -> None:
    a = np.random.default_rng(2).normal(0.15, 1, MAX_EXACT)
    near = stats.wilcoxon(a, method="asymptotic", correction=True).pvalue
    assert signed_rank(a, np.zeros_like(a)).p == pytest.approx(near, rel=0.02)


numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12))
def test_sides_and_order_do_not_matter(pairs: list[tuple[float, float]]) -> None:
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    found = signed_rank(a, b)
    assert 0 < found.p <= 1
    assert signed_rank(b, a).p == found.p
    assert signed_rank(a[::-1], b[::-1]).p == found.p


def test_differences_beyond_what_a_number_can_be_are_ranked() -> None:
    a = [1.7e308, 1.2e308, -1.1e308]
    assert signed_rank(a, [-x for x in a]).statistic == 1.0


def test_rounding_is_no_difference() -> None:
    a = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    assert signed_rank(a, [math.nextafter(x, 1) for x in a]).differing == 0
    assert 0.3 - 0.2 != 0.2 - 0.1
    tied = signed_rank([0.3, 0.2, 0.5, 0.0], [0.2, 0.1, 0.9, 0.2])
    assert tied.statistic == 3.0
    assert tied.p == pytest.approx(_by_hand([1, 1, -4, -2]))


def test_the_fewest_pairs_are_the_fewest() -> None:
    for n in range(1, 12):
        best = signed_rank(list(range(1, n + 1)), [0] * n).p
        assert best == least_p(n)
        assert (best <= 0.05) == (n >= MIN_PAIRS)


@pytest.mark.parametrize("bad", [([], []), ([1.0], [1.0, 2.0]), ([math.nan], [1.0]), ([1.0], [math.inf])])
def test_input_that_holds_no_pairs_is_refused(bad: tuple[list[float], list[float]]) -> None:
    with pytest.raises(NumericsError, match="matched numbers"):
        signed_rank(*bad)
