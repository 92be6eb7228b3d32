"""Parts of a field that are modalities, taken out of a batch and put back: channels, columns, ranges of tokens."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from collapsekit.config.regions import Region, SliceRegion, WhereRegion
from collapsekit.data.base import Batch
from collapsekit.errors import ConfigError

_OPERATORS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def take_region(region: Region, batch: Batch) -> Tensor:
    """Take a part out of its field.

    Args:
        region: which part.
        batch: fields (n, ...) by key.

    Returns:
        (n, ...): of a slice a view of the field; of tokens (n, t, ...) with the part's own ones in front, 0 behind them.

    Raises:
        ConfigError: where the field has no such part.
    """
    return _sliced(region, batch[region.key]) if isinstance(region, SliceRegion) else _picked(region, batch)


def put_region(region: Region, batch: Batch, part: Tensor) -> Tensor:
    """Put a part back into its field.

    Args:
        region: which part.
        batch: fields (n, ...) by key, which stay as they are.
        part: (n, ...) as ``take_region`` gives it.

    Returns:
        A copy of the field, (n, ...), of its own type.
    """
    whole = batch[region.key].clone()
    if isinstance(region, SliceRegion):
        whole[(slice(None), *region.index)] = part.to(whole.dtype)
        return whole
    rows, places, which = _places(inside_region(region, batch))
    whole[rows, places] = part[rows, which].to(whole.dtype)
    return whole


def inside_region(region: WhereRegion, batch: Batch) -> Tensor:
    """Tell which tokens of a sequence are the part.

    Args:
        region: which part.
        batch: fields (n, ...) by key.

    Returns:
        bool (n, t).

    Raises:
        ConfigError: where the sequence and the field that is read for it do not go together.
    """
    field, whole = batch[region.field], batch[region.key]
    if field.is_floating_point() or field.is_complex():
        kind = str(field.dtype).removeprefix("torch.")
        raise ConfigError(
            f"field {region.field!r}, which `where: {region.condition}` reads, holds {kind}, expected whole numbers, one a "
            "token: give it as integers."
        )
    if field.ndim != 2 or whole.ndim < 2 or field.shape != whole.shape[:2]:
        raise ConfigError(
            f"field {region.field!r}, which `where: {region.condition}` reads, has shape {tuple(field.shape[1:])} an "
            f"example, and {region.key!r} {tuple(whole.shape[1:])}: give one whole number a token."
        )
    return meets(region, field)


def meets(region: WhereRegion, field: Tensor) -> Tensor:
    """Tell of each whole number of a field (n, ...) whether it meets the region's condition, bool (n, ...)."""
    if region.sign == "in":
        return torch.isin(field.long(), torch.tensor(region.values, device=field.device))
    return _OPERATORS[region.sign](field.long(), region.values[0])


def region_lengths(region: Region, batch: Batch) -> Tensor | None:
    """Count each example's tokens of a part, int64 (n,); None for a slice, which has one size.

    Args:
        region: which part.
        batch: fields (n, ...) by key.

    Returns:
        The counts, or None.
    """
    return inside_region(region, batch).sum(1) if isinstance(region, WhereRegion) else None


def need_disjoint(regions: Sequence[tuple[str, Region]], batch: Batch) -> None:
    """Raise ConfigError where parts of one field overlap.

    Args:
        regions: by modality.
        batch: some examples, (n, ...) by key.
    """
    marks: dict[str, Tensor] = {}
    before: dict[str, list[str]] = {}
    for modality, region in regions:
        empty = torch.zeros(batch[region.key].shape, dtype=torch.int16)
        own = {**batch, region.key: empty}
        part = take_region(region, own)
        mark = marks.get(region.key, empty) + put_region(region, own, torch.ones_like(part))
        others = before.setdefault(region.key, [])
        if int(mark.max()) > 1:
            raise ConfigError(
                f"modality {modality!r} shares a part of {region.key!r} with {' or '.join(map(repr, others))}: give "
                "modalities parts that are apart."
            )
        marks[region.key] = mark
        others.append(modality)


def _sliced(region: SliceRegion, whole: Tensor) -> Tensor:
    shape = tuple(whole.shape[1:])
    try:
        part = whole[(slice(None), *region.index)]
    except IndexError:
        raise ConfigError(
            f"slice {region.text!r} is beyond {region.key!r}, of which an example has shape {shape}: count its axes "
            "without the batch."
        ) from None
    if not part[:1].numel():
        raise ConfigError(f"slice {region.text!r} of {region.key!r} is empty: an example has shape {shape}.")
    return part


def _picked(region: WhereRegion, batch: Batch) -> Tensor:
    whole = batch[region.key]
    rows, places, which = _places(inside_region(region, batch))
    if not len(rows):
        raise ConfigError(
            f"no example has a token of {region.key!r} where {region.condition}: look at {region.field!r}."
        )
    part = torch.zeros_like(whole)
    part[rows, which] = whole[rows, places]
    return part


def _places(inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each token inside: its example, its place, and how many of that example's come before it."""
    rows, places = inside.nonzero(as_tuple=True)
    return rows, places, (inside.cumsum(1) - 1)[rows, places]
