"""Joint representation by generation, after MMVAE."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from collapsekit.reproduce.models.encoders import WIDTH
from collapsekit.reproduce.models.encoding import Inputs, JointEncoding

LATENT = 32
LEAST, MOST = -6.0, 4.0  # of a log-variance


class MixtureAutoencoder(JointEncoding):
    """After MMVAE (Shi et al. 2019): each modality's encoder is an expert of a mixture, and every decoder tells its modality
    from any expert's sample.

    Of MMVAE: the mixture, a sample an expert, and likelihoods scaled to the widest modality. Not of it: experts and prior
    are Gaussian, not Laplace; the bound is the ELBO with one sample an expert, not IWAE's; the prior is fixed; decoders are
    Gaussian of variance 1 over vectors. Its representation here is the mean of the experts' means.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        super().__init__(shapes)
        self.means = nn.ModuleDict({m: nn.Linear(WIDTH, LATENT) for m in shapes})
        self.spreads = nn.ModuleDict({m: nn.Linear(WIDTH, LATENT) for m in shapes})
        self.decoders = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(LATENT, WIDTH), nn.ReLU(), nn.Linear(WIDTH, d)) for m, (d,) in shapes.items()}
        )

    def represent(self, features: Mapping[str, Tensor], strength: Mapping[str, float]) -> Tensor:
        """Average the experts' means, each times its strength: (n, latent) by features (n, width) a modality."""
        return torch.stack([strength.get(m, 1.0) * self.means[m](f) for m, f in features.items()]).mean(0)

    def objective(self, x: Inputs, features: Mapping[str, Tensor]) -> Tensor:
        """Compute minus the ELBO of the mixture, a scalar, by inputs and features (n, ...).

        In nats an example and number of the widest modality, so that it is of the size of a loss on labels.
        """
        experts = [(self.means[m](f), self.spreads[m](f).clamp(LEAST, MOST)) for m, f in features.items()]
        widest, bounds = max(v.shape[1] for v in x.values()), []
        for mean, log_variance in experts:
            z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
            told = [log_normal(x[m], decode(z)) * (widest / x[m].shape[1]) for m, decode in self.decoders.items()]
            mixture = torch.stack([log_normal(z, mu, spread) for mu, spread in experts]).logsumexp(0)
            bounds.append(
                torch.stack(told).sum(0) + log_normal(z, torch.zeros_like(z)) - mixture + math.log(len(experts))
            )
        return -torch.stack(bounds).mean() / widest


def log_normal(x: Tensor, mean: Tensor, log_variance: Tensor | None = None) -> Tensor:
    """Compute the log-density of a normal with a diagonal covariance.

    Args:
        x: Where, (n, d).
        mean: (n, d).
        log_variance: (n, d); None: of variance 1.

    Returns:
        In nats, (n,).
    """
    if log_variance is None:
        log_variance = torch.zeros_like(mean)
    parts = (x - mean).square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi)
    return -parts.sum(1) / 2
