"""AdamW without torch's compiler, which torch's own optimisers import when they are made: two seconds of computing."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

BETAS, EPS = (0.9, 0.999), 1e-8  # torch's defaults


class LightAdamW:
    """AdamW (Loshchilov and Hutter 2019) by the function that ``torch.optim.AdamW`` calls, with its defaults: the same bits.

    For weights of one group that are trained for a while and kept; its state cannot be saved.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, rate: float, weight_decay: float) -> None:
        self.parameters = list(parameters)
        self.rate, self.weight_decay = rate, weight_decay
        self._moments: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # by place: mean, mean square, steps taken

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Change every parameter that has a gradient. Raises RuntimeError where one is sparse, as torch's does."""
        which = [i for i, p in enumerate(self.parameters) if p.grad is not None]
        weights: list[Tensor] = [self.parameters[i] for i in which]
        gradients = [p.grad for p in weights if p.grad is not None]
        if any(g.is_sparse for g in gradients):
            raise RuntimeError("AdamW does not support sparse gradients")
        moments = [self._moments_of(i) for i in which]
        adam(
            weights,
            gradients,
            [mean for mean, _, _ in moments],
            [square for _, square, _ in moments],
            [],
            [steps for _, _, steps in moments],
            has_complex=any(p.is_complex() for p in weights),
            decoupled_weight_decay=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=self.rate,
            weight_decay=self.weight_decay,
            eps=EPS,
            maximize=False,
        )

    def _moments_of(self, place: int) -> tuple[Tensor, Tensor, Tensor]:
        if place not in self._moments:
            zero = torch.zeros_like(self.parameters[place], memory_format=torch.preserve_format)
            # The count stays on the CPU, where reading it waits for nothing.
            self._moments[place] = zero, zero.clone(), torch.tensor(0.0, dtype=torch.float32)
        return self._moments[place]
