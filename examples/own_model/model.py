"""A digit classifier of two modalities: Fourier coefficients of the outline, and a small grey-level image."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DigitNet(nn.Module):
    """``shape`` (n, 76) and ``pixels`` (n, 1, 16, 15) in, ten logits out."""

    def __init__(self, normalise: bool = False) -> None:
        super().__init__()
        self.shape_encoder = nn.Sequential(
            nn.BatchNorm1d(76, affine=False) if normalise else nn.Identity(),
            nn.Linear(76, 32),
            nn.ReLU(),
        )
        self.pixel_encoder = nn.Sequential(
            nn.Conv2d(1, 8, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * 4 * 3, 32),
            nn.ReLU(),
        )
        self.fusion = nn.Sequential(nn.Linear(64, 32), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, shape: Tensor, pixels: Tensor) -> Tensor:
        both = torch.cat([self.shape_encoder(shape), self.pixel_encoder(pixels)], dim=1)
        logits: Tensor = self.head(self.fusion(both))
        return logits


def build(normalise: bool = False) -> DigitNet:
    """The untrained model."""
    return DigitNet(normalise)
