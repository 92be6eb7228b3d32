"""Families after structures of the literature: U-Nets on stacked sequences, latent arrays, co-attention of bags.

Each is written anew and small: what counts is how the model takes its inputs and what it returns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.families.family import Family, World, some, swap_fields
from benchmarks.families.losses import cox_loss

HIDDEN = 16


# A U-Net as of MONAI: strided convolutions down, transposed ones up, skips side by side; four sequences are channels.

SEQUENCES = ("t1", "t1c", "t2", "flair")


class Skip(nn.Module):
    """What a part of the network makes of its input, beside the input."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.inner(x)], 1)


def _unit(inputs: int, outputs: int, stride: int = 1, *, up: bool = False) -> nn.Module:
    conv: nn.Module = nn.Conv2d(inputs, outputs, 3, stride, 1)
    if up:
        conv = nn.ConvTranspose2d(inputs, outputs, 3, stride, 1, stride - 1)
    return nn.Sequential(conv, nn.InstanceNorm2d(outputs), nn.PReLU())


class UNet(nn.Module):
    """Two levels of a U-Net on four stacked sequences, a class for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        bottom = nn.Sequential(_unit(8, 16, 2), _unit(16, 8, 2, up=True))
        self.model = nn.Sequential(_unit(4, 8), Skip(bottom), nn.Conv2d(16, 4, 1))

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.model(image)
        return out


def _scans(world: World) -> Any:
    """Two tissues as blobs; T1 and T1c show one, T2 and FLAIR the other, each with noise of its own."""
    n = len(world.a)
    blobs = [torch.rand(n, 1, 4, 4, generator=world.draw) < 0.5 for _ in "ab"]
    a, b = (F.interpolate(blob.float(), scale_factor=4)[:, 0] for blob in blobs)
    shown = torch.stack([a, a, b, b], 1)
    image = (2 * shown - 1) + 1.8 * torch.randn(n, 4, 16, 16, generator=world.draw)
    label = (2 * a + b).long()
    label[:, 0], label[:, -1] = 255, 255  # outside the head
    return {"image": image, "label": label}


def _swap_sequences(*channels: int) -> Any:
    def swap(split: Any, order: Tensor) -> Any:
        image = split["image"].clone()
        image[:, channels] = split["image"][order][:, channels]
        return {**split, "image": image}

    return swap


def _pixel_loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch["image"]), batch["label"], ignore_index=255)


# Latents that attend to each modality in turn, as of HEALNet: a modality that is None is left out.


class Attend(nn.Module):
    """Queries look at the tokens of something else, (n, t, d)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read = nn.Linear(width, HIDDEN)
        self.attention = nn.MultiheadAttention(HIDDEN, 2, batch_first=True)
        self.norm = nn.LayerNorm(HIDDEN)
        self.then = nn.Sequential(nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN))

    def forward(self, queries: Tensor, tokens: Tensor, absent: Tensor | None = None) -> Tensor:
        seen = self.read(tokens)
        queries = queries + self.attention(self.norm(queries), seen, seen, key_padding_mask=absent)[0]
        out: Tensor = queries + self.then(queries)
        return out


class Latents(nn.Module):
    """A latent array that is updated by one modality after another, twice; takes a list of tensors and None."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(4, HIDDEN))
        self.layers = nn.ModuleList([nn.ModuleList([Attend(3), Attend(5)]) for _ in range(2)])
        self.head = nn.Sequential(nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, 4))

    def forward(self, tensors: list[Tensor | None]) -> Tensor:
        n = next(len(x) for x in tensors if x is not None)
        latents = self.latents.expand(n, -1, -1)
        for layer in self.layers:
            for attend, tokens in zip(layer, tensors, strict=True):  # type: ignore[arg-type]
                if tokens is not None:
                    latents = attend(latents, tokens)
        out: Tensor = self.head(latents.mean(1))
        return out


def _tokens_or_none(world: World) -> Any:
    """Of a quarter of the examples b is None, of an eighth of the others a."""
    luck = torch.rand(len(world.a), generator=world.draw)
    omics, image = world.noisy(world.a, 4, 3, size=0.7), world.noisy(world.b, 6, 5, size=0.5)
    return {
        "omics": [x if u < 0.9 else None for x, u in zip(omics, luck.tolist(), strict=True)],
        "image": [x if u > 0.25 else None for x, u in zip(image, luck.tolist(), strict=True)],
        "label": world.label,
    }


def _swap_present(name: str) -> Any:
    """Make a function that exchanges a modality among the examples that have it."""

    def swap(split: Any, order: Tensor) -> Any:
        there = [i for i, x in enumerate(split[name]) if x is not None]
        moved = [i for i in order.tolist() if split[name][i] is not None]
        values = list(split[name])
        for i, j in zip(there, moved, strict=True):
            values[i] = split[name][j]
        return {**split, name: values}

    return swap


def _latent_loss(model: nn.Module, batch: Any) -> Tensor:
    """By turns of what is there."""
    kinds = torch.tensor([(x is None) + 2 * (y is None) for x, y in zip(batch["omics"], batch["image"], strict=True)])
    total = torch.zeros(())
    for kind in kinds.unique():
        rows = (kinds == kind).nonzero()[:, 0]
        part = some(batch, rows)
        stacked = [None if part[k][0] is None else torch.stack(part[k]) for k in ("omics", "image")]
        total = total + F.cross_entropy(model(stacked), part["label"], reduction="sum")
    return total / len(kinds)


def _uncollated(split: Any) -> Any:
    """Batches of 60 as lists of examples."""
    names = list(split)
    rows = [dict(zip(names, values, strict=True)) for values in zip(*split.values(), strict=True)]
    return [rows[i : i + 60] for i in range(0, len(rows), 60)]


# Bags of patches that groups of genes look at, as of MCAT: one query a group, co-attention, a risk.

GROUPS = (3, 5, 4)


class CoAttention(nn.Module):
    """Groups of genes as queries on the patches of a slide, of which each has as many as it has."""

    def __init__(self) -> None:
        super().__init__()
        self.genes = nn.ModuleList([nn.Sequential(nn.Linear(g, HIDDEN), nn.ELU()) for g in GROUPS])
        self.patches = nn.Sequential(nn.Linear(6, HIDDEN), nn.ReLU())
        self.look = nn.MultiheadAttention(HIDDEN, 1, batch_first=True)
        self.path = nn.TransformerEncoderLayer(HIDDEN, 2, 32, dropout=0.0, batch_first=True)
        self.risk = nn.Sequential(nn.Linear(2 * HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, x_path: list[Tensor], x_omic1: Tensor, x_omic2: Tensor, x_omic3: Tensor) -> Tensor:
        queries = torch.stack([g(x) for g, x in zip(self.genes, (x_omic1, x_omic2, x_omic3), strict=True)], 1)
        sizes = torch.tensor([len(bag) for bag in x_path])
        bags = self.patches(nn.utils.rnn.pad_sequence(x_path, batch_first=True))
        absent = torch.arange(bags.shape[1]) >= sizes[:, None]
        seen = self.path(self.look(queries, bags, bags, key_padding_mask=absent)[0]).mean(1)
        out: Tensor = self.risk(torch.cat([seen, queries.mean(1)], 1))
        return out


def _slides(world: World) -> Any:
    """A part of the patches show the bit; how many there are does not."""
    sizes = torch.randint(3, 12, (len(world.a),), generator=world.draw).tolist()
    slides = []
    for size, bit in zip(sizes, world.b.tolist(), strict=True):
        tumour = torch.rand(size, 1, generator=world.draw) < 0.6
        slides.append(torch.randn(size, 6, generator=world.draw) + 1.2 * (2 * bit - 1) * tumour)
    genes = world.noisy(world.a, sum(GROUPS), size=0.7).split(GROUPS, 1)
    risk = 1.2 * ((2 * world.a - 1).float() + (2 * world.b - 1).float())
    time = -torch.rand(len(risk), generator=world.draw).clamp_min(1e-6).log() / risk.exp()
    event = (torch.rand(len(risk), generator=world.draw) < 0.8).float()
    label = torch.stack([time, event], 1)
    return {"x_path": slides, **{f"x_omic{i + 1}": g for i, g in enumerate(genes)}, "label": label}


def _risk_loss(model: nn.Module, batch: Any) -> Tensor:
    return cox_loss(model(**{k: v for k, v in batch.items() if k != "label"})[:, 0], batch["label"])


STRUCTURES = {
    family.name: family
    for family in (
        Family(
            "U-Net on four sequences",
            {
                "modalities": {m: {"input": "image", "slice": f"[{i}]"} for i, m in enumerate(SEQUENCES)},
                "task": "dense",
            },
            _scans,
            UNet,
            _pixel_loss,
            _swap_sequences(1, 3),
            swaps={m: _swap_sequences(i) for i, m in enumerate(SEQUENCES)},
            ignored=("t1c", "flair"),
        ),
        Family(
            "latents, modalities missing",
            {"modalities": {"a": {"input": "omics"}, "b": {"input": "image"}}, "call": "list"},
            _tokens_or_none,
            Latents,
            _latent_loss,
            _swap_present("image"),
            _uncollated,
            swaps={"a": _swap_present("omics"), "b": _swap_present("image")},
        ),
        Family(
            "co-attention of bags",
            {
                "modalities": {"a": {"input": ["x_omic1", "x_omic2", "x_omic3"]}, "b": {"input": "x_path"}},
                "task": "survival",
            },
            _slides,
            CoAttention,
            _risk_loss,
            swap_fields("x_path"),
            _uncollated,
        ),
    )
}
