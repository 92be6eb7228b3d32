"""The network of IM2Deep's single-conformer checkpoint, with the checkpoint's own names of weights.

Four branches read the four inputs, their outputs stand side by side, and dense layers read those (Devreese et al. 2025).
IM2Deep keeps each branch as a list of layers; here it is one module, so that it can be named, replayed and trained alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SLOPE, CEILING = 0.1, 20.0


def bounded(x: Tensor) -> Tensor:
    """A leaky rectifier with a ceiling."""
    return nn.functional.leaky_relu(x, SLOPE).clamp(max=CEILING)


class Conv(nn.Module):
    """A convolution of positions that keeps their number, and the rectifier."""

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, size, padding="same")
        nn.init.normal_(self.conv.weight, 0.0, 0.05)

    def forward(self, x: Tensor) -> Tensor:
        return bounded(self.conv(x))


class Dense(nn.Module):
    """A linear layer and the rectifier."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        nn.init.normal_(self.linear.weight, 0.0, 0.05)

    def forward(self, x: Tensor) -> Tensor:
        return bounded(self.linear(x))


class IM2Deep(nn.Module):
    """``atoms`` (n, 60, 6), ``pairs`` (n, 30, 6), ``whole`` (n, 60), ``one_hot`` (n, 60, 20) to a cross section (n, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.ConvAtomComp = nn.Sequential(
            Conv(6, 256, 4),
            Conv(256, 256, 4),
            nn.MaxPool1d(2),
            Conv(256, 128, 4),
            Conv(128, 128, 4),
            nn.MaxPool1d(2),
            Conv(128, 64, 4),
            Conv(64, 64, 4),
            nn.Flatten(),
        )
        self.ConvDiatomComp = nn.Sequential(
            Conv(6, 128, 2), Conv(128, 128, 2), nn.MaxPool1d(2), Conv(128, 64, 2), Conv(64, 64, 2), nn.Flatten()
        )
        self.ConvGlobal = nn.Sequential(Dense(60, 16), Dense(16, 16), Dense(16, 16))
        self.OneHot = nn.Sequential(Conv(20, 2, 2), Conv(2, 2, 2), nn.MaxPool1d(10), nn.Flatten())
        self.Concat = nn.Sequential(
            Dense(960 + 960 + 12 + 16, 128), *(Dense(128, 128) for _ in range(4)), nn.Linear(128, 1)
        )

    def forward(self, atoms: Tensor, pairs: Tensor, whole: Tensor, one_hot: Tensor) -> Tensor:
        branches = (
            self.ConvAtomComp(atoms.transpose(1, 2)),
            self.ConvDiatomComp(pairs.transpose(1, 2)),
            self.OneHot(one_hot.transpose(1, 2)),
            self.ConvGlobal(whole),
        )
        out: Tensor = self.Concat(torch.cat(branches, 1))
        return out


def build() -> nn.Module:
    """The factory that the config names."""
    return IM2Deep()
