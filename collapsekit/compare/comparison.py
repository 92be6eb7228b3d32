"""Comparison: reports side by side, as every format shows them. Its JSON is described in docs/compare.md."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import to_jsonable_python

from collapsekit.bounds import json_text
from collapsekit.report import Interval, Number

Better = Literal["lower", "higher"]
Pairs = Literal["training seed", "name", "order"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class RunOf(_Frozen):
    """One report of a column."""

    name: str  # of its folder or file; what runs may be paired by
    path: str
    checkpoint: str
    sha256: str
    training_seed: int | None = None


class Column(_Frozen):
    """One report, or several runs of one method."""

    name: str
    runs: tuple[RunOf, ...]
    pairs: int | None = None  # runs matched with runs of the reference; null where it is not tested


class Test(_Frozen):
    """A two-sided Wilcoxon signed-rank test of a cell's column against the reference, over matched runs."""

    __test__ = False  # no test of ours, whatever pytest reads from the name

    pairs: int
    differing: int  # pairs that are not equal; p is 1 where none is
    difference: Number | None  # mean of this column minus the reference, over these pairs
    p: Number = Field(ge=0, le=1)
    p_holm: Number = Field(ge=0, le=1)
    exact: bool  # else the normal approximation
    significant: bool  # p_holm is at most alpha


class Cell(_Frozen):
    """What a column says in a row."""

    value: Number | None = None  # the mean where there are several runs
    sd: Number | None = None  # over runs, n - 1 in the denominator; null with fewer than two
    interval: Interval | None = None  # of a single run
    runs: int = 0  # that had a value, or a verdict
    states: dict[str, int] = {}  # verdict to how many runs have it, in rows of verdicts
    missing: str | None = None  # why there is nothing
    best: bool = False
    test: Test | None = None


class Row(_Frozen):
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


class Testing(_Frozen):
    """What was tested, and how."""

    __test__ = False

    reference: str  # name of a column
    pairing: Pairs
    tests: int  # made, which Holm's correction is over
    alpha: Number
    family: str  # the same in words


class Comparison(_Frozen):
    """Reports of the same task, metric, split, examples and modalities side by side; frozen."""

    schema_version: Literal[1] = 1
    kind: Literal["comparison"] = "comparison"
    collapsekit: str
    task: str
    metric: str
    split: str
    examples: int
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

    def to_json(self) -> str:
        """The comparison as JSON text, keys in schema order, no NaN or Inf."""
        return json_text(self.model_dump(), default=to_jsonable_python) + "\n"
