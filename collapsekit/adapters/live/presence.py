"""Which examples have a modality at all: one that a data set spells None, or NaN throughout, is missing there."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from collapsekit.data.base import Batch, is_stored
from collapsekit.io.transfer import to_device

if TYPE_CHECKING:
    from collapsekit.adapters.base import Adapter

T = TypeVar("T")


def find_present(adapter: Adapter, columns: Batch) -> dict[str, Tensor]:
    """Find which examples have each modality, of those that some lack.

    Args:
        adapter: the model, which knows which inputs are whose.
        columns: inputs (n, ...) by key, as the data has them.

    Returns:
        bool (n,) by modality. One that lacks all of its inputs in an example is missing there.
    """
    found = {}
    for m in adapter.modalities:
        keys = [k for k in adapter.fields.of(m) if k in columns and k != adapter.config.modalities[m].mask]
        there = [~absent_rows(adapter, k, columns[k]) for k in keys]
        if there and not bool((some := torch.stack(there).any(0)).all()):
            found[m] = some
    return found


def absent_rows(adapter: Adapter, key: str, column: Tensor) -> Tensor:
    """Tell which rows of a column are None, or NaN throughout.

    Args:
        adapter: the model, which knows of values that do not stack.
        key: the column's.
        column: (n, ...).

    Returns:
        bool (n,).
    """
    if is_stored(adapter.source.objects, key, column):
        values = adapter.source.objects[key].take(column)
        return torch.tensor([value is None for value in values], dtype=torch.bool)
    return _nan_rows(column)


def missing_note(adapter: Adapter, batch: Batch) -> str:
    """Say which modalities some examples of a batch lack, for the message of an error that this may be the cause of.

    Args:
        adapter: the model, which knows which inputs are whose.
        batch: inputs (n, ...) by key.

    Returns:
        A clause that begins with a semicolon; nothing where none is missing.
    """
    told = [f"modality {m!r} in {int((~there).sum())}" for m, there in find_present(adapter, batch).items()]
    if not told:
        return ""
    count = len(next(iter(batch.values())))
    return (
        f"; of {count} examples some lack a modality, None or NaN throughout ({', '.join(told)}), which the model may not "
        "take: fill or drop such examples"
    )


def filled(column: Tensor) -> Tensor:
    """Put 0 into rows of a column (n, ...) that are NaN throughout, so that readouts can be fitted; the model sees NaN."""
    absent = _nan_rows(column)
    if not bool(absent.any()):
        return column
    return column.masked_fill(absent.reshape(-1, *[1] * (column.ndim - 1)), 0.0)


def _nan_rows(column: Tensor) -> Tensor:
    """Which rows of a column (n, ...) are NaN throughout, bool (n,); only those are read whole that begin with NaN."""
    found = torch.zeros(len(column), dtype=torch.bool, device=column.device)
    if not column.is_floating_point() or not column.numel():
        return found
    begin = column
    while begin.ndim > 1:
        begin = begin.select(1, 0)
    first = begin.isnan().nonzero()[:, 0]
    if len(first):
        found[first] = column.index_select(0, first).reshape(len(first), -1).isnan().all(1)
    return found


def lend(present: Tensor, rows: Tensor, lenders: Tensor) -> Tensor:
    """Say from which example a modality is taken that some lack: such an example gives none and takes none.

    Args:
        present: which of n examples have the modality, bool (n,).
        own: examples that it is taken for, int64 (r,).
        lenders: the examples that it would be taken from, int64 (r,).

    Returns:
        int64 (r,): the lender; where that lacks the modality, the next example that has it and is another one; where the
        borrower lacks it, itself.
    """
    there = present.nonzero()[:, 0]
    if not len(there):
        return rows
    place = torch.searchsorted(there, lenders) % len(there)
    lender = there[place]
    lender = torch.where(lender == rows, there[(place + 1) % len(there)], lender)
    lender = torch.where(present[lenders], lenders, lender)
    return torch.where(present[rows], lender, rows)


def find_none_keys(adapter: Adapter) -> frozenset[str]:
    """Find the inputs that the model is given as None where they are NaN throughout: those of modalities that may be
    ``missing``, and for which its forward has None by default."""
    missing = [m for m in adapter.modalities if adapter.config.modalities[m].absent == "missing"]
    if not missing or adapter.config.call != "kwargs":
        return frozenset()
    try:
        parameters = inspect.signature(adapter.model.forward).parameters
    except (TypeError, ValueError):
        return frozenset()
    optional = {name for name, p in parameters.items() if p.default is None}
    return frozenset(k for m in missing for k in adapter.fields.of(m) if k in optional)


def groups_of(adapter: Adapter, batch: Batch) -> list[Tensor]:
    """Split a batch into rows that lack the same inputs, where a model takes None for all or a tensor for all; into single
    rows where each example is to be run by itself.

    Args:
        adapter: the model.
        batch: inputs (n, ...) by key.

    Returns:
        Row numbers of each group; one group where nothing has to be split.
    """
    objects = adapter.source.objects
    none = find_none_keys(adapter)
    odd = [
        absent_rows(adapter, k, v)
        for k, v in batch.items()
        if k in none or (is_stored(objects, k, v) and (objects[k].form == "padded" or objects[k].whole))
    ]
    rows = torch.arange(len(next(iter(batch.values()))))
    if adapter.config.model.one_by_one:
        return list(rows.split(1))
    if not odd or not any(bool(x.any()) and not bool(x.all()) for x in odd):
        return [rows]
    code = torch.stack(odd, 1).long() @ (2 ** torch.arange(len(odd)))
    return [rows[code == one] for one in code.unique()]


def by_presence(
    adapter: Adapter,
    batch: Batch,
    recorded: Mapping[str, Sequence[Tensor]],
    run: Callable[[Batch, Mapping[str, Any]], T],
) -> T:
    """Run the examples together that lack the same inputs, where a model takes None for all or a tensor for all, or each by
    itself.

    Args:
        adapter: the model.
        batch: inputs (n, ...) by key.
        recorded: recordings (n, ...) of the same examples by modality.
        run: takes both of some examples, gives tensors of these, or dataclasses, mappings and tuples of such.

    Returns:
        The same of all examples, in their order.
    """
    groups = groups_of(adapter, batch)
    if len(groups) == 1:
        return run(batch, recorded)

    def of(rows: Tensor) -> T:
        some = {m: type(r)(tensor[rows] for tensor in r) for m, r in recorded.items()}  # type: ignore[call-arg]
        return run({k: v[rows] for k, v in batch.items()}, some)

    return run_groups(groups, of)


def run_groups(groups: Sequence[Tensor], run: Callable[[Tensor], T]) -> T:
    """Run each group of rows by itself, and put what comes out in the rows' order.

    Args:
        groups: row numbers, all of 0 to n - 1.
        run: takes row numbers (r,), gives tensors (r, ...), or dataclasses, mappings and tuples of such.

    Returns:
        The same of all n rows.
    """
    parts = [run(rows) for rows in groups]
    if len(parts) == 1:
        return parts[0]
    order = torch.cat(list(groups)).argsort()
    joined: T = _joined(parts, order)
    return joined


def _joined(parts: Sequence[Any], order: Tensor) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts)).index_select(0, to_device(order, first.device))
    if isinstance(first, Mapping):
        return {k: _joined([part[k] for part in parts], order) for k in first}
    if isinstance(first, tuple):
        return tuple(_joined(pieces, order) for pieces in zip(*parts, strict=True))
    kind: Any = type(first)
    return kind(**{f.name: _joined([getattr(part, f.name) for part in parts], order) for f in fields(kind)})
