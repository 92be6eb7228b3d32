"""Inputs as a model takes them: on its device, scaled, in its own precision, and integers cast where it cannot read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from collapsekit.adapters.live.alone import answer_features
from collapsekit.adapters.live.presence import absent_rows, find_none_keys
from collapsekit.data.base import EXAMPLE, Batch, is_stored
from collapsekit.errors import ConfigError
from collapsekit.io.transfer import to_device
from collapsekit.stats.random_features import count_tokens

if TYPE_CHECKING:
    from collapsekit.adapters.base import Activations, Adapter

T = TypeVar("T")
Prepare = Callable[[Batch], Batch]
TABLES = (nn.Embedding, nn.EmbeddingBag)  # layers that are asked for rows by whole numbers
COUNTED = 256  # columns that token ids are counted in
_OF_TYPES = (RuntimeError, TypeError, ValueError)  # what torch raises where a layer cannot read a type


def prepare_inputs(adapter: Adapter, batch: Batch) -> Batch:
    """Make inputs as the model wants them.

    Args:
        adapter: the model; ``adapter.cast`` holds the keys of integers that it reads as floating values.
        batch: inputs (n, ...) by key.

    Returns:
        The same on the model's device, scaled, floating values in its own precision; and what is carried beside them.
    """
    dtype = _floating_type(adapter)
    carried = {key: to_device(batch[key], adapter.device) for key in adapter.carried}
    if EXAMPLE in batch:  # fields of examples, which only their collate_fn makes ready
        return adapter.fields.merge(batch) | carried
    scales, objects = adapter.fields.scales(), adapter.source.objects
    out = {}
    for key in adapter.batch_keys:
        value = to_device(batch[key], adapter.device)
        if is_stored(objects, key, value):
            out[key] = value
            continue
        scale = scales.get(key, 1.0)
        if value.is_floating_point() or scale != 1.0 or key in adapter.cast:
            value = value.to(dtype)
        out[key] = value / scale if scale != 1.0 else value
    return adapter.fields.merge(out) | carried


def give_values(adapter: Adapter, inputs: Batch) -> dict[str, Any]:
    """Put values that do not stack in the places of their hashes, as the model is given them.

    Args:
        adapter: the model.
        inputs: prepared inputs (n, ...) by key.

    Returns:
        By key tensors as they are, padded tensors (n, ...), lists of n values, or None.
    """
    objects, scales = adapter.source.objects, adapter.fields.scales()
    dtype = _floating_type(adapter)

    def ready(value: Any, scale: float) -> Any:
        if isinstance(value, list):
            return [ready(one, scale) for one in value]
        if not isinstance(value, Tensor):
            return value
        value = to_device(value, adapter.device)
        value = value.to(dtype) if value.is_floating_point() or scale != 1.0 else value
        return value / scale if scale != 1.0 else value

    none = find_none_keys(adapter)
    return {
        k: ready(objects[k].collect(v.cpu(), optional=k in none), scales.get(k, 1.0))
        if is_stored(objects, k, v)
        else (None if k in none and bool(absent_rows(adapter, k, v).all()) else v)
        for k, v in inputs.items()
    }


def shape_of(adapter: Adapter, key: str, value: Tensor) -> str:
    """Describe an input for messages.

    Args:
        adapter: the model.
        key: the input's.
        value: (n, ...), or hashes of values that do not stack.

    Returns:
        Name, shape and type; of values that do not stack, how the model gets them.
    """
    objects = adapter.source.objects
    if is_stored(objects, key, value):
        return f"{key} of several sizes, padded to the longest" if objects[key].form == "padded" else f"{key} as a list"
    return f"{key} {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def describe_inputs(adapter: Adapter, inputs: Batch) -> Batch:
    """Describe values that do not stack by numbers, for readouts.

    Args:
        adapter: the model.
        inputs: (n, ...) by key.

    Returns:
        Numbers (n, ...) by key, of columns that hold such values.
    """
    objects = adapter.source.objects
    return {k: objects[k].numbers(v) for k, v in inputs.items() if is_stored(objects, k, v)}


def record_inputs(adapter: Adapter, modality: str, batch: Batch) -> Activations:
    """Return what is recorded of a modality that has no encoder: its inputs.

    Args:
        adapter: the model.
        modality: whose inputs.
        batch: inputs (n, ...) by key, as the data has them.

    Returns:
        One tensor a column of the modality; whole numbers that the model reads as numbers are floating, so that they can be
        scaled and held.
    """
    scales, columns, objects = adapter.fields.scales(), adapter.fields.of(modality), adapter.source.objects
    mask = adapter.config.modalities[modality].mask

    def number(key: str) -> bool:
        return (
            key != mask
            and not is_stored(objects, key, batch[key])
            and (key in adapter.cast or scales.get(key, 1.0) != 1.0)
        )

    return tuple(batch[k].float() if number(k) and not batch[k].is_floating_point() else batch[k] for k in columns)


def change_inputs(adapter: Adapter, batch: Batch, change: Mapping[str, Callable[[Tensor], Tensor]]) -> Batch:
    """Change the inputs of modalities that have no encoder.

    Args:
        adapter: the model.
        batch: inputs (n, ...) by key, as the data has them.
        change: by modality, what is made of its floating tensors (n, ...).

    Returns:
        The changed inputs by key.
    """
    found: Batch = {}
    for m, make in change.items():
        for key, value in zip(adapter.fields.of(m), record_inputs(adapter, m, batch), strict=True):
            found[key] = make(value) if value.is_floating_point() else value
    return found


def pool_inputs(adapter: Adapter, modality: str, batch: Batch) -> Tensor | None:
    """Make one vector an example of a modality's inputs that are places in a table, or do not stack.

    Args:
        adapter: the model.
        modality: that has no encoder.
        batch: inputs (n, ...) by key, as the data has them.

    Returns:
        (n, d): counts of ids, of those that share a column where there are more than COUNTED, real and imaginary parts of
        complex numbers, and what describes other values; None where all that matters is numbers.
    """
    described = describe_inputs(adapter, {k: batch[k].cpu() for k in adapter.fields.of(modality)})
    first = adapter.fields.of(modality)[0]
    if described:
        return torch.cat([answer_features(one) for one in described.values()], 1)
    if batch[first].is_complex():
        return answer_features(torch.view_as_real(batch[first]).float())
    if record_inputs(adapter, modality, batch)[0].is_floating_point():
        return None
    return count_tokens(batch[first].reshape(len(batch[first]), -1).cpu(), None, COUNTED, 0, placed=False)


def _floating_type(adapter: Adapter) -> torch.dtype:
    return next((p.dtype for p in adapter.model.parameters() if p.is_floating_point()), torch.float32)


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
    objects = adapter.source.objects
    return frozenset(
        k
        for k in numbers - places
        if k in batch and not batch[k].is_floating_point() and not is_stored(objects, k, batch[k])
    )


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
