"""Encoders whose features are joined without labels, with or without heads behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from collapsekit.adapters.inserts import BasisHead
from collapsekit.reproduce.models.encoders import WIDTH, make_encoder

Inputs = Mapping[str, Tensor]


class JointEncoding(nn.Module):
    """An encoder a modality, heads h·h⁻¹ behind each where they are asked for, and a joint representation."""

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({m: make_encoder(shape) for m, shape in shapes.items()})
        self.heads = nn.ModuleDict()

    def add_heads(self) -> None:
        """Put heads behind the encoders (Chaudhuri et al. 2025, section 3.4), which begin by changing nothing."""
        for m in self.encoders:
            others = [other for other in self.encoders if other != m]
            self.heads[m] = BasisHead({"features": WIDTH, "latent": WIDTH, "hidden": 2 * WIDTH}, others)

    def encode(self, x: Inputs) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Compute features and what is between the heads.

        Args:
            x: Inputs (n, ...) by modality.

        Returns:
            Features (n, width) by modality, and latent encodings (n, width), one a modality; none without heads.
        """
        features = {m: encoder(x[m]) for m, encoder in self.encoders.items()}
        latents: list[Tensor] = []
        for m, head in self.heads.items():
            assert isinstance(head, BasisHead)
            latents.append(head.h(features[m]))
            features[m] = head.back(latents[-1])
        return features, latents

    def objective(self, x: Inputs, features: Mapping[str, Tensor]) -> Tensor:
        """Compute what training lowers.

        Args:
            x: Inputs (n, ...) by modality.
            features: Of them, (n, width) by modality.

        Returns:
            A scalar.
        """
        raise NotImplementedError

    def represent(self, features: Mapping[str, Tensor], strength: Mapping[str, float]) -> Tensor:
        """Compute the joint representation.

        Args:
            features: (n, width) by modality.
            strength: What a modality counts for; 1 where it is not named.

        Returns:
            (n, width of the representation).
        """
        raise NotImplementedError
