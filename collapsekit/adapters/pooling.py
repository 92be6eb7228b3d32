"""Tokens, feature maps and vectors as one vector an example."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from collapsekit.adapters.inserts import channel_axis
from collapsekit.config.schema import Pool
from collapsekit.errors import ConfigError

Channels = Literal["first", "last"] | None


def pool_features(
    x: Tensor, how: Pool = "auto", channels: Channels = None, mask: Tensor | None = None, what: str = "features"
) -> Tensor:
    """Make one vector an example of features. Raises ConfigError where the shapes do not go together.

    Args:
        x: (n,), (n, d), tokens (n, t, d) or maps (n, d, h, w).
        how: ``auto`` is the mean over positions.
        channels: where d lies; None: last in tokens, first in maps.
        mask: (n, t), 1 = keep: leaves padding out of every way of pooling.
        what: to call the features in messages.

    Returns:
        (n, d), or (n, everything) for ``flatten``.
    """
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()  # a sum over many positions leaves the range of half precision
    if x.ndim == 1:
        return x[:, None]
    if how == "flatten" or x.ndim == 2:
        return x.flatten(1)
    tokens = tokens_of(x, channels)
    keep = _keep(tokens, mask, what)
    if how == "first":
        return tokens[torch.arange(len(x), device=x.device), keep.int().argmax(1)]
    if how == "last":
        return tokens[torch.arange(len(x), device=x.device), keep.shape[1] - 1 - keep.flip(1).int().argmax(1)]
    if how == "max":
        return tokens.masked_fill(~keep[..., None], -torch.inf).amax(1)
    weight = keep.to(tokens.dtype)[..., None]
    return (tokens * weight).sum(1) / weight.sum(1)


def tokens_of(x: Tensor, channels: Channels = None) -> Tensor:
    """Lay features of three or more axes, (n, ...), out as tokens (n, t, d), one a position."""
    last = channel_axis(x.ndim, channels) == x.ndim - 1
    return x.flatten(1, -2) if last else x.flatten(2).transpose(1, 2)


def shifted_features(x: Tensor, shift: Tensor, how: Pool = "auto", channels: Channels = None) -> Tensor:
    """Move a recorded tensor by as much at every position: what moves pooled features by as much.

    Args:
        x: (n, ...).
        shift: (d,) or (n, d).
        how: as features are pooled.
        channels: where d lies; None: last in tokens, first in maps.

    Returns:
        (n, ...); ``x`` itself where it has no axis of d features, as masks and indices.
    """
    d = shift.shape[-1]
    if not x.is_floating_point():
        return x
    rows = [len(shift)] if shift.ndim == 2 else [1]
    if how == "flatten" or x.ndim <= 2:
        return x + shift.to(x.dtype).reshape(rows + list(x.shape[1:])) if x[0].numel() == d else x
    axis = channel_axis(x.ndim, channels)
    if x.shape[axis] != d:
        return x
    return x + shift.to(x.dtype).reshape(rows + [d if i == axis else 1 for i in range(1, x.ndim)])


def _keep(tokens: Tensor, mask: Tensor | None, what: str) -> Tensor:
    if mask is None:
        return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    flat = mask.reshape(len(mask), -1).to(tokens.device) > 0
    if flat.shape != tokens.shape[:2]:
        raise ConfigError(
            f"the mask of {what} has shape {tuple(mask.shape)}, its tokens {tuple(tokens.shape)}: "
            "they must agree in examples and tokens."
        )
    # An example whose tokens are all masked still needs a vector: its plain mean, not 0/0.
    return flat | ~flat.any(1, keepdim=True)
