"""Encoders of whatever arrays a data set has, and the plainest fusion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

WIDTH = 64  # of every encoder and of the fusion


def make_encoder(shape: Sequence[int], width: int = WIDTH) -> nn.Module:
    """Make an encoder of one example's shape.

    Args:
        shape: (d,) for vectors; (channels, time) for series; (channels, height, width) for images.
        width: Of its features.

    Returns:
        A module from (n, *shape) to (n, width).
    """
    if len(shape) == 1:
        return nn.Sequential(nn.Linear(shape[0], width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    convolution = nn.Conv1d if len(shape) == 2 else nn.Conv2d
    layers: list[nn.Module] = [
        *(convolution(shape[0], 16, 3, 2, 1), nn.ReLU()),
        *(convolution(16, 16, 3, 2, 1), nn.ReLU(), nn.Flatten()),
    ]
    inner = 16
    for size in shape[1:]:
        inner *= (size + 3) // 4
    return nn.Sequential(*layers, nn.Linear(inner, width), nn.ReLU())


class Concatenation(nn.Module):
    """Features side by side, through a layer."""

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(modalities * width, width), nn.ReLU())

    def forward(self, *features: Tensor) -> Tensor:
        """Fuse features (n, width) each to (n, width)."""
        out: Tensor = self.layers(torch.cat(features, 1))
        return out
