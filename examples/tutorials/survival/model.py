"""A risk from omics and from a bag of patches of a slide, as many as there are."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Slide(nn.Module):
    """A list of n bags (patches, 16) to (n, 8), by attention over the patches of each bag."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
        self.attention = nn.Linear(16, 1)
        self.out = nn.Linear(16, 8)
        nn.init.zeros_(self.out.weight)  # training begins with what omics say alone
        nn.init.zeros_(self.out.bias)

    def forward(self, slide: list[Tensor]) -> Tensor:
        bags = []
        for bag in slide:
            patches = self.patch(bag)
            bags.append((self.attention(patches).softmax(0) * patches).sum(0))
        out: Tensor = self.out(torch.stack(bags))
        return out


class Risk(nn.Module):
    """``omics`` (n, 20) and ``slide``, a list of n bags, to log-risks (n, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.omics = nn.Sequential(nn.Linear(20, 8), nn.ReLU())
        self.slide = Slide()
        self.fusion = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
        self.head = nn.Linear(16, 1)

    def forward(self, omics: Tensor, slide: list[Tensor]) -> Tensor:
        risk: Tensor = self.head(self.fusion(torch.cat([self.omics(omics), self.slide(slide)], 1)))
        return risk


def build() -> Risk:
    """The untrained model."""
    return Risk()
