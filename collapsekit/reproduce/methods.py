"""The rows that tables of the first paper compare: a network as it was trained and after repairs, and orders of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from collapsekit.reproduce.item import Order, rows_in_order

VANILLA, KD, EBR = "vanilla", "KD", "EBR"
CONTROL, HEADS = "fine-tuning", "heads alone"
# What repairs the rows are; fine-tuning and heads alone are the controls that the paper has not.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    CONTROL: ("finetune", {}),
    HEADS: ("substitute", {"substitution": 0.0}),
    KD: ("kd", {}),
    EBR: ("ebr", {}),
}
METHODS = (VANILLA, *ROWS)
OF_PAPER = (VANILLA, KD, EBR)
KEPT = "A control equal to vanilla kept the weights it began with, as no epoch lowered the held-out loss."


def over_repairs(what: str, columns: Sequence[str], *, rises: bool) -> Order:
    """Make the paper's order: from the vanilla network over KD to EBR.

    Args:
        what: The number, in a word or two.
        columns: The mean over which is compared.
        rises: Whether it is to rise; else it is to fall.

    Returns:
        The order.
    """
    text = f"{what} {'rises' if rises else 'falls'} from vanilla over KD to EBR"
    return rows_in_order(text, OF_PAPER, columns, rises=rises)


def ahead_of_controls(columns: Sequence[str]) -> tuple[Order, ...]:
    """Make the orders in which EBR's numbers are larger than those of each control, over the mean of the columns."""
    return tuple(
        rows_in_order(f"EBR is ahead of {control} (our control)", (control, EBR), columns, rises=True)
        for control in (CONTROL, HEADS)
    )
