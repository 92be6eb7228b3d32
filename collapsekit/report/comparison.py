"""Comparison: reports side by side, as every format shows them. Its JSON is described in docs/compare.md."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from collapsekit.report.base import Contract, Count, Flag, Frozen, Interval, Number, Positive, Share, Whole
from collapsekit.report.diagnosis import ModalityState, OverallState
from collapsekit.report.invariants.of_comparison import comparison_contradiction

Better = Literal["lower", "higher"]
Pairs = Literal["training seed", "name", "order"]


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
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _a_cell_a_column(self) -> Comparison:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(f"row {row.name!r} has {len(row.cells)} cells for {len(self.columns)} columns")
        return self

    def contradiction(self) -> str | None:
        """See :meth:`Contract.contradiction`."""
        return comparison_contradiction(self)
