"""What fusions for absent modalities share: an absent modality is a vector of zeros, and in training some are taken away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from collapsekit.repairs.ingredients.masking import drawn

DROP = 0.25  # with which a modality of an example is taken away in training


def presence(features: Sequence[Tensor]) -> Tensor:
    """Mark which modality of which example is present, bool (n, modalities), in features (n, width) each."""
    return torch.stack([(f != 0).any(1) for f in features], 1)


def take_some_away(features: Sequence[Tensor], rate: float = DROP) -> list[Tensor]:
    """Put zeros in the place of features (n, width) at random, never of all modalities of an example.

    Args:
        features: One a modality.
        rate: Probability of each, from 0 to 1.

    Returns:
        Features of the same shapes.
    """
    gone = drawn(torch.full((len(features),), rate), len(features[0])).to(features[0].device)
    return [torch.where(gone[:, i, None], torch.zeros_like(f), f) for i, f in enumerate(features)]


def mean_of_present(values: Tensor, present: Tensor) -> Tensor:
    """Average values (n, modalities, width) over the modalities that are present, bool (n, modalities): (n, width)."""
    weights = present.to(values.dtype)
    return (values * weights[..., None]).sum(1) / weights.sum(1, keepdim=True).clamp_min(1)


class AttachedLoss(torch.autograd.Function):
    """An output as it is, whose gradient brings that of a loss with it, at weight 1 whatever is made of the output."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, loss: Tensor) -> Tensor:
        """Return the output (n, width) as it is; ``loss`` is a scalar."""
        ctx.like = loss.detach()
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Pass the gradient (n, width) on, and 1 to the loss."""
        return gradients[0], torch.ones_like(ctx.like)


class PresentFusion(nn.Module):
    """A fusion that answers from the modalities that are present.

    In training it takes some away, and attaches a loss of its own to what it answers, so that every trainer trains by it:
    ordinary training, and each repair that trains the fusion.
    """

    reads_absence = True  # an absent modality is to come as zeros

    def forward(self, *features: Tensor) -> Tensor:
        """Fuse features (n, width) each, zeros where a modality is absent, to (n, width)."""
        seen = take_some_away(features) if self.training else list(features)
        fused, loss = self.fuse(seen, features)
        if loss is None or not (self.training and loss.requires_grad):
            return fused
        attached: Tensor = AttachedLoss.apply(fused, loss)  # type: ignore[no-untyped-call]
        return attached

    def fuse(self, seen: Sequence[Tensor], whole: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Fuse what is seen, and compute the fusion's own loss.

        Args:
            seen: Features (n, width), one a modality, zeros where it is absent.
            whole: The same before some were taken away in training.

        Returns:
            The fused features (n, width), and a scalar loss or None.
        """
        raise NotImplementedError


def recovery_loss(recovered: Tensor, whole: Sequence[Tensor]) -> Tensor:
    """Average the squared distance of recovered features (n, modalities, width) from those that are there, a scalar.

    ``whole``: features (n, width), one a modality; those of zeros are not compared with. They are the aim, and get no
    gradient.
    """
    aim, there = torch.stack(list(whole), 1).detach(), presence(whole).to(recovered.dtype)
    distance = (recovered - aim).square().mean(2)
    return (distance * there).sum() / there.sum().clamp_min(1)
