"""What stands in the place of a modality that is absent, where that is not another example's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from collapsekit.adapters.build import seed_everything
from collapsekit.adapters.live.inputs import record_inputs
from collapsekit.data.base import Batch, is_stored
from collapsekit.errors import CollapsekitError, ConfigError, DataError
from collapsekit.io.safe_text import quote

if TYPE_CHECKING:
    from collapsekit.adapters.base import Activations, Adapter

COUNT = 16  # stand-ins of a modality, where they differ
KINDS = {
    "mean": "its mean over the split's examples",
    "zero": "0",
    "noise": "normal noise of its mean and standard deviation at each place",
    "missing": "nothing, spelt as the model takes it",
}


@dataclass(frozen=True)
class Substitute:
    """What an absent modality is given as, k rows."""

    recorded: Activations  # of the modality, (k, ...)
    inputs: Batch  # its columns (k, ...) by key

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(next(iter(self.inputs.values())))


def make_substitutes(
    adapter: Adapter, columns: Batch, present: Mapping[str, Tensor], seed: int
) -> dict[str, Substitute]:
    """Make what stands for each modality whose ``absent`` says something else than other examples.

    Args:
        adapter: the model.
        columns: all that was read of n examples, (n, ...) by key.
        present: which examples have each modality, bool (n,), of those that some lack.
        seed: of what the model draws.

    Returns:
        By modality one row, or up to ``COUNT`` where they differ; none for one that every example lacks.

    Raises:
        ConfigError: where a modality cannot be absent in that way.
        DataError: where the model answers NaN or infinity then.
    """
    sections = adapter.config.modalities
    return {
        m: _stand_in(adapter, m, columns, present.get(m), seed)
        for m in adapter.modalities
        if sections[m].absent != "others" and (m not in present or bool(present[m].any()))
    }


def describe_absence(adapter: Adapter) -> str:
    """Say what absent modalities are given as, where that is not another example's, as the end of a definition; nothing
    where all of them are."""
    told = []
    for m in adapter.modalities:
        how = adapter.config.modalities[m].absent
        if how != "others":
            stands = f"{how:g}" if isinstance(how, int | float) else KINDS[how]
            told.append(f"in the place of modality {quote(m)} is {stands}")
    return "".join(f"; {one}" for one in told)


def _number(how: str | float) -> float | None:
    """The number that stands at every place, where it is one."""
    return 0.0 if how == "zero" else how if isinstance(how, int | float) else None


def _stand_in(adapter: Adapter, modality: str, columns: Batch, present: Tensor | None, seed: int) -> Substitute:
    how, mask = adapter.config.modalities[modality].absent, adapter.config.modalities[modality].mask
    n = len(next(iter(columns.values())))
    there = torch.arange(n) if present is None else present.nonzero()[:, 0]
    rows = there[: COUNT if how == "noise" or mask is not None else 1]
    made: Batch = {}
    for key in adapter.fields.of(modality):
        column = columns[key]
        if key == mask:
            made[key] = torch.zeros_like(column[rows]) if how == "missing" else column[rows]
        else:
            made[key] = _value(adapter, modality, key, column, there, rows)
    recorded = _record(adapter, modality, {k: v[rows] for k, v in columns.items()} | made, seed)
    return Substitute(recorded, made)


def _value(adapter: Adapter, modality: str, key: str, column: Tensor, there: Tensor, rows: Tensor) -> Tensor:
    section = adapter.config.modalities[modality]
    how = section.absent
    chosen = column[rows]
    if is_stored(adapter.source.objects, key, column):
        return _stored(adapter, modality, key, chosen)
    if how == "missing" and section.mask is not None:
        return torch.zeros_like(chosen)
    if (number := _number(how)) is not None:
        return _full(modality, key, chosen, number)
    if not column.is_floating_point():
        raise ConfigError(
            f"modality {quote(modality)} cannot be absent as {how!r}: its input {quote(key)} holds whole numbers; write "
            "`absent: others`, or the number that stands for nothing, such as the id of a mask token."
        )
    if how == "missing":
        return torch.full_like(chosen, torch.nan)
    values = column[there].double()
    mean = values.mean(0, keepdim=True)
    if how == "mean":
        return mean.to(chosen.dtype).expand_as(chosen).clone()
    digest = hashlib.blake2b(mean.numpy().tobytes(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    drawn = torch.randn(chosen.shape, generator=generator, dtype=torch.float64)
    return (mean + values.std(0, correction=0, keepdim=True) * drawn).to(chosen.dtype)


def _stored(adapter: Adapter, modality: str, key: str, chosen: Tensor) -> Tensor:
    """Stand-ins for values that do not stack: None, or tensors of the same sizes full of one number."""
    how, store = adapter.config.modalities[modality].absent, adapter.source.objects[key]
    if how == "missing":
        return store.add([None] * len(chosen))
    values, number = store.take(chosen), _number(how)
    if number is None or not all(isinstance(v, Tensor) for v in values):
        raise ConfigError(
            f"modality {quote(modality)} cannot be absent as {how!r}: values of its input {quote(key)} do not stack; write "
            "`absent: others`, `missing`, or, for tensors, a number."
        )
    return store.add([_full(modality, key, v, number) for v in values])


def _full(modality: str, key: str, like: Tensor, number: float) -> Tensor:
    """A tensor like another, full of one number. Raises ConfigError where its type cannot hold that."""
    if not like.is_floating_point():
        kind = torch.iinfo(torch.uint8 if like.dtype == torch.bool else like.dtype)
        most = 1 if like.dtype == torch.bool else kind.max
        if number != int(number) or not kind.min <= number <= most:
            raise ConfigError(
                f"modality {quote(modality)} cannot be absent as {number:g}: its input {quote(key)} holds whole numbers "
                f"from {kind.min} to {most}; write one of these."
            )
    return torch.full_like(like, number if like.is_floating_point() else int(number))


def _record(adapter: Adapter, modality: str, batch: Batch, seed: int) -> Activations:
    """What is recorded of a modality on examples in which something stands in its place, and whether the model answers them
    at all."""
    given = {k: batch[k] for k in adapter.columns}
    how = adapter.config.modalities[modality].absent
    seed_everything(seed)
    try:
        with torch.no_grad():
            result = adapter.run(given)
    except CollapsekitError as e:
        hint = (
            "; where the model then leaves out its encoder, take `encoder` out of the config"
            if how == "missing"
            else ""
        )
        raise ConfigError(f"the model cannot be given modality {quote(modality)} as `absent: {how}`{hint}: {e}") from e
    if not bool(torch.isfinite(result.prediction.outputs).all()):
        raise DataError(
            f"the model answers NaN or infinity where modality {quote(modality)} is given as `absent: {how}`: say another "
            "way in which it is absent."
        )
    if modality in adapter.at_input:
        return tuple(t.cpu() for t in record_inputs(adapter, modality, given))
    return tuple(t.cpu() for t in result.recorded[modality])
