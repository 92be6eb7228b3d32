"""Fusion of what modalities share and of what each has for itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.reproduce.models.absence import PresentFusion, mean_of_present, presence

OF_ALIKE, OF_APART = 0.1, 0.02  # weights of the two losses, as its authors have them


class SharedSpecificFusion(PresentFusion):
    """After ShaSpec (Wang et al. 2023): a shared map and a map a modality, added as a residue; where a modality is absent
    the mean of what the others share stands in.

    Of ShaSpec: both maps, the residue, the stand-in, and its two losses, for modalities to share the same (mean absolute
    distance) and for what is specific to tell its modality (cross-entropy). Not of it: the maps are layers behind encoders
    of their own, not whole encoders; fusion is a layer.
    """

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.specific = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(modalities))
        self.residue, self.which = nn.Linear(2 * width, width), nn.Linear(width, modalities)
        self.layers = nn.Sequential(nn.Linear(modalities * width, width), nn.ReLU())

    def fuse(self, seen: Sequence[Tensor], whole: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Fuse features (n, width) each to (n, width); the loss is that of both objectives."""
        del whole
        present = presence(seen)
        shared = self.shared(torch.stack(list(seen), 1))
        specific = torch.stack([own(f) for own, f in zip(self.specific, seen, strict=True)], 1)
        both = self.residue(torch.cat([shared, specific], 2)) + shared
        stand_in = mean_of_present(shared, present)[:, None].expand_as(both)
        fused = self.layers(torch.where(present[..., None], both, stand_in).flatten(1))
        return fused, OF_ALIKE * _alike(shared, present) + OF_APART * self._apart(specific, present)

    def _apart(self, specific: Tensor, present: Tensor) -> Tensor:
        """Cross-entropy of telling the modality of what is specific to it."""
        aim = torch.arange(specific.shape[1], device=specific.device).expand(specific.shape[:2])
        lost = F.cross_entropy(self.which(specific).flatten(0, 1), aim.flatten(), reduction="none")
        weights = present.flatten().to(lost.dtype)
        return (lost * weights).sum() / weights.sum().clamp_min(1)


def _alike(shared: Tensor, present: Tensor) -> Tensor:
    """Mean absolute distance between what two present modalities share."""
    parts, count = shared.new_zeros(()), shared.new_zeros(())
    for a, b in combinations(range(shared.shape[1]), 2):
        both = (present[:, a] & present[:, b]).to(shared.dtype)
        parts = parts + ((shared[:, a] - shared[:, b]).abs().mean(1) * both).sum()
        count = count + both.sum()
    return parts / count.clamp_min(1)
