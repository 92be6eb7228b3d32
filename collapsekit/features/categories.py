"""Kinds of examples, such as questions of one type: which examples are of which, and which are enough to be judged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from collapsekit.data.base import Batch, is_stored
from collapsekit.data.objects import ObjectStore
from collapsekit.errors import DataError
from collapsekit.io.safe_text import quote

MOST = 64  # categories; a field with more values is likelier a number of each example
FEWEST = 50  # examples that are judged: with fewer nearly every interval is too wide to decide
FEWEST_GROUPS = 8  # jackknife groups that have such examples
NONE = "(none)"  # the category of an example that has no value


@dataclass(frozen=True)
class Category:
    """The examples of one kind."""

    name: str
    rows: Tensor  # ascending, int64 (r,)
    groups: Tensor  # jackknife group of each, (r,), counted without groups that have no such example
    numbers: Tensor  # what those groups are numbered among all examples, ascending (g,)
    why_not: str | None  # why it is not judged

    @property
    def places(self) -> Tensor:
        """Where leave-out values (1+G,) of all examples have those of this category, (1+g,)."""
        return torch.cat([torch.zeros(1, dtype=torch.int64), 1 + self.numbers])


def read_categories(
    columns: Batch, key: str | None, objects: Mapping[str, ObjectStore], groups: Tensor, split: str
) -> tuple[Category, ...]:
    """Sort examples by category.

    Args:
        columns: what was read of n examples, (n, ...) by key.
        key: of the field that names each example's category: text or a number; None: examples have none.
        objects: where values are kept that do not stack, by key.
        groups: jackknife group of each example, (n,).
        split: what the examples are called in messages.

    Returns:
        The categories: numbers in their order, then texts in theirs; none without a key.

    Raises:
        DataError: for a field of more than one value an example, or of too many different ones.
    """
    if key is None:
        return ()
    column = columns[key]
    values = _values_of(column, key, objects)
    known: dict[Any, str] = {value: _name_of(value, key) for value in dict.fromkeys(values)}
    if len(set(known.values())) > MOST:
        raise DataError(
            f"data.category {quote(key)} has {len(set(known.values())):,} different values in split {quote(split)}, "
            f"expected {MOST} at most: name a field that says the kind of an example, such as the type of its question."
        )
    order = sorted(known, key=lambda v: (isinstance(v, str), 0 if v is None or isinstance(v, str) else v, known[v]))
    names = list(dict.fromkeys(known[value] for value in order))
    which = torch.tensor([names.index(known[value]) for value in values])
    return tuple(_category(name, (which == i).nonzero()[:, 0], groups) for i, name in enumerate(names))


def _values_of(column: Tensor, key: str, objects: Mapping[str, ObjectStore]) -> list[Any]:
    if is_stored(objects, key, column):
        return [_plain(value, key) for value in objects[key].take(column)]
    flat = column.reshape(len(column), -1)
    if flat.shape[1] != 1 or flat.is_complex():
        raise DataError(
            f"data.category {quote(key)} has {flat.shape[1]} numbers an example, expected one, or a text: name a field that "
            "says the kind of an example."
        )
    return [_plain(value, key) for value in flat[:, 0].tolist()]


def _plain(value: Any, key: str) -> str | int | float | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, str | int | float):
        return value
    raise DataError(
        f"data.category {quote(key)} has a value of type {type(value).__name__}, expected a text or a number: name a field "
        "that says the kind of an example."
    )


def _name_of(value: str | int | float | None, key: str) -> str:
    if value is None or isinstance(value, str):
        return NONE if value is None else value
    return f"{key} {int(value) if value == value // 1 else value}"


def _category(name: str, rows: Tensor, groups: Tensor) -> Category:
    numbers, own = groups[rows].unique(return_inverse=True)
    why = None
    if len(rows) < FEWEST:
        why = f"it has {len(rows)} example{'s' * (len(rows) > 1)}, and {FEWEST} are needed"
    elif len(numbers) < FEWEST_GROUPS:
        why = f"its examples are of {len(numbers)} jackknife groups, and {FEWEST_GROUPS} are needed (data.group)"
    return Category(name, rows, own, numbers, why)
