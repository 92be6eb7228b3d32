"""The paper's numbers beside ours: means over seeds, and whether what is to be in order is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import collapsekit
from collapsekit.report.reproduction import Agreement, ItemCell, ItemOrder, Reproduction
from collapsekit.reproduce.item import Item, Order
from collapsekit.reproduce.studies import datasets
from collapsekit.session.subject import environment
from collapsekit.stats.inference.wilcoxon import MIN_PAIRS, signed_rank


def summarise(item: Item, records: Sequence[Mapping[str, Any]], *, quick: bool) -> Reproduction:
    """Set means over seeds beside the paper's numbers.

    Args:
        item: Which.
        records: One a seed.
        quick: Whether they are of a smoke run.

    Returns:
        The item as it came out.
    """
    values: list[dict[tuple[str, str], float]] = [{(r, c): v for r, c, v in record["points"]} for record in records]
    cells = []
    for row in item.rows:
        printed = item.printed.get(row, ())
        for place, column in enumerate(item.columns):
            here = [v[row, column] for v in values if (row, column) in v]
            paper = printed[place] if place < len(printed) else None
            if here or paper is not None:
                cells.append(_cell(row, column, paper, here))
    return Reproduction(
        collapsekit=collapsekit.__version__,
        item=item.name,
        paper=item.paper,
        title=item.title,
        claim=item.claim,
        here=item.here,
        quick=quick,
        data=tuple(map(datasets.describe, item.data)),
        seeds=tuple(record["seed"] for record in records),
        rows=item.rows,
        columns=item.columns,
        measure=item.measured,
        drawn=item.drawn,
        column_label=item.column_label,
        cells=tuple(cells),
        orders=tuple(
            o for o in (order_here(order, values, test=item.tested) for order in item.orders) if o is not None
        ),
        notes=item.notes,
        commits=tuple(dict.fromkeys(c for record in records if (c := record.get("commit")) is not None)),
        environment=environment(),
    )


def _cell(row: str, column: str, paper: float | None, here: Sequence[float]) -> ItemCell:
    return ItemCell(
        row=row,
        column=column,
        paper=paper,
        here=statistics.fmean(here) if here else None,
        sd=statistics.stdev(here) if len(here) > 1 else None,
        seeds=len(here),
    )


def order_here(
    order: Order, values: Sequence[Mapping[tuple[str, str], float]], *, test: bool = True
) -> ItemOrder | None:
    """Find whether what the paper says is in order is so here.

    Args:
        order: Of steps, each the mean over cells.
        values: By seed, by cell.
        test: Whether the last step is tested against the first over seeds, where there are enough.

    Returns:
        The means of the steps over the seeds that have every cell, and in how many of them each step is in order; None
        where no seed has.
    """
    sign = 1 if order.rises else -1
    seeds = [
        [statistics.fmean(v[cell] for cell in cells) for cells in order.steps.values()]
        for v in values
        if all(cell in v for cells in order.steps.values() for cell in cells)
    ]
    if not seeds:
        return None
    means = [statistics.fmean(column) for column in zip(*seeds, strict=True)]
    enough = test and len(seeds) >= MIN_PAIRS
    rank = signed_rank([s[-1] for s in seeds], [s[0] for s in seeds]) if enough else None
    return ItemOrder(
        text=order.text,
        steps=tuple(order.steps),
        rises=order.rises,
        here=tuple(means),
        same=_agreement([sign * m for m in means]),
        seeds_in_order=sum(_rises([sign * m for m in s]) for s in seeds),
        seeds=len(seeds),
        p=None if rank is None else rank.p,
    )


def _agreement(means: Sequence[float]) -> Agreement:
    if _rises(means):
        return "yes"
    return "in part" if means[-1] > means[0] else "no"


def _rises(means: Sequence[float]) -> bool:
    return all(a < b for a, b in pairwise(means))
