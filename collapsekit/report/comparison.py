"""Comparison: reports side by side, as every format shows them. Its JSON is described in docs/compare.md."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from collapsekit.io.safe_text import quote, some
from collapsekit.report.agreement import (
    check_digest,
    check_interval,
    check_modality,
    check_names,
    differ,
    first_repeat,
    label_of,
)
from collapsekit.report.base import Contract, Count, Flag, Frozen, Interval, Number, Positive, Share, Whole
from collapsekit.report.diagnosis import ModalityState, OverallState

Better = Literal["lower", "higher"]
Pairs = Literal["training seed", "name", "order"]
TIE = 1e-12  # means that differ by rounding alone are equally good


class RunOf(Frozen):
    """One report of a column."""

    name: str  # of its folder or file; what runs may be paired by
    path: str
    checkpoint: str
    sha256: str
    training_seed: Whole | None = None


class Column(Frozen):
    """One report, or several runs of one method."""

    name: str
    runs: tuple[RunOf, ...]
    pairs: Count | None = None  # runs matched with runs of the reference; null where it is not tested


class Test(Frozen):
    """A two-sided Wilcoxon signed-rank test of a cell's column against the reference, over matched runs."""

    __test__ = False  # no test of ours, whatever pytest reads from the name

    pairs: Positive
    differing: Count  # pairs that are not equal; p is 1 where none is
    difference: Number | None  # mean of this column minus the reference, over these pairs
    p: Share
    p_holm: Share
    exact: Flag  # else the normal approximation
    significant: Flag  # p_holm is at most alpha


class Change(Frozen):
    """A cell's value minus that of the base's column."""

    difference: Number
    interval: Interval | None = None  # of the difference, over the same examples; null where no records are of both
    # What noise was told by: the same examples, paired runs, or whether the two intervals overlap.
    told_by: Literal["examples", "runs", "intervals"] | None = None
    clear: Flag | None = None  # beyond noise; null where that cannot be told


class Cell(Frozen):
    """What a column says in a row."""

    value: Number | None = None  # the mean where there are several runs
    sd: Number | None = None  # over runs, n - 1 in the denominator; null with fewer than two
    interval: Interval | None = None  # of a single run
    runs: Count = 0  # that had a value, or a verdict
    states: dict[ModalityState | OverallState, Positive] = Field(
        default_factory=dict
    )  # verdict to how many runs have it, in rows of verdicts
    missing: str | None = None  # why there is nothing
    best: Flag = False
    test: Test | None = None
    change: Change | None = Field(default=None, json_schema_extra={"since": 2})  # null in the base's own column


class Row(Frozen):
    """One number, or verdict, across columns; ``cells`` follows ``Comparison.columns``."""

    part: Literal["verdict", "result"]
    name: str  # "verdict", "score", "costs_now", "costs_if_missing", or the result's
    probe: str | None = None
    modality: str | None = None
    versus: str | None = None
    unit: str | None = None
    better: Better | None = None  # null where no direction is agreed, and none is best
    why: str | None = None  # of that direction
    definition: str
    source: str
    cells: tuple[Cell, ...]


class Testing(Frozen):
    """What was tested, and how."""

    __test__ = False

    reference: str  # name of a column
    pairing: Pairs
    tests: Count  # made, which Holm's correction is over
    alpha: Share
    family: str  # the same in words


class Comparison(Contract):
    """Reports of the same task, metric, split, examples and modalities side by side; frozen."""

    kind: Literal["comparison"] = "comparison"
    collapsekit: str
    task: str
    metric: str
    split: str
    examples: Positive
    modalities: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    testing: Testing | None = None  # null where no two columns have several runs
    base: str | None = Field(default=None, json_schema_extra={"since": 2})  # the column that changes are told against
    finding: tuple[str, ...] = Field(default=(), json_schema_extra={"since": 2})  # a sentence for each other column
    unranked: tuple[str, ...] = Field(default=(), json_schema_extra={"since": 2})  # why no best is marked
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _a_cell_a_column(self) -> Comparison:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(f"row {row.name!r} has {len(row.cells)} cells for {len(self.columns)} columns")
        return self

    def _gist(self) -> Iterator[str]:
        yield some([c.name for c in self.columns])
        runs = sum(len(c.runs) for c in self.columns)
        yield f"{len(self.rows)} numbers of {runs} reports on {self.examples} examples of {self.split}"

    def contradictions(self) -> Iterator[str]:
        """See :meth:`Contract.contradictions`."""
        return _contradictions(self)


def is_best(value: float | None, best: float) -> bool:
    """Tell whether a value is as good as the best of its row."""
    return value is not None and math.isclose(value, best, rel_tol=TIE, abs_tol=TIE if abs(best) < 1 else 0.0)


def _contradictions(comparison: Comparison) -> Iterator[str]:
    if len(comparison.columns) < 2:
        yield "it has fewer than two columns"
    yield from check_names("the list of columns", [c.name for c in comparison.columns])
    if not comparison.modalities or comparison.examples < 1:
        yield "it is of no modalities or no examples"
    yield from check_names("the list of modalities", comparison.modalities)
    for column in comparison.columns:
        yield from _column(column)
    again = first_repeat((r.part, r.name, r.modality, r.versus) for r in comparison.rows)
    if again is not None:
        yield f"the row {label_of(*again[1:])} is there twice"
    for row in comparison.rows:
        if not row.name.strip():
            yield "a row has an empty name"
        for modality in (row.modality, row.versus):
            yield from check_modality(f"the row {quote(row.name)}", modality, comparison.modalities)
        for cell, column in zip(row.cells, comparison.columns, strict=True):
            yield from _cell(cell, column, row)
        yield from _best(row, ranked=not comparison.unranked)
        yield from _changes(row, comparison)
    if comparison.base is not None and comparison.base not in [c.name for c in comparison.columns]:
        yield f"the base {quote(comparison.base)} is none of its columns"
    yield from _tests(comparison)


def _column(column: Column) -> Iterator[str]:
    if not column.runs:
        yield f"the column {quote(column.name)} has no runs"
    for run in column.runs:
        yield from check_digest(f"the sha256 of a run of {quote(column.name)}", run.sha256)
    if column.pairs is not None and column.pairs > len(column.runs):
        yield f"the column {quote(column.name)} has {column.pairs} pairs of {len(column.runs)} runs"


def _cell(cell: Cell, column: Column, row: Row) -> Iterator[str]:
    what = f"{label_of(row.name, row.modality, row.versus)} in {quote(column.name)}"
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
    yield from check_interval(what, cell.value, cell.interval)


def _changes(row: Row, comparison: Comparison) -> Iterator[str]:
    """Each change is that of the values, and clear as its interval says."""
    names = [c.name for c in comparison.columns]
    start = row.cells[names.index(comparison.base)] if comparison.base in names else None
    for cell, name in zip(row.cells, names, strict=True):
        what, change = f"the change of {label_of(row.name, row.modality, row.versus)} in {quote(name)}", cell.change
        if change is None:
            continue
        if start is None or start is cell or start.value is None or cell.value is None:
            yield f"{what} is from nothing: it needs a value in the base's column and in its own"
            continue
        if differ(change.difference, cell.value - start.value, cell.value):
            yield f"{what} is not the difference of its values"
        yield from check_interval(what, change.difference, change.interval)
        told = change.told_by == "examples"
        if told != (change.interval is not None) or (change.clear is None) != (change.told_by is None):
            yield f"{what} is told by {change.told_by}, which does not fit what it holds"
        elif change.interval is not None and change.clear == (change.interval[0] <= 0 <= change.interval[1]):
            yield f"{what} is {'' if change.clear else 'not '}clear, which its interval does not give"


def _best(row: Row, *, ranked: bool) -> Iterator[str]:
    values = [c.value for c in row.cells if c.value is not None]
    wanted = [False] * len(row.cells)
    if ranked and row.better is not None and len(values) > 1:
        best = min(values) if row.better == "lower" else max(values)
        wanted = [is_best(c.value, best) for c in row.cells]
    if [c.best for c in row.cells] != wanted:
        yield f"the best of {label_of(row.name, row.modality, row.versus)} is not what its values give"


def _tests(comparison: Comparison) -> Iterator[str]:
    made = [
        (row, column, cell.test)
        for row in comparison.rows
        for column, cell in zip(comparison.columns, row.cells, strict=True)
    ]
    tests = [(row, column, test) for row, column, test in made if test is not None]
    testing = comparison.testing
    if testing is None:
        if tests or any(column.pairs is not None for column in comparison.columns):
            yield "it has tests or pairs, but names no reference"
        return
    if testing.reference not in [c.name for c in comparison.columns]:
        yield f"the reference {quote(testing.reference)} is none of its columns"
    if testing.tests != len(tests):
        yield f"`testing` counts {testing.tests} tests, but its rows hold {len(tests)}"
    for row, column, test in tests:
        yield from _test(f"the test of {label_of(row.name, row.modality, row.versus)}", test, column, comparison)


def _test(what: str, test: Test, column: Column, comparison: Comparison) -> Iterator[str]:
    testing = comparison.testing
    assert testing is not None  # the caller has asked
    if column.name == testing.reference or column.pairs is None or test.pairs > column.pairs:
        yield f"{what} is over {test.pairs} pairs of {quote(column.name)}, which has not as many"
    if test.differing > test.pairs or (test.differing == 0 and test.p != 1):
        yield f"{what} has {test.differing} of {test.pairs} pairs that differ, and p {test.p:.6g}"
    if not test.p <= test.p_holm <= min(1.0, max(1, testing.tests) * test.p) * (1 + 1e-9):
        yield f"{what} has p {test.p:.6g} and, corrected, {test.p_holm:.6g}, which Holm does not give"
    if test.significant != (test.p_holm <= testing.alpha):
        yield f"{what} is {'' if test.significant else 'not '}significant, which its p does not give"
