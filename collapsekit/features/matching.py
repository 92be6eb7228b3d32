"""Which examples may lend to one another: those alike in what the data or the model needs to agree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from collapsekit.adapters.base import Adapter
from collapsekit.adapters.build import preserve_rng_state
from collapsekit.config.regions import WhereRegion
from collapsekit.data.base import EXAMPLE, Batch, is_stored
from collapsekit.data.regions import region_lengths
from collapsekit.errors import CollapsekitError, DataError
from collapsekit.io.safe_text import quote
from collapsekit.report.diagnosis import ReportWarning

ENOUGH = 16  # examples of one count of tokens; of fewer, those of the next counts lend to them, too
TRIED = 32  # examples in which modalities are exchanged to see whether they can be collated


def group_alike(adapter: Adapter, columns: Batch) -> Tensor | None:
    """Group examples that may lend to one another.

    Equal in every field of ``data.match``; near in how many tokens they have of each part of a sequence; and, where examples
    are collated after they were exchanged and that fails, of the same shapes.

    Args:
        adapter: the model, for its config.
        columns: all that was read of n examples, (n, ...) by key.

    Returns:
        The group of each, int64 (n,); None where any may lend to any.

    Raises:
        DataError: where no two examples are alike.
    """
    n = len(next(iter(columns.values())))
    groups = torch.zeros(n, dtype=torch.int64)
    for key in adapter.config.data.match:
        groups = _refined(groups, columns[key])
    groups = _near_in_counts(groups, _token_counts(adapter, columns))
    if EXAMPLE in columns:
        groups = _collatable(adapter, columns, groups)
    if not bool(groups.any()):
        return None
    if int(groups.bincount().max()) < 2:
        matched = ", ".join(map(quote, adapter.config.data.match)) or "the shapes of their inputs"
        raise DataError(f"no two examples are alike in {matched}: none can lend a modality; match by fewer fields.")
    return groups


def lenders_matched(adapter: Adapter, alike: Tensor | None, split: str) -> ReportWarning | None:
    """Say that examples lend among their like only, and how many have no like.

    Args:
        adapter: the model, for its config.
        alike: the group of each example, int64 (n,); None: any lends to any.
        split: that they are of.

    Returns:
        The warning, or None.
    """
    if alike is None:
        return None
    sizes = alike.bincount()
    alone, named = int((sizes == 1).sum()), ", ".join(map(quote, adapter.config.data.match))
    by = f"alike in {named}" if named else "that have as many tokens, or inputs of the same shape"
    rest = f" {alone} of its {len(alike)} examples have no such other and keep their own." if alone else ""
    return ReportWarning(
        name="lenders_matched",
        sentence=f"In split {quote(split)} absent modalities are taken from other examples {by}, of which there are "
        f"{int(sizes[sizes > 0].median()) - 1} for half of the {int((sizes > 0).sum())} groups or fewer.{rest}",
    )


def _refined(groups: Tensor, column: Tensor) -> Tensor:
    """Groups (n,) within which a column (n, ...) is equal, too."""
    values = column.reshape(len(column), -1)
    values = values.view(torch.int64) if values.dtype == torch.float64 else values  # NaN is equal to itself
    values = values.view(torch.int32) if values.dtype == torch.float32 else values
    _, which = values.unique(dim=0, return_inverse=True)
    both: Tensor = torch.stack([groups, which.reshape(-1)], 1).unique(dim=0, return_inverse=True)[1]
    return both


def _token_counts(adapter: Adapter, columns: Batch) -> list[Tensor]:
    """How many tokens each example has of each part of a sequence, int64 (n,), of parts in which that differs."""
    regions = [adapter.fields.regions.get(m) for m in adapter.modalities]
    counts = [region_lengths(r, columns) for r in regions if isinstance(r, WhereRegion)]
    return [c for c in counts if c is not None and bool((c != c[0]).any())]


def _near_in_counts(groups: Tensor, counts: Sequence[Tensor]) -> Tensor:
    """Groups (n,) parted by counts (n,), those of fewer than ENOUGH together with the next ones."""
    if not counts:
        return groups
    keys = torch.stack([groups, *counts], 1)
    rows, which = keys.unique(dim=0, return_inverse=True)  # in order: by group, then by counts
    sizes = which.bincount()
    joined, name, size = torch.zeros(len(rows), dtype=torch.int64), 0, 0
    for i, row in enumerate(rows.tolist()):
        new = i > 0 and row[0] != rows[i - 1, 0]
        if new or size >= ENOUGH:
            rest = int(sizes[i:][rows[i:, 0] == row[0]].sum())
            if new or rest >= ENOUGH:  # what is left over goes with the last
                name, size = name + 1, 0
        joined[i] = name
        size += int(sizes[i])
    return joined[which]


def _collatable(adapter: Adapter, columns: Batch, groups: Tensor) -> Tensor:
    """Groups (n,) within which the loader's collate_fn takes modalities of other examples, as far as shapes say."""
    for m in adapter.modalities:
        finer = groups
        for key in adapter.fields.of(m):
            finer = _refined(finer, _shapes(adapter, key, columns[key]))
        few = groups[:TRIED].argsort(stable=True)
        if not _collates(adapter, columns, m, few) and _collates(adapter, columns, m, _within(finer)):
            groups = finer
    return groups


def _within(groups: Tensor) -> Tensor:
    """Rows of the largest group, TRIED at most."""
    return (groups == groups.bincount().argmax()).nonzero()[:TRIED, 0]


def _collates(adapter: Adapter, columns: Batch, modality: str, rows: Tensor) -> bool:
    """Whether the model answers these rows, each with a modality of the one before it."""
    batch = {k: columns[k][rows] for k in adapter.columns}
    batch |= {k: columns[k][rows.roll(1)] for k in adapter.fields.of(modality)}
    try:
        with torch.no_grad(), preserve_rng_state():
            adapter.run(batch)
    except CollapsekitError:
        return False
    return True


def _shapes(adapter: Adapter, key: str, column: Tensor) -> Tensor:
    """A number for the shape of each value of a column (n, ...), int64 (n,)."""
    objects = adapter.source.objects
    if not is_stored(objects, key, column):
        return torch.zeros(len(column), dtype=torch.int64)
    shapes = [repr(tuple(getattr(value, "shape", ())) or _length(value)) for value in objects[key].take(column)]
    order = {shape: i for i, shape in enumerate(sorted(set(shapes)))}
    return torch.tensor([order[shape] for shape in shapes])


def _length(value: object) -> int:
    return len(value) if isinstance(value, str | bytes | list | tuple) else 0
