"""The adversary of basis reallocation: a discriminator ψ of modalities that encoders work against (Chaudhuri et al. 2025,
section 3.4, L_md)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.repairs.ingredients.substitution import latent_vectors
from collapsekit.repairs.training.job import Job
from collapsekit.report.diagnosis import Result


class Discriminator(nn.Module):
    """ψ: which modality an encoding is of. Two hidden layers, as wide as the latent space and half of that."""

    def __init__(self, latent: int, modalities: int, *, normalize: bool) -> None:
        super().__init__()
        first = nn.LayerNorm(latent, elementwise_affine=False) if normalize else nn.Identity()
        half = max(2, latent // 2)
        self.layers = nn.Sequential(
            first, nn.Linear(latent, latent), nn.ReLU(), nn.Linear(latent, half), nn.ReLU(), nn.Linear(half, modalities)
        )

    def losses(self, latents: list[Tensor], aim: str) -> tuple[Tensor, Tensor]:
        """Compute both losses, scalars in nats, mean over examples, summed over modalities.

        The first is L_md, which ψ lowers (its inputs fixed); the second is what the encoders lower (ψ fixed).
        ``latents``: a list of (n, latent), one a modality; ``aim``: reverse (minus the first), else how far ψ's answer
        is from uniform.
        """
        labels = torch.cat([torch.full((len(g),), i, device=g.device) for i, g in enumerate(latents)])
        both, m = torch.cat(latents).float(), len(latents)
        own = m * F.cross_entropy(self.layers(both.detach()), labels)
        fixed = {k: v.detach() for k, v in self.named_parameters(prefix="layers")}
        fixed = {k.removeprefix("layers.layers."): v for k, v in fixed.items()}
        seen = torch.func.functional_call(self.layers, fixed, (both,)).log_softmax(1)
        if aim == "reverse":
            return own, -m * F.nll_loss(seen, labels)
        return own, m * (-seen.mean(1).mean() - math.log(m))


def note_discriminator(job: Job, discriminator: Discriminator) -> list[Result]:
    """Note how well ψ still tells the modalities apart: its cross-entropy and entropy on the training examples."""
    latents, m = latent_vectors(job), len(job.adapter.modalities)
    with torch.no_grad():
        seen = [
            discriminator.layers(g.float().to(job.adapter.device)).cpu().double().log_softmax(1)
            for g in latents.values()
        ]
    loss = sum(-float(s[:, i].mean()) for i, s in enumerate(seen)) / m
    entropy = sum(-float((s.exp() * s).sum(1).mean()) for s in seen) / m
    what = "of the modality discriminator trained along, mean over modalities and training examples"
    note = f"ln {m} = {math.log(m):.3f} would be no telling apart; more than that is confident error"
    return [
        Result(
            name=f"ebr.{name}",
            probe="ebr",
            value=value,
            unit="nats",
            definition=f"{text} {what}",
            source="after Chaudhuri et al. 2025, section 3.4 (L_md)",
            note=note,
        )
        for name, text, value in (
            ("discriminator_loss", "cross-entropy", loss),
            ("discriminator_entropy", "entropy", entropy),
        )
    ]
