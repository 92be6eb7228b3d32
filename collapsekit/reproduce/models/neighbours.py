"""Fusion that fills what is absent from examples that are alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from collapsekit.reproduce.models.absence import PresentFusion, presence, recovery_loss
from collapsekit.reproduce.models.attention import TokenAttention

MEMORY = 32


class NeighbourFusion(PresentFusion):
    """After M3Care (Zhang et al. 2022): absent features are those of similar examples, and present ones are blended with
    them by a gate; then attention over modalities.

    Of M3Care: similarity by the modalities that are present, features of neighbours weighted by it, the gate, the
    transformer after it. Not of it: neighbours are a memory of 32 learned examples, drawn to the features of training by
    the squared distance of what they recover, and not the batch, so that an example's answer depends on nothing but itself;
    similarity is one softmax, without its kernels and graph convolution.
    """

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        self.memory = nn.Parameter(torch.rand(MEMORY, modalities, width))
        self.keys = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(modalities))
        self.gates = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(modalities))
        self.attention = TokenAttention(modalities, width)

    def recover(self, features: Sequence[Tensor]) -> Tensor:
        """Compute what similar examples have of each modality, (n, modalities, width), by features (n, width) each."""
        # Keys have no bias, so that of an absent one is zeros, and counts for nothing.
        alike = [key(f) @ key(self.memory[:, i]).T for i, (key, f) in enumerate(zip(self.keys, features, strict=True))]
        scale = features[0].shape[1] ** 0.5 * presence(features).sum(1, keepdim=True).clamp_min(1)
        weights = (torch.stack(alike).sum(0) / scale).softmax(1)
        return torch.einsum("nk,kmd->nmd", weights, self.memory)

    def fuse(self, seen: Sequence[Tensor], whole: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Fuse features (n, width) each to (n, width); the loss is what the neighbours do not recover."""
        recovered, present = self.recover(seen), presence(seen)
        tokens = []
        for i, (gate, f) in enumerate(zip(self.gates, seen, strict=True)):
            near = recovered[:, i]
            blend = gate(torch.cat([f, near], 1)).sigmoid()
            tokens.append(torch.where(present[:, i, None], blend * f + (1 - blend) * near, near))
        fused = self.attention(torch.stack(tokens, 1), torch.ones_like(present))
        return fused, recovery_loss(recovered, whole)
