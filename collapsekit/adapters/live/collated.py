"""Batches that are collated of examples once modalities are exchanged in them, as a user's collate_fn makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from collapsekit.adapters.pytree import flatten, rebuild
from collapsekit.data.base import EXAMPLE, Batch, is_stored
from collapsekit.data.paths import find_field, named_parts, replace_field
from collapsekit.errors import CollapsekitError, ConfigError, DataError
from collapsekit.user_code.frames import one_line
from collapsekit.user_code.process_state import user_code

if TYPE_CHECKING:
    from collapsekit.adapters.base import Adapter


def collated_arguments(adapter: Adapter, inputs: Batch) -> Any:
    """Make of examples what the model is called with; the labels among ``inputs`` become those of the batch at hand.

    Args:
        adapter: the model.
        inputs: prepared inputs (n, ...) by key.

    Returns:
        A mapping of names to parts, or the collated batch itself. Raises DataError, ConfigError.
    """
    batch = collate_examples(adapter, inputs)
    renew_labels(adapter, inputs, batch)
    return arguments_of(adapter, batch)


def collate_examples(adapter: Adapter, inputs: Batch) -> Any:
    """Put modalities' fields into their examples, and collate these.

    Args:
        adapter: the model.
        inputs: hashes of whole examples, (n,), and the fields of modalities, (n, ...), by key.

    Returns:
        A batch as the loader's collate_fn makes it, tensors on the model's device.

    Raises:
        DataError: where the collate_fn fails.
    """
    source = adapter.source
    examples = source.objects[EXAMPLE].take(inputs[EXAMPLE])
    for key in adapter.fields.model_keys:
        column = inputs[key].cpu()
        values = source.objects[key].take(column) if is_stored(source.objects, key, column) else list(column)
        path = _path(key, adapter.config.batch)
        examples = [_with(one, path, value) for one, value in zip(examples, values, strict=True)]
    assert source.collate is not None
    try:
        with user_code("the loader's collate_fn"):
            batch = source.collate(examples)
    except CollapsekitError:
        raise
    except Exception as e:
        if source.collate is default_collate:
            raise DataError(
                f"examples cannot be collated as torch does by default: {one_line(e)}; hand over the DataLoader whose "
                "collate_fn makes your batches."
            ) from e
        raise DataError(
            f"the loader's collate_fn failed on {len(examples)} examples with modalities of other ones: {one_line(e)}; "
            "name fields that have to move together as `input` of one modality."
        ) from e
    leaves, tree = flatten(batch)
    return rebuild(tree, [x.to(adapter.device) if isinstance(x, Tensor) else x for x in leaves])


def arguments_of(adapter: Adapter, batch: Any) -> Any:
    """Return what of a collated batch the model is called with: all of it for ``call: dict``, else its parts but the label.

    Args:
        adapter: the model.
        batch: as the collate_fn makes it.

    Returns:
        A mapping of names to parts, or the batch itself.
    """
    if adapter.config.call == "dict":
        return batch
    parts = named_parts(batch, adapter.config.batch)
    if not isinstance(parts, Mapping):
        parts = {k: v for k, v in vars(parts).items() if not k.startswith("_")}
    data = adapter.config.data
    beside = (data.label.split(".")[0], data.group, data.category)
    return {k: v for k, v in parts.items() if k in data.also or k not in beside}


def renew_labels(adapter: Adapter, inputs: Batch, batch: Any) -> None:
    """Let the task read answers by the labels of the batch at hand: behind another prompt the same answer may stand
    at other places.

    Args:
        adapter: the model.
        inputs: prepared inputs (n, ...) by key, of which labels are replaced.
        batch: as the collate_fn made it.

    Raises:
        ConfigError: where the targets themselves are other ones.
    """
    label = adapter.config.data.label
    found = find_field(named_parts(batch, adapter.config.batch), label) if label in adapter.carried else None
    if not isinstance(found, Tensor) or found.ndim == 0 or len(found) != len(inputs[label]):
        return
    own, made = (x[x >= 0] if x.ndim == 2 and not x.is_floating_point() else x for x in (inputs[label], found))
    if not torch.equal(own.to(made.device), made):
        raise ConfigError(
            f"the loader's collate_fn makes {label!r} of a field that is exchanged with a modality, so what is asked would "
            "change with it: give the answer a field of its own in each example."
        )
    inputs[label] = found


def _path(key: str, names: tuple[str, ...]) -> str:
    """A field's path in an example that may be a tuple with names."""
    first, dot, rest = key.partition(".")
    return f"{names.index(first)}{dot}{rest}" if first in names else key


def _with(example: Any, path: str, value: Any) -> Any:
    """An example with another value in a field's place, of the type that was there."""
    before = find_field(example, path)
    if isinstance(value, Tensor) and not isinstance(before, Tensor):
        plain = value.detach().numpy()
        value = plain if isinstance(before, np.ndarray) else plain.item() if plain.ndim == 0 else value
    return replace_field(example, path, value)
