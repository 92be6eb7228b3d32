"""The adversary of basis reallocation: a discriminator ψ of modalities that encoders work against (Chaudhuri et al. 2025,
section 3.4, L_md)."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from collapsekit.io.transfer import to_cpu
from collapsekit.repairs.ingredients.substitution import latent_vectors
from collapsekit.repairs.training.job import Job
from collapsekit.report.diagnosis import Result


class Discriminator(nn.Module):
    """ψ: which modality an encoding is of. Two hidden layers, as wide as the latent space and half of that.

    Args:
        latent: width of the encodings.
        modalities: how many there are.
        normalize: whether encodings are normalised before.
        spectral_norm: whether every weight is divided by its largest singular value (Miyato et al. 2018), so that ψ is no
            steeper than 1 in what it reads.
        r1: weight γ of the penalty of its slope (Mescheder et al. 2018, eq. 9).
        classes: where not 0, ψ reads g ⊗ y, y the one-hot class of the example (Long et al. 2018, eq. 5, with the class in
            the answer's place), so that encodings are held against those of their own class.
    """

    def __init__(
        self,
        latent: int,
        modalities: int,
        *,
        normalize: bool,
        spectral_norm: bool = False,
        r1: float = 0.0,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.r1, self.classes = r1, classes
        first = nn.LayerNorm(latent, elementwise_affine=False) if normalize else nn.Identity()
        half = max(2, latent // 2)
        widths = (latent * max(1, classes), latent, half, modalities)
        a, b, c = (nn.Linear(*pair) for pair in itertools.pairwise(widths))
        if spectral_norm:
            for layer in (a, b, c):
                parametrizations.spectral_norm(layer)
        self.layers = nn.Sequential(first, a, nn.ReLU(), b, nn.ReLU(), c)

    def forward(self, encodings: Tensor, classes: Tensor | None = None) -> Tensor:
        """Answer with logits (n, modalities) of ``encodings`` (n, latent), of examples of ``classes`` (n,)."""
        x: Tensor = self.layers[0](encodings)
        if self.classes:
            assert classes is not None
            x = (x[:, None] * F.one_hot(classes, self.classes)[:, :, None].to(x.dtype)).flatten(1)
        out: Tensor = self.layers[1:](x)
        return out

    def losses(self, latents: list[Tensor], aim: str, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute both losses, scalars in nats, mean over examples, summed over modalities.

        Args:
            latents: encodings (n, latent), one a modality.
            aim: reverse (minus L_md), else how far ψ's answer is from uniform.
            classes: of the examples (n,), where ψ reads them.

        Returns:
            L_md, which ψ lowers (its inputs fixed), with the penalty of its slope; what the encoders lower (ψ fixed).
        """
        labels = torch.cat([torch.full((len(g),), i, device=g.device) for i, g in enumerate(latents)])
        both, m = torch.cat(latents).float(), len(latents)
        every = None if classes is None else classes.repeat(m)
        own = m * F.cross_entropy(self(both.detach(), every), labels)
        if self.r1:
            own = own + self.r1 / 2 * m * self.slope(both, labels, every)
        fixed = {k: v.detach() for k, v in self.named_parameters()}
        seen = torch.func.functional_call(self, fixed, (both, every)).log_softmax(1)
        if aim == "reverse":
            return own, -m * F.nll_loss(seen, labels)
        return own, m * (-seen.mean(1).mean() - math.log(m))

    def slope(self, encodings: Tensor, labels: Tensor, classes: Tensor | None = None) -> Tensor:
        """Compute the mean squared norm of ψ's slope, a scalar.

        The slope is that of the logit of an encoding's own modality less the mean of the others', which for two modalities
        is the logit whose slope R1 penalises; here at the encodings of every modality, as none is the real one.

        Args:
            encodings: (n, latent).
            labels: modality of each (n,).
            classes: class of each (n,), where ψ reads them.

        Returns:
            The mean over encodings, differentiable by ψ's weights.
        """
        with torch.enable_grad():
            at = encodings.detach().requires_grad_()
            logits = self(at, classes)
            m = logits.shape[1]
            others = torch.tensor([[j for j in range(m) if j != i] for i in range(m)], device=logits.device)
            margin = logits.gather(1, labels[:, None])[:, 0] - logits.gather(1, others[labels]).mean(1)
            (gradient,) = torch.autograd.grad(margin.sum(), at, create_graph=True)
            return gradient.square().sum(1).mean()


def note_discriminator(job: Job, discriminator: Discriminator) -> list[Result]:
    """Note how well ψ still tells the modalities apart: its cross-entropy and entropy on the training examples."""
    latents, m = latent_vectors(job), len(job.adapter.modalities)
    device = job.adapter.device
    classes = job.at.train.targets[job.at.fit].to(device) if discriminator.classes else None
    discriminator.eval()
    with torch.no_grad():
        said = to_cpu([discriminator(g.float().to(device), classes) for g in latents.values()])
    seen = [s.double().log_softmax(1) for s in said]
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
