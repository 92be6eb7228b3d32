"""Small networks of several encoders and a fusion, for whatever arrays a data set has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


class FusionNetwork(nn.Module):
    """An encoder a modality, a fusion of their features, and a linear head."""

    def __init__(self, shapes: Mapping[str, Sequence[int]], outputs: int, fusion: nn.Module) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({m: make_encoder(shape) for m, shape in shapes.items()})
        self.fusion, self.head = fusion, nn.Linear(WIDTH, outputs)

    def forward(self, **x: Tensor) -> Tensor:
        """Answer with logits (n, outputs)."""
        out: Tensor = self.head(self.fusion(*(encoder(x[m]) for m, encoder in self.encoders.items())))
        return out


FUSIONS = {"concatenation": Concatenation}


def build(shapes: Mapping[str, Sequence[int]], outputs: int, fusion: str = "concatenation") -> FusionNetwork:
    """Make a network, as configs name it under ``model.factory``.

    Args:
        shapes: Of one example, by modality, as for :func:`make_encoder`.
        outputs: Classes.
        fusion: Of FUSIONS.

    Returns:
        The network with fresh weights.
    """
    return FusionNetwork(shapes, outputs, FUSIONS[fusion](len(shapes), WIDTH))
