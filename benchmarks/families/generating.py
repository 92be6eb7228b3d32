"""Families that generate, and that detect: a mixture of experts that samples its code, a detector with two forms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.families.family import Family, World, swap_fields
from collapsekit.tasks.regression import Regression

HIDDEN = 16


# A mixture of experts as of MMVAE: each modality has a code of its own, each code is to generate all modalities.

WIDTHS = {"a": 6, "b": 8, "c": 10}
CODE = 3


class Mixture(nn.Module):
    """Codes are drawn in eval mode too; asked for c, experts of a and b answer each."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({m: _net(width, 2 * CODE) for m, width in WIDTHS.items()})
        self.decoders = nn.ModuleDict({m: _net(CODE, width) for m, width in WIDTHS.items()})

    def posterior(self, m: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A code (n, CODE) that is drawn, its mean and log-variance."""
        mean, log_variance = self.encoders[m](x).chunk(2, 1)
        return mean + torch.randn_like(mean) * (log_variance / 2).exp(), mean, log_variance

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        codes = [self.posterior(m, x) for m, x in (("a", a), ("b", b))]
        drawn, mean, log_variance = (torch.stack(part, 1) for part in zip(*codes, strict=True))
        return {"c": self.decoders["c"](drawn), "mean": mean, "log_variance": log_variance}


def _net(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))


def _shared(world: World) -> Any:
    """All three show both bits, each with noise of its own: c most, as what is to be generated."""

    def shown(width: int, size: float) -> Tensor:
        half = width // 2
        return torch.cat([world.noisy(world.a, half, size=size), world.noisy(world.b, width - half, size=size)], 1)

    return {"a": shown(WIDTHS["a"], 0.7), "b": shown(WIDTHS["b"], 0.6), "label": shown(WIDTHS["c"], 2.0)}


def _divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1) / 2


def _negative_elbo(model: nn.Module, batch: Any) -> Tensor:
    """Every expert generates all three."""
    assert isinstance(model, Mixture)
    fields = {"a": batch["a"], "b": batch["b"], "c": batch["label"]}
    total = torch.zeros(())
    for m, x in fields.items():
        drawn, mean, log_variance = model.posterior(m, x)
        errors = [(model.decoders[k](drawn) - y).square().sum(1) / 2 for k, y in fields.items()]
        total = total + (torch.stack(errors).sum(0) + _divergence(mean, log_variance)).mean()
    return total / len(fields)


def _of_answer(model: nn.Module, batch: Any) -> Tensor:
    """Of c alone, by both other experts."""
    found = model(batch["a"], batch["b"])
    return (found["c"] - batch["label"][:, None]).square().sum(2).mean() / 2


# A detector as of torchvision: losses of a batch in training form, a list of mappings in eval form.


class Detector(nn.Module):
    """Two pictures of a scene, boxes at nine places."""

    def __init__(self) -> None:
        super().__init__()
        self.rgb, self.thermal = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(1, 8, 3, 2, 1)
        self.body = nn.Sequential(nn.Conv2d(16, HIDDEN, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(3))
        self.boxes, self.scores = nn.Linear(HIDDEN * 9, 4), nn.Conv2d(HIDDEN, 1, 1)

    def forward(self, images: list[Tensor], thermal: list[Tensor], targets: list[Any] | None = None) -> Any:
        seen = torch.relu(torch.cat([self.rgb(torch.stack(images)), self.thermal(torch.stack(thermal))], 1))
        maps = self.body(seen)
        scores = self.scores(maps).flatten(1)
        moved = self.boxes(maps.flatten(1))[:, None] + _centres()
        if not self.training:
            return [{"boxes": b, "scores": s.sigmoid()} for b, s in zip(moved, scores, strict=True)]
        assert targets is not None
        wanted = torch.stack([one["boxes"][0] for one in targets])
        near = (_centres()[:, :2] - wanted[:, None, :2]).square().sum(2).argmin(1)
        chosen = moved[torch.arange(len(near)), near]
        return {"loss_box": F.smooth_l1_loss(chosen, wanted), "loss_score": F.cross_entropy(scores, near)}


def _centres() -> Tensor:
    """Boxes (9, 4) about which what is found lies: centre, width, height in parts of the picture."""
    at = torch.tensor([1, 3, 5]) / 6
    y, x = torch.meshgrid(at, at, indexing="ij")
    return torch.stack([x.flatten(), y.flatten(), torch.full((9,), 0.3), torch.full((9,), 0.3)], 1)


class SurestBox(Regression):
    """The box of the highest score, (n, 4)."""

    def pick(self, output: Any, rows: int) -> Tensor:
        return torch.stack([one["boxes"][one["scores"].argmax()] for one in output])


def _scenes(world: World) -> Any:
    """Colour shows where something is from left to right, heat from top to bottom, along which less is to be told."""
    n = len(world.a)
    place = 0.5 + (torch.rand(n, 2, generator=world.draw) - 0.5) * torch.tensor([0.8, 0.44])
    box = torch.cat([place, torch.full((n, 2), 0.3)], 1)
    grid = (torch.arange(12) + 0.5) / 12
    column, row = ((grid - place[:, i, None]).abs() < 0.15 for i in range(2))
    images = torch.randn(n, 3, 12, 12, generator=world.draw) * 0.7 + column[:, None, None, :].float()
    thermal = torch.randn(n, 1, 12, 12, generator=world.draw) * 0.5 + row[:, None, :, None].float()
    return {"images": list(images), "thermal": list(thermal), "label": box}


def _in_lists(split: Any) -> Any:
    """Batches of 50 whose pictures are lists, as detectors take them."""
    rows = range(0, len(split["label"]), 50)
    return [{k: v[i : i + 50] for k, v in split.items()} for i in rows]


def _box_error(model: nn.Module, batch: Any) -> Tensor:
    boxes = SurestBox().pick(model(batch["images"], batch["thermal"]), len(batch["label"]))
    return F.mse_loss(boxes, batch["label"])


def _detection_loss(model: nn.Module, batch: Any) -> Tensor:
    was = model.training
    model.train()
    targets = [{"boxes": box[None]} for box in batch["label"]]
    losses = model(batch["images"], batch["thermal"], targets)
    model.train(was)
    return torch.stack(list(losses.values())).sum()


GENERATING = {
    family.name: family
    for family in (
        Family(
            "mixture of experts, generating",
            {
                "modalities": {"a": {"input": "a"}, "b": {"input": "b"}},
                "model": {"samples": 8},
                "task": "generative",
                "output": ["c", "mean", "log_variance"],
            },
            _shared,
            Mixture,
            _negative_elbo,
            swap_fields("b"),
            answer_loss=_of_answer,
            steps=600,
        ),
        Family(
            "detector",
            {
                "modalities": {"a": {"input": "images"}, "b": {"input": "thermal"}},
                "task": f"{__name__}:SurestBox",
            },
            _scenes,
            Detector,
            _detection_loss,
            swap_fields("thermal"),
            _in_lists,
            answer_loss=_box_error,
            steps=400,
        ),
    )
}
