"""Tokens, feature maps and vectors as one vector an example, and where they hold their channels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from collapsekit.adapters.inserts import WrappedEncoder, channel_axis
from collapsekit.config.schema import Pool
from collapsekit.errors import ConfigError
from collapsekit.io.transfer import to_device

Channels = Literal["first", "last"] | None
PoolWay = tuple[Pool, Channels]
WIDEST = 4096  # numbers an example up to which features are read flattened
_WAYS: dict[Pool, str] = {"mean": "mean over", "max": "maximum over", "first": "first of"}


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
        tokens = (
            tokens if tokens.is_floating_point() else tokens.float()
        )  # whole numbers, such as bytes, have no infinity
        return tokens.masked_fill(~keep[..., None], -torch.inf).amax(1)
    weight = keep.to(tokens.dtype)[..., None]
    return (tokens * weight).sum(1) / weight.sum(1)


def pool_ways(shape: Sequence[int], channels: Channels = None, masked: int | None = None) -> dict[str, PoolWay]:
    """List ways to pool features, each of which loses something else.

    Args:
        shape: of tokens or maps, (n, ...), three axes or more.
        channels: where they are, if the user said so; None: either layout is pooled.
        masked: how many positions the mask has, where there is one: then only a layout with as many is pooled.

    Returns:
        By what it is in words, how and with which layout ``pool_features`` pools: mean, maximum and first position, and all
        positions side by side where these are at most WIDEST numbers.
    """
    found: dict[str, PoolWay] = {}
    total = math.prod(shape[1:])
    layouts: tuple[Channels, ...] = ("first", "last") if channels is None else (channels,)
    for layout in layouts:
        positions = total // shape[channel_axis(len(shape), layout)]
        if masked is None or masked == positions:
            for how, words in _WAYS.items():
                if positions == 1 and how != "mean":
                    continue  # all are the same
                found[f"{words} {positions} positions, channels {layout}"] = how, layout
    if total <= WIDEST and masked is None:
        found["all positions side by side"] = "flatten", None
    return found


def layout_behind(module: nn.Module, shape: Sequence[int]) -> Channels:
    """Tell where the features that a module gives hold their channels.

    It is told by the last layer within it, in the order in which they are registered, that has as many outputs as one of
    the two axes: convolutions and batch norms have channels first, Linear, LayerNorm, attention, embeddings and recurrent
    layers last.

    Args:
        module: that gives them.
        shape: of the features, (n, ...), of three axes or more.

    Returns:
        Where they are; None where no such layer tells.
    """
    while isinstance(module, WrappedEncoder):  # what a repair put behind it keeps the layout
        if module.record["channels"] is not None:
            found: Channels = module.record["channels"]
            return found
        module = module.encoder
    return _first_told(reversed(list(module.modules())), shape, entering=False)


def layout_before(module: nn.Module, shape: Sequence[int]) -> Channels:
    """Tell where features of that ``shape``, (n, ...), which enter a module, hold their channels; None: nothing tells."""
    return _first_told(module.modules(), shape, entering=True)


def layout_at(model: nn.Module, path: str | None, shape: Sequence[int]) -> Channels:
    """Tell where features that pass a place of a model hold their channels.

    Args:
        model: the model.
        path: of a submodule that gives them, or ``name:input`` for one that takes them; None: not known.
        shape: of the features, (n, ...).

    Returns:
        Where they are; None where no layer tells.
    """
    if path is None or len(shape) < 3:
        return None
    try:
        module = model.get_submodule(path.removesuffix(":input"))
    except AttributeError:  # an adapter may call its parts otherwise
        return None
    return layout_before(module, shape) if path.endswith(":input") else layout_behind(module, shape)


def pool_fused(model: nn.Module, path: str | None, fused: Tensor) -> Tensor:
    """Pool a multimodal representation to one vector an example.

    Args:
        model: the model.
        path: of the submodule that gives it, whose layers tell where its channels are; None: not known.
        fused: (n, ...).

    Returns:
        (n, D).
    """
    return pool_features(fused, channels=layout_at(model, path, fused.shape), what="the fusion")


def _first_told(modules: Iterable[nn.Module], shape: Sequence[int], *, entering: bool) -> Channels:
    if len(shape) < 3:
        return None
    for module in modules:
        told = _channels_of(module, entering)
        if told is None:
            continue
        where, count = told
        sizes = {"first": shape[1], "last": shape[-1]}
        other: Channels = "last" if where == "first" else "first"
        if sizes[str(where)] == count:
            return where
        if sizes[str(other)] == count:  # transposed on the way
            return other
    return None


def _channels_of(module: nn.Module, entering: bool) -> tuple[Channels, int] | None:
    """Where a layer has its channels, and how many; None for a module that does not say."""
    if isinstance(module, _ConvNd):
        return "first", module.in_channels if entering else module.out_channels
    if isinstance(module, _BatchNorm | _InstanceNorm):
        return "first", module.num_features
    if isinstance(module, nn.GroupNorm):
        return "first", module.num_channels
    if isinstance(module, nn.Linear):
        return "last", module.in_features if entering else module.out_features
    if isinstance(module, nn.LayerNorm):
        return "last", module.normalized_shape[-1]
    if isinstance(module, nn.MultiheadAttention):
        return "last", module.embed_dim
    if isinstance(module, nn.Embedding):
        return None if entering else ("last", module.embedding_dim)
    if isinstance(module, nn.RNNBase):
        ways = 2 if module.bidirectional else 1
        size = module.proj_size or module.hidden_size
        return "last", module.input_size if entering else ways * size
    return None


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
    flat = to_device(mask.reshape(len(mask), -1), tokens.device) > 0
    if flat.shape != tokens.shape[:2]:
        raise ConfigError(
            f"the mask of {what} has shape {tuple(mask.shape)}, its tokens {tuple(tokens.shape)}: "
            "they must agree in examples and tokens."
        )
    # An example whose tokens are all masked still needs a vector: its plain mean, not 0/0.
    return flat | ~flat.any(1, keepdim=True)
