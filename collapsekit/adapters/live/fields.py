"""Which fields of an example are whose, and how parts of one field are taken out of it and put back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from collapsekit.config.regions import Region, parse_region
from collapsekit.config.schema import Config
from collapsekit.data.base import EXAMPLE, Batch
from collapsekit.data.regions import need_disjoint, put_region, take_region


class InputFields:
    """The fields that a config's modalities are made of. A modality that is part of a field has a column of its own, which
    moves with it alone; the model is given the field with all such parts put back."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.regions: dict[str, Region] = {}
        for m, section in config.modalities.items():
            region = parse_region(m if section.input is None else section.input, section.slice, section.where)
            if region is not None:
                self.regions[m] = region

    def of(self, modality: str) -> tuple[str, ...]:
        """List the columns that belong to a modality and are replaced with it."""
        return self._with_mask(modality, self._named(modality, parts=True))

    @cached_property
    def model_keys(self) -> list[str]:
        """What the model's forward is given, in order, and masks."""
        keys = [k for m in self.config.modalities for k in self._with_mask(m, self._named(m, parts=False))]
        return list(dict.fromkeys([*keys, *self.config.data.also]))

    @cached_property
    def read(self) -> list[str]:
        """What has to be read of an example."""
        whole = [EXAMPLE] if self.config.data.edit == "examples" else []
        return list(dict.fromkeys([*whole, *self.model_keys, *(k for r in self.regions.values() for k in r.fields)]))

    @cached_property
    def owned(self) -> frozenset[str]:
        """What is read of an example that belongs to modalities."""
        return frozenset(k for m in self.config.modalities for k in self._named(m, parts=False))

    @cached_property
    def columns(self) -> list[str]:
        """What is kept of an example: what was read of it, and parts of that."""
        return list(dict.fromkeys([*self.read, *(r.name for r in self.regions.values())]))

    def split(self, batch: Batch) -> Batch:
        """Return the parts of a batch's fields that are modalities, (n, ...) each. Raises ConfigError where they are none,
        and where they overlap."""
        if self.regions:
            few = {k: v[:2] for k, v in batch.items()}
            need_disjoint(list(self.regions.items()), few)
        return {region.name: take_region(region, batch) for region in self.regions.values()}

    def merge(self, batch: Batch) -> Batch:
        """Return what was read of examples, with every part put back into its field.

        Args:
            batch: all columns, prepared.

        Returns:
            (n, ...) by key. A field is of the type of its parts where only these are floating.
        """
        out = {k: v for k, v in batch.items() if k in set(self.read)}
        for region in self.regions.values():
            part, whole = batch[region.name], out[region.key]
            if part.is_floating_point() and not whole.is_floating_point():
                out[region.key] = whole.to(part.dtype)
            out[region.key] = put_region(region, out, part)
        return out

    def altered(self, modality: str, inputs: Batch) -> Batch:
        """Return inputs as the model is given them, those of a modality taken from other examples.

        Args:
            modality: whose.
            inputs: (n, ...) by key; of one example alone its own numbers are taken, shifted by one.

        Returns:
            The inputs, copies where they are altered.
        """

        def other(values: Tensor) -> Tensor:
            return values.roll(1, 0) if len(values) > 1 else values.roll(1)

        region = self.regions.get(modality)
        if region is not None:
            return {**inputs, region.key: put_region(region, inputs, other(take_region(region, inputs)))}
        return {**inputs, **{k: other(inputs[k]) for k in self.of(modality) if k in inputs}}

    def scales(self) -> dict[str, float]:
        """Find what each column is divided by; a field that is in parts, by what all of them are."""
        found = {
            k: s.scale for m, s in self.config.modalities.items() for k in self._named(m, parts=True) if k != s.mask
        }
        for region in self.regions.values():
            alike = {found[r.name] for r in self.regions.values() if r.key == region.key}
            found[region.key] = alike.pop() if len(alike) == 1 else 1.0
        return found

    def filled(self, batch: Batch) -> frozenset[str]:
        """Find the fields that consist of modalities and of nothing else.

        Args:
            batch: some examples, all columns.

        Returns:
            Their names.
        """
        marks = {r.key: torch.zeros_like(batch[r.key], dtype=torch.bool) for r in self.regions.values()}
        for region in self.regions.values():
            own = {**batch, region.key: marks[region.key]}
            marks[region.key] = put_region(region, own, torch.ones_like(batch[region.name], dtype=torch.bool))
        return frozenset(k for k, mark in marks.items() if bool(mark.all()))

    def _named(self, modality: str, *, parts: bool) -> tuple[str, ...]:
        region, section = self.regions.get(modality), self.config.modalities[modality]
        if region is not None:
            return (region.name if parts else region.key,)
        keys = section.input if section.input is not None else modality
        return (keys,) if isinstance(keys, str) else tuple(keys)

    def _with_mask(self, modality: str, keys: Sequence[str]) -> tuple[str, ...]:
        mask = self.config.modalities[modality].mask
        return tuple(dict.fromkeys([*keys, *([mask] if mask is not None else [])]))
