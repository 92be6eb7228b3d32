"""A small U-Net: four sequences stacked as channels in, a class for each pixel out."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions that keep the size."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """``scan`` (n, 4, 24, 24) in, logits (n, 4, 24, 24) out."""

    def __init__(self) -> None:
        super().__init__()
        self.down = block(4, 8)
        self.bottom = block(8, 16)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.merge = block(16, 8)
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, scan: Tensor) -> Tensor:
        fine = self.down(scan)
        coarse = self.bottom(nn.functional.max_pool2d(fine, 2))
        logits: Tensor = self.out(self.merge(torch.cat([fine, self.up(coarse)], 1)))
        return logits


def build() -> UNet:
    """The untrained model."""
    return UNet()
