"""Classes, labels and outputs that count for more than others in a loss, as a config gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from collapsekit.errors import ConfigError


def read_weights(value: object, option: str, of: str, *, least: int = 1) -> Tensor | None:
    """Read weights that a config gives.

    Args:
        value: a number above 0 for each, at least ``least`` of them; a number alone is one; None: there are none.
        option: what they are called there.
        of: what each is a weight of, for the message.
        least: how many there are at least.

    Returns:
        float64 (C,).

    Raises:
        ConfigError: where they are anything else.
    """
    if value is None:
        return None
    listed: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    if len(listed) < least or not all(type(w) in (int, float) and 0 < w < float("inf") for w in listed):
        raise ConfigError(f"task_options {option} is {value!r}, expected a number above 0 for each {of}.")
    return torch.tensor(listed, dtype=torch.float64)


def need_weight_each(weights: Tensor | None, count: int, option: str, of: str) -> None:
    """Check that there is a weight for each thing, where there are any.

    Args:
        weights: (C,); None: there are none.
        count: how many things there are.
        option: what the weights are called in a config.
        of: what the things are called, for the message.

    Raises:
        ConfigError: where their numbers differ.
    """
    if weights is not None and len(weights) != count:
        raise ConfigError(
            f"task_options {option} has {len(weights)} numbers, the model {count} {of}: give one for each."
        )
