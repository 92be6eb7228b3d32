"""Inputs as a model takes them: on its device, scaled, in its own precision, and integers cast where it cannot read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from collapsekit.data.base import Batch
from collapsekit.errors import ConfigError

if TYPE_CHECKING:
    from collapsekit.adapters.base import Adapter

T = TypeVar("T")
Prepare = Callable[[Batch], Batch]
TABLES = (nn.Embedding, nn.EmbeddingBag)  # layers that are asked for rows by whole numbers
_OF_TYPES = (RuntimeError, TypeError, ValueError)  # what torch raises where a layer cannot read a type


def prepare_inputs(adapter: Adapter, batch: Batch) -> Batch:
    """Make inputs as the model wants them.

    Args:
        adapter: the model; ``adapter.cast`` holds the keys of integers that it reads as floating values.
        batch: inputs (n, ...) by key.

    Returns:
        The same on the model's device, scaled, floating values in its own precision; and what is carried beside them.
    """
    dtype = next((p.dtype for p in adapter.model.parameters() if p.is_floating_point()), torch.float32)
    sections = adapter.config.modalities
    scales = {k: s.scale for m, s in sections.items() for k in adapter.input_keys(m) if k != s.mask}
    out = {}
    for key in adapter.batch_keys:
        value = batch[key].to(adapter.device)
        scale = scales.get(key, 1.0)
        if value.is_floating_point() or scale != 1.0 or key in adapter.cast:
            value = value.to(dtype)
        out[key] = value / scale if scale != 1.0 else value
    return out | {key: batch[key].to(adapter.device) for key in adapter.carried}


def run_prepared(adapter: Adapter, prepare: Prepare, batch: Batch, run: Callable[[Batch], T]) -> T:
    """Run on prepared inputs; where that fails, once more with the integers cast of encoders that read numbers.

    A model that takes integers as they are, or casts them itself, never sees others. What helped is kept in
    ``adapter.cast``.

    Args:
        adapter: the model.
        prepare: makes inputs as the model wants them, by ``prepare_inputs`` or otherwise.
        batch: inputs (n, ...) by key.
        run: takes them prepared.

    Returns:
        What ``run`` returns.

    Raises:
        ConfigError: what ``run`` raised, where casting does not help.
    """
    before = adapter.cast
    try:
        return run(prepare(batch))
    except ConfigError as error:
        adapter.cast = before | number_keys(adapter, batch)
        if adapter.cast == before or not isinstance(error.__cause__, _OF_TYPES):
            adapter.cast = before
            raise
        try:
            return run(prepare(batch))
        except ConfigError as again:
            adapter.cast = before
            if not isinstance(again.__cause__, _OF_TYPES):
                raise  # the forward itself went through
            raise error from error.__cause__


def number_keys(adapter: Adapter, batch: Batch) -> frozenset[str]:
    """Find the integer (or bool) inputs that are numbers to the model, not places in a table.

    They are those of modalities whose encoder has floating weights and does not begin with an embedding; where an encoder
    has no weights, the model must not hold an embedding at all.

    Args:
        adapter: the model.
        batch: inputs (n, ...) by key.

    Returns:
        Their keys; masks are none.
    """
    numbers: set[str] = set()
    places: set[str] = set()
    for modality, section in adapter.config.modalities.items():
        keys = {k for k in adapter.input_keys(modality) if k != section.mask}
        (numbers if _reads_numbers(adapter, modality) else places).update(keys)
    return frozenset(k for k in numbers - places if k in batch and not batch[k].is_floating_point())


def _reads_numbers(adapter: Adapter, modality: str) -> bool:
    layers = _layers(adapter.encoder_module(modality))
    if layers:
        return not isinstance(layers[0], TABLES) and any(
            p.is_floating_point() for layer in layers for p in layer.parameters(recurse=False)
        )
    return not any(isinstance(layer, TABLES) for layer in adapter.model.modules())


def _layers(module: nn.Module) -> list[nn.Module]:
    """The modules that have weights of their own, in the order in which they were registered."""
    return [m for m in module.modules() if any(True for _ in m.parameters(recurse=False))]
