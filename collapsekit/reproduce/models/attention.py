"""Attention over modalities: each is a token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.reproduce.models.absence import PresentFusion, presence

HEADS = 4


class TokenAttention(nn.Module):
    """One learned query over the tokens of modalities: a block of a transformer, as far as its answer needs one."""

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(width) / width**0.5)
        self.places = nn.Parameter(torch.randn(modalities, width) / width**0.5)
        self.norm = nn.LayerNorm(width)
        self.keys, self.values = nn.Linear(width, width), nn.Linear(width, width)
        self.after = nn.Sequential(nn.Linear(width, width), nn.ReLU())

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Fuse tokens to one vector.

        Args:
            tokens: (n, modalities, width).
            present: Which of them are read, bool (n, modalities).

        Returns:
            (n, width); the query's own token is read too, so that there is an answer where none is present.
        """
        n, _, width = tokens.shape
        own = self.query.expand(n, 1, width)
        read = self.norm(torch.cat([own, tokens + self.places], 1))
        mask = torch.cat([present.new_ones(n, 1), present], 1)[:, None, None]

        def split(x: Tensor) -> Tensor:
            return x.reshape(n, -1, HEADS, width // HEADS).transpose(1, 2)

        found = F.scaled_dot_product_attention(split(own), split(self.keys(read)), split(self.values(read)), mask)
        out: Tensor = self.after(found.transpose(1, 2).reshape(n, width))
        return out


class AttentionFusion(PresentFusion):
    """Attention over the modalities that are present."""

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        self.attention = TokenAttention(modalities, width)

    def fuse(self, seen: Sequence[Tensor], whole: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Fuse features (n, width) each to (n, width), without a loss of its own."""
        del whole
        return self.attention(torch.stack(list(seen), 1), presence(seen)), None
