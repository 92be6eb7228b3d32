"""Models: an encoder a modality, after the shape of its input; a fusion; a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from benchmarks.planted.models import Fusion


def encoder(shape: Sequence[int], hidden: int, width: int) -> nn.Module:
    """Vectors through two layers; sequences (C, L) and pictures (C, H, W) through two convolutions first."""
    if len(shape) == 1:
        return nn.Sequential(nn.Linear(shape[0], hidden), nn.ReLU(), nn.Linear(hidden, width))
    if len(shape) == 2:
        return nn.Sequential(
            nn.Conv1d(shape[0], 16, 5, 2, 2),
            nn.ReLU(),
            nn.Conv1d(16, 32, 5, 2, 2),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(4),
            nn.Flatten(),
            nn.Linear(128, width),
        )
    return nn.Sequential(
        nn.Conv2d(shape[0], 8, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(256, width),
    )


class Natural(nn.Module):
    """Encoders, fusion, head."""

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        outputs: int,
        fusion: str = "concat",
        width: int = 32,
        hidden: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({m: encoder(shape, hidden, width) for m, shape in shapes.items()})
        self.fusion = Fusion(fusion, len(shapes), width, width, None, outputs)
        self.head = (
            nn.Identity()
            if fusion == "late"
            else nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, outputs))
        )

    def encode(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features (n, width) of every modality."""
        return {m: module(x[m]) for m, module in self.encoders.items()}

    def answer(self, features: Mapping[str, Tensor]) -> Tensor:
        """Outputs (n, K) of features."""
        out: Tensor = self.head(self.fusion(*(features[m] for m in self.encoders)))
        return out

    def forward(self, **x: Tensor) -> Tensor:
        return self.answer(self.encode(x))


def build(**kwargs: object) -> nn.Module:
    """The factory that a config names."""
    torch.manual_seed(0)
    return Natural(**kwargs)  # type: ignore[arg-type]
