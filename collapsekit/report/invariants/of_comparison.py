"""Reports side by side: columns and cells agree, the best is the best, and tests are those that are told of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapsekit.io.safe_text import quoted
from collapsekit.report.invariants.common import about, digest, known, names, twice, within

if TYPE_CHECKING:
    from collapsekit.report.comparison import Cell, Column, Comparison, Row, Test

TIE = 1e-12  # means that differ by rounding alone are equally good


def is_best(value: float | None, best: float) -> bool:
    """Whether a value is as good as the best of its row."""
    return value is not None and math.isclose(value, best, rel_tol=TIE, abs_tol=TIE if abs(best) < 1 else 0.0)


def comparison_contradiction(comparison: Comparison) -> str | None:
    """The first contradiction within a comparison; None where its parts agree."""
    return next(_contradictions(comparison), None)


def _contradictions(found: Comparison) -> Iterator[str]:
    if len(found.columns) < 2:
        yield "it has fewer than two columns"
    yield from names("the list of columns", [c.name for c in found.columns])
    if not found.modalities or found.examples < 1:
        yield "it is of no modalities or no examples"
    yield from names("the list of modalities", found.modalities)
    for column in found.columns:
        yield from _column(column)
    again = twice((r.part, r.name, r.modality, r.versus) for r in found.rows)
    if again is not None:
        yield f"the row {about(*again[1:])} is there twice"
    for row in found.rows:
        if not row.name.strip():
            yield "a row has an empty name"
        for modality in (row.modality, row.versus):
            yield from known(f"the row {quoted(row.name)}", modality, found.modalities)
        for cell, column in zip(row.cells, found.columns, strict=True):
            yield from _cell(cell, column, row)
        yield from _best(row)
    yield from _tests(found)


def _column(column: Column) -> Iterator[str]:
    if not column.runs:
        yield f"the column {quoted(column.name)} has no runs"
    for run in column.runs:
        yield from digest(f"the sha256 of a run of {quoted(column.name)}", run.sha256)
    if column.pairs is not None and column.pairs > len(column.runs):
        yield f"the column {quoted(column.name)} has {column.pairs} pairs of {len(column.runs)} runs"


def _cell(cell: Cell, column: Column, row: Row) -> Iterator[str]:
    what = f"{about(row.name, row.modality, row.versus)} in {quoted(column.name)}"
    if (row.part == "verdict" and row.name == "verdict") != bool(cell.states) and cell.missing is None:
        yield f"{what} has a verdict for a number, or a number for a verdict"
    if (cell.value is not None) + bool(cell.states) + (cell.missing is not None) != 1:
        yield f"{what} needs exactly one of a value, verdicts, or a reason why there is none"
    if cell.runs > len(column.runs) or (cell.missing is None) != (cell.runs > 0):
        yield f"{what} is of {cell.runs} runs, and the column has {len(column.runs)}"
    if cell.states and sum(cell.states.values()) != cell.runs:
        yield f"{what} counts {sum(cell.states.values())} verdicts of {cell.runs} runs"
    if cell.sd is not None and (cell.sd < 0 or cell.runs < 2 or cell.value is None):
        yield f"{what} has a standard deviation of {cell.sd:.6g} over {cell.runs} runs"
    if cell.interval is not None and (len(column.runs) != 1 or cell.value is None):
        yield f"{what} has an interval, which only the value of a single run has"
    yield from within(what, cell.value, cell.interval)


def _best(row: Row) -> Iterator[str]:
    values = [c.value for c in row.cells if c.value is not None]
    wanted = [False] * len(row.cells)
    if row.better is not None and len(values) > 1:
        best = min(values) if row.better == "lower" else max(values)
        wanted = [is_best(c.value, best) for c in row.cells]
    if [c.best for c in row.cells] != wanted:
        yield f"the best of {about(row.name, row.modality, row.versus)} is not what its values give"


def _tests(found: Comparison) -> Iterator[str]:
    made = [
        (row, column, cell.test) for row in found.rows for column, cell in zip(found.columns, row.cells, strict=True)
    ]
    tests = [(row, column, test) for row, column, test in made if test is not None]
    testing = found.testing
    if testing is None:
        if tests or any(column.pairs is not None for column in found.columns):
            yield "it has tests or pairs, but names no reference"
        return
    if testing.reference not in [c.name for c in found.columns]:
        yield f"the reference {quoted(testing.reference)} is none of its columns"
    if testing.tests != len(tests):
        yield f"`testing` counts {testing.tests} tests, but its rows hold {len(tests)}"
    for row, column, test in tests:
        yield from _test(f"the test of {about(row.name, row.modality, row.versus)}", test, column, found)


def _test(what: str, test: Test, column: Column, found: Comparison) -> Iterator[str]:
    testing = found.testing
    assert testing is not None  # the caller has asked
    if column.name == testing.reference or column.pairs is None or test.pairs > column.pairs:
        yield f"{what} is over {test.pairs} pairs of {quoted(column.name)}, which has not as many"
    if test.differing > test.pairs or (test.differing == 0 and test.p != 1):
        yield f"{what} has {test.differing} of {test.pairs} pairs that differ, and p {test.p:.6g}"
    if not test.p <= test.p_holm <= min(1.0, max(1, testing.tests) * test.p) * (1 + 1e-9):
        yield f"{what} has p {test.p:.6g} and, corrected, {test.p_holm:.6g}, which Holm does not give"
    if test.significant != (test.p_holm <= testing.alpha):
        yield f"{what} is {'' if test.significant else 'not '}significant, which its p does not give"
