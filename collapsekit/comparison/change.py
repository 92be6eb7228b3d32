"""What changed from one column to another, and whether by more than noise."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from collapsekit.comparison.inputs import Group, LoadedRun
from collapsekit.comparison.quantities import Key
from collapsekit.errors import ConfigError, RefusedError, did_you_mean
from collapsekit.io.safe_text import quote
from collapsekit.report.comparison import Cell, Change
from collapsekit.report.diagnosis import Interval
from collapsekit.report.per_example import PerExample, load_records, parts_of
from collapsekit.stats.inference.signflip import standard_error, unit_sums

LEVEL = 0.95


def place_of_base(groups: Sequence[Group], base: str | None, reference: int | None) -> int:
    """Find the column that changes are told against.

    Args:
        groups: The columns.
        base: The name that was asked for; None: the reference of the tests, else the first column.
        reference: The place of the tests' reference; None without tests.

    Returns:
        The column's place.

    Raises:
        ConfigError: Where no column has that name.
    """
    if base is None:
        return 0 if reference is None else reference
    names = [g.name for g in groups]
    if base not in names:
        raise ConfigError(
            f"--base {quote(base)} names no column{did_you_mean(base, names)}: there are {', '.join(map(quote, names))}."
        )
    return names.index(base)


@dataclass(frozen=True)
class Records:
    """What each column's report says of each example, where it is of one run and its records are at hand."""

    columns: tuple[PerExample | None, ...]

    @classmethod
    def of(cls, groups: Sequence[Group]) -> Records:
        """Read them: those of reports in memory, and those that lie beside reports in files."""
        return cls(tuple(_read(g.runs[0]) if len(g.runs) == 1 else None for g in groups))

    def interval(self, key: Key, base: int, other: int) -> Interval | None:
        """Compute the interval of a mean difference over the same examples, as of a paired t-test (level 0.95).

        Args:
            key: The number.
            base: The place of the column that is taken off.
            other: The place of the other column.

        Returns:
            The interval, over units where the data name some; None where the number is no mean of what records hold, or the
            two are not of the same examples.
        """
        one, two = self.columns[base], self.columns[other]
        parts = parts_of(key.name, key.modality) if key.part == "result" and key.versus is None else None
        if one is None or two is None or parts is None or not np.array_equal(one.ids, two.ids):
            return None
        if any(column not in r.columns for column, _ in parts for r in (one, two)):
            return None
        apart = sum(sign * (two.columns[c].astype(np.float64) - one.columns[c]) for c, sign in parts)
        differences = np.asarray(apart, dtype=np.float64)
        sums = unit_sums(differences, two.units)
        error = standard_error(sums, len(differences))
        if not np.isfinite(error):
            return None
        from scipy.stats import t as student_t  # not before it is needed: it takes long to import

        half, mean = error * float(student_t.ppf(0.5 + LEVEL / 2, len(sums) - 1)), float(differences.mean())
        return (mean - half, mean + half)


def _read(run: LoadedRun) -> PerExample | None:
    data = run.report.records
    if data is None and os.path.lexists(run.path):
        try:
            data = load_records(run.report, Path(run.path))
        except RefusedError:  # another report's, which is left alone
            return None
    return None if data is None else PerExample.from_bytes(data, run.path)


def with_changes(key: Key, cells: Sequence[Cell], base: int, records: Records, *, tested: bool) -> list[Cell]:
    """Say of each cell of a row how it differs from the base's.

    Args:
        key: The row.
        cells: A cell a column.
        base: The place of the column that they are held against.
        records: What columns say of each example.
        tested: Whether the base is the reference of the tests.

    Returns:
        The cells, with changes where both have a value.
    """
    start = cells[base]
    found = list(cells)
    for place, cell in enumerate(cells):
        if place != base and _differ_finitely(start, cell):
            paired = records.interval(key, base, place)
            found[place] = cell.model_copy(update={"change": _change(start, cell, paired, tested=tested)})
    return found


def _differ_finitely(start: Cell, cell: Cell) -> bool:
    return start.value is not None and cell.value is not None and math.isfinite(cell.value - start.value)


def _change(start: Cell, cell: Cell, paired: Interval | None, *, tested: bool) -> Change:
    assert start.value is not None  # the caller has asked
    assert cell.value is not None
    difference = cell.value - start.value
    if paired is not None:
        half = (paired[1] - paired[0]) / 2  # about the difference of the reports' own numbers, which are rounded less
        interval = (difference - half, difference + half)
        return Change(difference=difference, interval=interval, told_by="examples", clear=not _holds_zero(interval))
    if tested and cell.test is not None and cell.test.difference is not None:
        return Change(difference=difference, told_by="runs", clear=cell.test.significant)
    if start.interval is not None and cell.interval is not None:
        (a, b), (c, d) = start.interval, cell.interval
        return Change(difference=difference, told_by="intervals", clear=not (a <= d and c <= b))
    return Change(difference=difference)


def _holds_zero(interval: tuple[float, float]) -> bool:
    return interval[0] <= 0 <= interval[1]
