"""Joint representation by contrast, after GMC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.reproduce.models.encoders import WIDTH, Concatenation
from collapsekit.reproduce.models.encoding import Inputs, JointEncoding

TEMPERATURE = 0.1


class ContrastiveNetwork(JointEncoding):
    """After GMC (Poklukar et al. 2022): each modality's features and the joint ones are brought together by contrast,
    behind a projection common to all.

    Of GMC: the contrast of each modality with the joint representation, and the common projection. Not of it: the joint
    representation is a layer over the same encoders' features, where GMC has encoders of its own for it.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        super().__init__(shapes)
        self.fusion = Concatenation(len(shapes), WIDTH)
        self.project = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))

    def represent(self, features: Mapping[str, Tensor], strength: Mapping[str, float]) -> Tensor:
        """Fuse features, (n, width) by modality, each times its strength, to (n, width)."""
        out: Tensor = self.fusion(*(strength.get(m, 1.0) * f for m, f in features.items()))
        return out

    def objective(self, x: Inputs, features: Mapping[str, Tensor]) -> Tensor:
        """Compute the contrast of features (n, width), by modality, with the joint ones: a scalar in nats."""
        del x
        joint = self.project(self.represent(features, {}))
        return torch.stack([contrast_with_joint(self.project(f), joint) for f in features.values()]).mean()


def contrast_with_joint(of_modality: Tensor, joint: Tensor) -> Tensor:
    """Compute GMC's loss of one modality (Poklukar et al. 2022, section 3.2; NT-Xent), a scalar in nats.

    Args:
        of_modality: Projections (n, width).
        joint: Projections of the joint representation (n, width).

    Returns:
        The mean over examples, both ways, of minus the log of an example's share among all 2n - 1 others.
    """
    n = len(joint)
    both = F.normalize(torch.cat([of_modality, joint]), dim=1)
    near = both @ both.T / TEMPERATURE
    near = near.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=near.device), -torch.inf)
    return F.cross_entropy(near, torch.arange(2 * n, device=near.device).roll(n))
