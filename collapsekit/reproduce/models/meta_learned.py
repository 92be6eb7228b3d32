"""Fusion with a generator of absent features and a perturbation of all."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.reproduce.models.absence import PresentFusion, mean_of_present, presence, recovery_loss

PRIORS = 16
NOTHING = math.log(math.e - 1)  # softplus of it is 1
LEAST_SPREAD = -3.0  # before its softplus


class MetaLearnedFusion(PresentFusion):
    """After SMIL (Ma et al. 2021): absent features are a blend of priors, weighted by what is present, and features are
    multiplied by a noise whose mean and spread are learned.

    Of SMIL: the generator as a blend of priors, and the perturbation, its mean at inference. Not of it: priors are learned
    by the squared distance of what they recover, not the means of clusters; and all is trained on one level, where SMIL
    takes a step on examples with absent modalities and learns from the loss after it on whole ones.
    """

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        self.priors = nn.Parameter(torch.rand(modalities, PRIORS, width))
        self.weights = nn.ModuleList(nn.Linear(width, PRIORS) for _ in range(modalities))
        self.mean, self.spread = nn.Linear(width, width), nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(modalities * width, width), nn.ReLU())
        with torch.no_grad():
            self.mean.weight.mul_(0.1)
            self.mean.bias.fill_(NOTHING)
            self.spread.bias.fill_(LEAST_SPREAD)

    def generate(self, features: Sequence[Tensor]) -> Tensor:
        """Compute features (n, modalities, width) from the mean of those present among features (n, width) each."""
        context = mean_of_present(torch.stack(list(features), 1), presence(features))
        made = [weigh(context).softmax(1) @ priors for weigh, priors in zip(self.weights, self.priors, strict=True)]
        return torch.stack(made, 1)

    def perturb(self, features: Tensor) -> Tensor:
        """Multiply features (..., width) by a learned noise; by its mean outside training."""
        mean = self.mean(features)
        if self.training:
            mean = mean + F.softplus(self.spread(features)) * torch.randn_like(mean)
        return features * F.softplus(mean)

    def fuse(self, seen: Sequence[Tensor], whole: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Fuse features (n, width) each to (n, width); the loss is what the generator does not recover."""
        generated = self.generate(seen)
        filled = torch.where(presence(seen)[..., None], torch.stack(list(seen), 1), generated)
        return self.layers(self.perturb(filled).flatten(1)), recovery_loss(generated, whole)
