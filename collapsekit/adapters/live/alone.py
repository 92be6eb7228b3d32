"""A modality that has no encoder, by itself: what the whole model makes of it while nothing else varies."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from collapsekit.data.base import EXAMPLE, Batch, is_stored
from collapsekit.errors import ConfigError

if TYPE_CHECKING:
    from collapsekit.adapters.base import Adapter

WIDE = 4096  # numbers of an answer up to which all are kept


def keep_alone(adapter: Adapter, modality: str, inputs: Batch) -> Batch:
    """Put the same in the place of every modality but one, in all examples.

    Args:
        adapter: the model, which knows which inputs are whose.
        modality: that stays.
        inputs: (n, ...) by key, as the data has them.

    Returns:
        The inputs; of the others 0 for numbers and ids, and of values that do not stack one of them for all.
    """
    own = set(adapter.input_keys(modality))
    others = {k for m in adapter.modalities for k in adapter.input_keys(m)} - own
    masks = {s.mask for s in adapter.config.modalities.values()}
    objects = adapter.source.objects
    out = dict(inputs)
    for key in others - masks - {EXAMPLE}:
        column = inputs[key]
        if is_stored(objects, key, column):
            out[key] = torch.full_like(column, objects[key].first)
        else:
            out[key] = torch.zeros_like(column)
    return out


def in_some_mode(model: nn.Module, answer: Callable[[], Tensor]) -> Tensor:
    """Let a model answer in the mode that it is in, and where that is training and fails, in eval mode, where it is left.

    In training form some models return losses, and ask for labels, which a modality alone has not.

    Args:
        model: the model.
        answer: runs it.

    Returns:
        The answer, (n, ...).

    Raises:
        ConfigError: where it fails in eval mode.
    """
    try:
        return answer()
    except ConfigError:
        if not model.training:
            raise
    model.eval()
    return answer()


def answer_features(answer: Tensor) -> Tensor:
    """Lay an answer (n, ...) out as features, (n, d): all its numbers, or where these are many, their mean over places."""
    flat = answer.flatten(1) if answer.ndim > 1 else answer[:, None]
    return flat if flat.shape[1] <= WIDE else answer.flatten(1, -2).mean(1)
