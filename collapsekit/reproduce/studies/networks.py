"""Small networks of several encoders and a fusion, for whatever arrays a data set has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from collapsekit.reproduce.models.attention import AttentionFusion
from collapsekit.reproduce.models.bipartite import BipartiteFusion, ConsistentFusion
from collapsekit.reproduce.models.encoders import WIDTH, Concatenation, make_encoder
from collapsekit.reproduce.models.meta_learned import MetaLearnedFusion
from collapsekit.reproduce.models.neighbours import NeighbourFusion
from collapsekit.reproduce.models.shared_specific import SharedSpecificFusion


class FusionNetwork(nn.Module):
    """An encoder a modality, a fusion of their features, and a linear head.

    To a fusion that reads absence, an input of zeros alone is an absent modality, and its features are zeros too.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], outputs: int, fusion: nn.Module) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({m: make_encoder(shape) for m, shape in shapes.items()})
        self.fusion, self.head = fusion, nn.Linear(WIDTH, outputs)

    def forward(self, **x: Tensor) -> Tensor:
        """Answer with logits (n, outputs)."""
        features = [encoder(x[m]) for m, encoder in self.encoders.items()]
        if getattr(self.fusion, "reads_absence", False):
            there = [(x[m].flatten(1) != 0).any(1, keepdim=True) for m in self.encoders]
            features = [torch.where(t, f, torch.zeros_like(f)) for t, f in zip(there, features, strict=True)]
        out: Tensor = self.head(self.fusion(*features))
        return out


FUSIONS: dict[str, Callable[[int, int], nn.Module]] = {
    "concatenation": Concatenation,
    "attention": AttentionFusion,
    "bipartite": BipartiteFusion,
    "consistent": ConsistentFusion,
    "neighbours": NeighbourFusion,
    "meta-learned": MetaLearnedFusion,
    "shared-specific": SharedSpecificFusion,
}


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
