"""Every group of runs against a reference group, corrected for all tests of one table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from collapsekit.comparison.inputs import Group
from collapsekit.comparison.pairing import Matching
from collapsekit.comparison.quantities import Found, Key
from collapsekit.comparison.spread import mean
from collapsekit.io.safe_text import quote
from collapsekit.report.comparison import Test, Testing
from collapsekit.stats.inference.holm import holm
from collapsekit.stats.inference.wilcoxon import MIN_PAIRS, SignedRank, least_p, signed_rank

ALPHA = 0.05

Said = Sequence[Sequence[dict[Key, Found]]]  # of each column, of each of its runs


@dataclass(frozen=True)
class _Tried:
    """One test before Holm's correction."""

    pairs: int
    difference: float | None
    found: SignedRank


def run_tests(said: Said, keys: Sequence[Key], matching: Matching | None) -> dict[tuple[Key, int], Test]:
    """Test each number of each column against the reference's, by pairs of runs, with Holm's correction over all tests.

    Args:
        said: The quantities of each column's runs.
        keys: The rows of the table.
        matching: Which runs are pairs; None where there are none.

    Returns:
        Each test by row and column; none without a matching.
    """
    if matching is None:
        return {}
    tried: dict[tuple[Key, int], _Tried] = {}
    for key in keys:
        for column, pairs in enumerate(matching.pairs):
            found = _tried(key, said[matching.reference], said[column], pairs or ())
            if found is not None:
                tried[key, column] = found
    corrected = holm([t.found.p for t in tried.values()])
    return {
        at: Test(
            pairs=t.pairs,
            differing=t.found.differing,
            difference=t.difference,
            p=t.found.p,
            p_holm=p,
            exact=t.found.exact,
            significant=p <= ALPHA,
        )
        for (at, t), p in zip(tried.items(), corrected, strict=True)
    }


def _tried(
    key: Key,
    reference: Sequence[dict[Key, Found]],
    column: Sequence[dict[Key, Found]],
    pairs: Sequence[tuple[int, int]],
) -> _Tried | None:
    """A test over the pairs that both have the number; None with fewer than can tell anything."""
    both = [(reference[a].get(key), column[b].get(key)) for a, b in pairs]
    values = [(a.value, b.value) for a, b in both if a is not None and b is not None]
    had = [(a, b) for a, b in values if a is not None and b is not None]
    if len(had) < MIN_PAIRS:
        return None
    theirs, ours = [a for a, _ in had], [b for _, b in had]
    difference = mean(ours) - mean(theirs)
    return _Tried(len(had), difference if math.isfinite(difference) else None, signed_rank(ours, theirs))


def testing(
    groups: Sequence[Group], matching: Matching | None, tests: Mapping[tuple[Key, int], Test]
) -> Testing | None:
    """Describe the tests of the table: the reference, how runs are paired, and what the correction is over.

    Args:
        groups: The columns.
        matching: Which runs are pairs; None where there are none.
        tests: Each test by row and column.

    Returns:
        The description; None without a matching.
    """
    if matching is None:
        return None
    name = groups[matching.reference].name
    tested = len({column for _, column in tests})
    rows = len({key for key, _ in tests})
    family = (
        f"{_count(len(tests), 'two-sided Wilcoxon signed-rank test')} over runs paired by {matching.how}: "
        f"{_count(rows, 'number')} of this table in {_count(tested, 'column')}, each against {quote(name)}; "
        "Holm's correction is over all of them"
    )
    return Testing(reference=name, pairing=matching.how, tests=len(tests), alpha=ALPHA, family=family)


def test_notes(
    groups: Sequence[Group], matching: Matching | None, tests: Mapping[tuple[Key, int], Test]
) -> Iterator[str]:
    """Say why something is not tested, or could not be found however large it is.

    Args:
        groups: The columns.
        matching: Which runs are pairs; None where there are none.
        tests: Each test by row and column.

    Yields:
        Sentences for the reader.
    """
    if matching is None:
        yield "Nothing is tested: it takes two columns of several runs (NAME=A.json,B.json,...), one of them the reference."
        return
    reference = groups[matching.reference]
    for column, pairs in zip(groups, matching.pairs, strict=True):
        if pairs is None:
            if column is not reference:
                yield f"{quote(column.name)} is one run and is not tested."
            continue
        if len(pairs) < MIN_PAIRS:
            yield (
                f"{quote(column.name)} and {quote(reference.name)} have {_count(len(pairs), 'pair')} of runs and are not "
                f"tested: with fewer than {MIN_PAIRS} no two-sided p-value can reach {ALPHA} (2/2^{MIN_PAIRS - 1} = "
                f"{least_p(MIN_PAIRS - 1)})."
            )
        left = len(column.runs) + len(reference.runs) - 2 * len(pairs)
        if left:
            yield (
                f"{_count(left, 'run')} of {quote(column.name)} and {quote(reference.name)} have no partner by "
                f"{matching.how}: means include them, tests do not."
            )
    least = min((least_p(t.pairs) for t in tests.values()), default=0.0) * len(tests)
    if least > ALPHA:
        yield (
            f"With {len(tests)} tests of so few pairs no p-value can reach {ALPHA} after Holm's correction (at best "
            f"{min(1.0, least):.2g}), however large the difference: show fewer numbers (--only), or pair more runs."
        )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
