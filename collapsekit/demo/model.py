"""A small fusion model: one encoder a view, a learned mixture, a linear head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTHS = {"pix": 240, "fou": 76, "zer": 47, "kar": 64}


class FusionModel(nn.Module):
    """Four views of a digit in, ten logits out."""

    def __init__(self, hidden: int = 64, fused: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(
            {view: nn.Sequential(nn.Linear(width, hidden), nn.ReLU()) for view, width in WIDTHS.items()}
        )
        self.fusion = nn.Sequential(nn.Linear(hidden * len(WIDTHS), fused), nn.ReLU())
        self.head = nn.Linear(fused, classes)

    def forward(self, pix: Tensor, fou: Tensor, zer: Tensor, kar: Tensor) -> Tensor:
        views = {"pix": pix, "fou": fou, "zer": zer, "kar": kar}
        features = [encoder(views[view]) for view, encoder in self.encoders.items()]
        logits: Tensor = self.head(self.fusion(torch.cat(features, dim=1)))
        return logits


def build(hidden: int = 64, fused: int = 64) -> FusionModel:
    """What collapsekit.yaml names as model.factory."""
    return FusionModel(hidden, fused)
