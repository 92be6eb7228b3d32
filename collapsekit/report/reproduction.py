"""Reproduction: a table or figure of a paper beside what comes out here, as `collapsekit reproduce` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from collapsekit.io.safe_text import quote
from collapsekit.report.agreement import first_repeat
from collapsekit.report.base import Contract, Count, Flag, Frozen, Number, Positive, Share, Whole

Agreement = Literal["yes", "in part", "no"]


class ItemCell(Frozen):
    """One number of the paper, and the same here: the mean over seeds."""

    row: str
    column: str
    paper: Number | None = None  # as printed; null where the paper prints none, or draws it
    here: Number | None = None
    sd: Number | None = None  # over seeds, n - 1 in the denominator; null with fewer than two
    seeds: Count = 0  # that have a value


class ItemOrder(Frozen):
    """What the paper says is in order, and whether it is here."""

    text: str
    steps: tuple[str, ...]  # what is to rise, or fall, from the first to the last
    rises: Flag  # else it falls
    here: tuple[Number, ...]  # the mean of each step
    same: Agreement  # yes: every step; in part: the last beside the first alone; no: not even these
    seeds_in_order: Count  # in which every step is in order
    seeds: Positive
    p: Share | None = None  # two-sided, of the last step beside the first over seeds; null for fewer than six


class ItemData(Frozen):
    """What it was measured on."""

    name: str
    sha256: str
    about: str


class Reproduction(Contract):
    """A table or figure of a paper beside what comes out here."""

    kind: Literal["reproduction"] = "reproduction"
    collapsekit: str
    item: str
    paper: str
    title: str
    claim: str  # what the paper says
    here: str  # what is done here in its place
    quick: Flag  # a smoke run: few examples and epochs, so that its numbers mean nothing
    data: tuple[ItemData, ...]
    seeds: tuple[Whole, ...] = Field(min_length=1)
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    measure: str  # what the numbers are
    drawn: Literal["lines", "bars"]
    column_label: str
    cells: tuple[ItemCell, ...]
    orders: tuple[ItemOrder, ...] = ()
    notes: tuple[str, ...] = ()
    commits: tuple[str, ...] = ()  # of the checkout that its seeds were measured at, where it was one
    environment: dict[str, Any]

    def _gist(self) -> Iterator[str]:
        agree = [o.same for o in self.orders]
        counts = [f"{same} {agree.count(same)}" for same in ("yes", "in part", "no") if same in agree]
        yield self.item + ", a smoke run" * self.quick
        yield f"same order as in the paper: {', '.join(counts)}" if counts else "no order to compare"
        yield f"{len(self.seeds)} seed{'s' * (len(self.seeds) != 1)}"

    def contradictions(self) -> Iterator[str]:
        """Yield where names repeat, and where cells are not of its rows and columns."""
        for what, names in (("row", self.rows), ("column", self.columns)):
            repeated = first_repeat(names)
            if repeated is not None:
                yield f"the {what} {quote(repeated)} is in it twice"
        for cell in self.cells:
            if cell.row not in self.rows or cell.column not in self.columns:
                yield f"{quote(cell.row)}, {quote(cell.column)} is none of its rows and columns"
            if cell.seeds > len(self.seeds):
                yield f"{quote(cell.row)}, {quote(cell.column)} has more seeds than it"
        for order in self.orders:
            if len(order.here) != len(order.steps):
                yield f"the order {quote(order.text)} has {len(order.steps)} steps and {len(order.here)} means"
