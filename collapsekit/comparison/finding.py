"""The finding of a comparison, out of its numbers alone: what changed by more than noise, and what did not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from collapsekit.report.comparison import Cell, Change, Column, Row

METRIC = "reliance.full_metric"
_WAYS = {"score": ("ignored more", "ignored less"), METRIC: ("higher", "lower")}  # where it rises, where it falls


def describe_finding(
    rows: Sequence[Row], columns: Sequence[Column], base: int, unranked: Sequence[str]
) -> tuple[str, ...]:
    """Say in a sentence a column what differs from the base.

    Args:
        rows: The table.
        columns: Its columns.
        base: The place of the column that others are held against.
        unranked: Why none can be called better.

    Returns:
        A sentence for each other column: verdicts that differ, then scores and the task metric, by whether they differ by
        more than noise.
    """
    numbers = [row for row in rows if row.name in _WAYS and row.versus is None]
    verdicts = [row for row in rows if row.name == "verdict"]
    return tuple(
        _sentence(columns[i].name, columns[base].name, list(_parts(numbers, verdicts, base, i)), unranked)
        for i in range(len(columns))
        if i != base
    )


def _sentence(name: str, base: str, parts: Sequence[str], unranked: Sequence[str]) -> str:
    apart = f" They were not measured alike ({'; '.join(unranked)}), so neither is called better." if unranked else ""
    said = "; ".join(parts) or "no score, task metric or verdict is shown of both"
    return f"{name} beside {base}: {said}.{apart}"


def _parts(numbers: Sequence[Row], verdicts: Sequence[Row], base: int, column: int) -> Iterator[str]:
    moved = [found for row in verdicts if (found := _verdict(row, base, column)) is not None]
    both = [row for row in verdicts if row.cells[base].states and row.cells[column].states]
    if moved:
        yield f"verdicts that differ: {', '.join(moved)}"
    elif both:
        yield "the verdicts are the same"
    groups: dict[str, list[str]] = {"beyond noise": [], "within noise": [], "the same": [], "noise not known": []}
    for row in numbers:
        start, cell = row.cells[base], row.cells[column]
        if cell.change is not None:
            groups[_group(cell.change)].append(_number(row, start, cell))
    yield from (f"{what}: {', '.join(found)}" for what, found in groups.items() if found)


def _group(change: Change) -> str:
    if change.difference == 0:
        return "the same"
    return "noise not known" if change.clear is None else ("beyond noise" if change.clear else "within noise")


def _verdict(row: Row, base: int, column: int) -> str | None:
    """A verdict that is another one; of several runs the one that most have."""
    before, after = _usual(row.cells[base]), _usual(row.cells[column])
    if before is None or after is None or before == after:
        return None
    return f"{row.modality or 'the whole model'} {before} to {after}"


def _usual(cell: Cell) -> str | None:
    return max(sorted(cell.states), key=lambda s: cell.states[s]) if cell.states else None


def _number(row: Row, start: Cell, cell: Cell) -> str:
    what = f"score of {row.modality}" if row.modality is not None else (row.unit or row.name)
    change = cell.change
    assert change is not None  # the caller has asked
    assert start.value is not None
    assert cell.value is not None
    clear = f" ({_WAYS[row.name][0 if change.difference > 0 else 1]})" if change.clear else ""
    return f"{what} {start.value:.3g} to {cell.value:.3g}{clear}"
