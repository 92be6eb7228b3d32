"""The families: each a network of a few lines, data as such models have them, and YAML alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.families.family import Family, World, swap_fields
from benchmarks.families.losses import cox_loss

HIDDEN = 16


def _classes(model: nn.Module, batch: Any) -> Tensor:
    inputs = {k: v for k, v in batch.items() if k not in ("label", "segment")}
    return F.cross_entropy(model(**inputs), batch["label"])


class Head(nn.Module):
    """A small network on features side by side."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))

    def forward(self, *parts: Tensor) -> Tensor:
        out: Tensor = self.net(torch.cat(parts, 1))
        return out


class Cameras(nn.Module):
    """One backbone for two cameras, an action of several steps."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fusion = nn.Sequential(nn.Linear(12, HIDDEN), nn.ReLU())
        self.head = nn.Linear(HIDDEN, 8)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        parts = [self.backbone(batch[f"images.{camera}"]) for camera in ("top", "wrist")]
        out: Tensor = self.head(self.fusion(torch.cat(parts, 1)))
        return out.view(-1, 4, 2)


def _cameras(world: World) -> Any:
    steps = torch.stack([(2 * world.a - 1).float(), (2 * world.b - 1).float()], 1)
    action = steps[:, None].repeat(1, 4, 1) + 0.3 * torch.randn(len(steps), 4, 2, generator=world.draw)
    return {
        "images.top": world.noisy(world.a, 1, 8, 8, size=0.6),
        "images.wrist": world.noisy(world.b, 1, 8, 8, size=0.6),
        "action": action,
    }


class Stacked(nn.Module):
    """Two scans as channels of one tensor, mixed by the first convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(2, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = Head(8, 4)

    def forward(self, scans: Tensor) -> Tensor:
        out: Tensor = self.head(self.conv(scans))
        return out


def _stacked(world: World) -> Any:
    scans = torch.stack([world.noisy(world.a, 8, 8, size=0.5), world.noisy(world.b, 8, 8, size=0.5)], 1)
    return {"scans": scans, "label": world.label}


def _swap_channel(split: Any, order: Tensor) -> Any:
    scans = split["scans"].clone()
    scans[:, 1] = scans[order, 1]
    return {**split, "scans": scans}


class Stream(nn.Module):
    """One embedding and one transformer layer over the tokens of both."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, HIDDEN)
        self.place = nn.Parameter(torch.randn(12, HIDDEN) * 0.1)
        self.layer = nn.TransformerEncoderLayer(HIDDEN, 2, 32, dropout=0.0, batch_first=True)
        self.head = Head(HIDDEN, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(self.table(tokens) + self.place).mean(1))
        return out


def _tokens(world: World, bit: Tensor, count: int, sure: float = 0.67) -> Tensor:
    """Tokens of which a part ``sure`` say the bit."""
    right = torch.rand(len(bit), count, generator=world.draw) < sure
    said = torch.where(right, bit[:, None], 1 - bit[:, None])
    return 20 * said + torch.randint(0, 20, (len(bit), count), generator=world.draw)


def _stream(world: World) -> Any:
    kind = torch.tensor([0] * 6 + [1] * 6).expand(len(world.a), -1)
    tokens = torch.cat([_tokens(world, world.a, 6), _tokens(world, world.b, 6)], 1)
    return {"tokens": tokens, "segment": kind.clone(), "label": world.label}


def _swap_tokens(split: Any, order: Tensor) -> Any:
    tokens = split["tokens"].clone()
    tokens[:, 6:] = tokens[order, 6:]
    return {**split, "tokens": tokens}


class Sentiment(nn.Module):
    """Text of several lengths, packed, and audio beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.text = nn.LSTM(4, 8, batch_first=True)
        self.audio = nn.LSTM(3, 8, batch_first=True)
        self.fusion = nn.Sequential(nn.Linear(16, HIDDEN), nn.ReLU())
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, text: Tensor, lengths: Tensor, audio: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(text, lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (told, _) = self.text(packed)
        _, (heard, _) = self.audio(audio)
        out: Tensor = self.head(self.fusion(torch.cat([told[-1], heard[-1]], 1)))
        return out[:, 0]


def _sentiment(world: World) -> Any:
    lengths = torch.randint(2, 8, (len(world.a),), generator=world.draw)
    text = world.noisy(world.a, 7, 4, size=0.7) * (torch.arange(7) < lengths[:, None])[..., None]
    label = (2 * world.a - 1).float() + (2 * world.b - 1).float()
    return {
        "text": text,
        "lengths": lengths,
        "audio": world.noisy(world.b, 5, 3, size=0.7),
        "label": label + 0.3 * torch.randn(len(label), generator=world.draw),
    }


class Gaps(nn.Module):
    """Lab values that a third of the examples lack, which the model replaces by a learned vector."""

    def __init__(self) -> None:
        super().__init__()
        self.notes, self.labs = nn.Linear(6, 8), nn.Linear(6, 8)
        self.gone = nn.Parameter(torch.zeros(8))
        self.fusion = nn.Sequential(nn.Linear(16, HIDDEN), nn.ReLU())
        self.head = nn.Linear(HIDDEN, 4)

    def forward(self, notes: Tensor, labs: Tensor) -> Tensor:
        there = ~labs.isnan().any(1, keepdim=True)
        read = torch.where(there, self.labs(labs.nan_to_num(0.0)), self.gone)
        out: Tensor = self.head(self.fusion(torch.cat([self.notes(notes), read], 1)))
        return out


def _gaps(world: World) -> Any:
    labs = world.noisy(world.b, 6, size=0.8)
    labs[torch.rand(len(labs), generator=world.draw) < 0.33] = float("nan")
    return {"notes": world.noisy(world.a, 6, size=0.8), "labs": labs, "label": world.label}


def _swap_labs(split: Any, order: Tensor) -> Any:
    there = ~split["labs"].isnan().any(1)
    labs, rows = split["labs"].clone(), there.nonzero()[:, 0]
    labs[rows] = labs[rows[order[order < len(rows)]]]
    return {**split, "labs": labs}


class Bags(nn.Module):
    """Patches of a slide, as many as there are, and omics: a risk."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.omics = nn.Linear(4, 8), nn.Linear(6, 8)
        self.head = Head(16, 1)

    def forward(self, omics: Tensor, slide: list[Tensor]) -> Tensor:
        bags = torch.stack([self.patch(bag).mean(0) for bag in slide])
        out: Tensor = self.head(self.omics(omics), bags)
        return out


def _bags(world: World) -> Any:
    sizes = torch.randint(2, 8, (len(world.a),), generator=world.draw).tolist()
    slide = [
        torch.randn(size, 4, generator=world.draw) + 0.8 * (2 * bit - 1)
        for size, bit in zip(sizes, world.b.tolist(), strict=True)
    ]
    risk = 1.2 * ((2 * world.a - 1).float() + (2 * world.b - 1).float())
    time = -torch.rand(len(risk), generator=world.draw).clamp_min(1e-6).log() / risk.exp()
    event = (torch.rand(len(risk), generator=world.draw) < 0.8).float()
    return {"omics": world.noisy(world.a, 6, size=0.8), "slide": slide, "label": torch.stack([time, event], 1)}


def _cox(model: nn.Module, batch: Any) -> Tensor:
    return cox_loss(model(batch["omics"], batch["slide"])[:, 0], batch["label"])


class Shop(nn.Module):
    """Scores of all items, by the customer's number and a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.who, self.picture = nn.Embedding(40, 8), nn.Linear(6, 8)
        self.fusion = nn.Sequential(nn.Linear(16, HIDDEN), nn.ReLU())
        self.items = nn.Linear(HIDDEN, 24)

    def forward(self, who: Tensor, picture: Tensor) -> Tensor:
        out: Tensor = self.items(self.fusion(torch.cat([self.who(who), self.picture(picture)], 1)))
        return out


def _shop(world: World) -> Any:
    who = 20 * world.a + torch.randint(0, 20, (len(world.a),), generator=world.draw)
    label = 6 * world.label + torch.randint(0, 6, (len(who),), generator=world.draw)
    return {"who": who, "picture": world.noisy(world.b, 6, size=0.8), "label": label}


class Lengths(nn.Module):
    """Token ids of several lengths, padded with 0 in each batch, and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(41, 8, padding_idx=0)
        self.vector = nn.Linear(6, 8)
        self.head = Head(16, 4)

    def forward(self, vector: Tensor, ids: Tensor) -> Tensor:
        there = (ids > 0).float()[..., None]
        read = (self.table(ids) * there).sum(1) / there.sum(1).clamp_min(1)
        out: Tensor = self.head(self.vector(vector), read)
        return out


def _ids(world: World, bit: Tensor) -> list[Tensor]:
    count = torch.randint(3, 10, (len(bit),), generator=world.draw).tolist()
    tokens = 1 + _tokens(world, bit, 9, sure=0.85)
    return [row[:size] for row, size in zip(tokens, count, strict=True)]


def _lengths(world: World) -> Any:
    return {"vector": world.noisy(world.a, 6, size=0.8), "ids": _ids(world, world.b), "label": world.label}


def _padded(ids: list[Tensor]) -> Tensor:
    return nn.utils.rnn.pad_sequence(ids, batch_first=True)


def _length_loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch["vector"], _padded(batch["ids"])), batch["label"])


def _in_batches(split: Any) -> Any:
    """Batches of 50, each padded to its own longest."""
    rows = range(0, len(split["label"]), 50)
    parts = [{k: v[i : i + 50] for k, v in split.items()} for i in rows]
    return [{**part, "ids": _padded(part["ids"])} for part in parts]


WORDS = ("low", "high")


class Texts(torch.utils.data.Dataset[Any]):
    """Examples of text and a vector, which only their collate_fn makes into tensors."""

    def __init__(self, split: Any) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split["label"])

    def __getitem__(self, i: int) -> Any:
        words = " ".join(f"{WORDS[int(t) // 21]}{int(t) % 20}" for t in self.split["ids"][i])
        return {"prompt": words, "vector": self.split["vector"][i], "label": int(self.split["label"][i])}


def _tokenise(examples: list[Any]) -> Any:
    def number(word: str) -> int:
        kind = next(i for i, name in enumerate(WORDS) if word.startswith(name))
        return 1 + 20 * kind + int(word.removeprefix(WORDS[kind]))

    ids = [torch.tensor([number(w) for w in e["prompt"].split()]) for e in examples]
    return {
        "ids": _padded(ids),
        "vector": torch.stack([e["vector"] for e in examples]),
        "label": torch.tensor([e["label"] for e in examples]),
    }


def _as_loader(split: Any) -> Any:
    return torch.utils.data.DataLoader(Texts(split), batch_size=64, collate_fn=_tokenise)


class Early(nn.Module):
    """A table whose columns are mixed from the first layer on."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


def _early(world: World) -> Any:
    x = torch.cat([world.noisy(world.a, 6, size=0.8), world.noisy(world.b, 6, size=0.8)], 1)
    return {"x": x, "label": world.label}


def _swap_columns(split: Any, order: Tensor) -> Any:
    x = split["x"].clone()
    x[:, 6:] = x[order, 6:]
    return {**split, "x": x}


def _as_tuples(split: Any) -> Any:
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(split["x"], split["label"]), batch_size=64)


def _chunk_loss(model: nn.Module, batch: Any) -> Tensor:
    return F.mse_loss(model({k: v for k, v in batch.items() if k != "action"}), batch["action"])


def _value_loss(model: nn.Module, batch: Any) -> Tensor:
    return F.mse_loss(model(batch["text"], batch["lengths"], batch["audio"]), batch["label"])


def _pixel_loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch["rgb"], batch["depth"]), batch["label"], ignore_index=255)


class Segments(nn.Module):
    """Two maps, each with a convolution of its own, a class for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.rgb, self.depth = nn.Conv2d(3, 6, 1), nn.Conv2d(1, 6, 1)
        self.fuse = nn.Sequential(nn.Conv2d(12, HIDDEN, 1), nn.ReLU())
        self.head = nn.Conv2d(HIDDEN, 4, 1)

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        out: Tensor = self.head(self.fuse(torch.cat([self.rgb(rgb), self.depth(depth)], 1)))
        return out


def _segments(world: World) -> Any:
    n = len(world.a)
    a, b = (torch.randint(0, 2, (n, 8, 8), generator=world.draw) for _ in "ab")
    rgb = 1.2 * (2 * a - 1).float()[:, None] + torch.randn(n, 3, 8, 8, generator=world.draw)
    depth = 1.2 * (2 * b - 1).float()[:, None] + 0.5 * torch.randn(n, 1, 8, 8, generator=world.draw)
    label = 2 * a + b
    label[:, 0] = 255
    return {"rgb": rgb, "depth": depth, "label": label}


ZOO = {
    family.name: family
    for family in (
        Family(
            "cameras on one backbone",
            {
                "modalities": {
                    "a": {"encoder": "backbone", "input": "images.top"},
                    "b": {"encoder": "backbone", "input": "images.wrist"},
                },
                "fusion": "fusion",
                "call": "dict",
                "task": "regression",
                "data": {"label": "action"},
            },
            _cameras,
            Cameras,
            _chunk_loss,
            swap_fields("images.wrist"),
        ),
        Family(
            "stacked channels",
            {"modalities": {"a": {"input": "scans", "slice": "[0]"}, "b": {"input": "scans", "slice": "[1]"}}},
            _stacked,
            Stacked,
            _classes,
            _swap_channel,
        ),
        Family(
            "one stream of tokens",
            {
                "modalities": {
                    "a": {"input": "tokens", "where": "segment == 0"},
                    "b": {"input": "tokens", "where": "segment == 1"},
                }
            },
            _stream,
            Stream,
            _classes,
            _swap_tokens,
        ),
        Family(
            "packed sequences",
            {
                "modalities": {
                    "a": {"encoder": "text", "input": ["text", "lengths"], "select": 1},
                    "b": {"encoder": "audio", "input": "audio", "select": 1},
                },
                "fusion": "fusion",
                "task": "regression",
            },
            _sentiment,
            Sentiment,
            _value_loss,
            swap_fields("audio"),
        ),
        Family(
            "missing values",
            {
                "modalities": {"a": {"encoder": "notes", "input": "notes"}, "b": {"input": "labs"}},
                "fusion": "fusion",
            },
            _gaps,
            Gaps,
            _classes,
            _swap_labs,
        ),
        Family(
            "bags and survival",
            {"modalities": {"a": {"input": "omics"}, "b": {"input": "slide"}}, "task": "survival"},
            _bags,
            Bags,
            _cox,
            swap_fields("slide"),
            lambda split: [split],
        ),
        Family(
            "scores of items",
            {
                "modalities": {
                    "a": {"encoder": "who", "input": "who"},
                    "b": {"encoder": "picture", "input": "picture"},
                },
                "fusion": "fusion",
                "task": "ranking",
            },
            _shop,
            Shop,
            _classes,
            swap_fields("picture"),
        ),
        Family(
            "padded in each batch",
            {"modalities": {"a": {"encoder": "vector", "input": "vector"}, "b": {"input": "ids"}}},
            _lengths,
            Lengths,
            _length_loss,
            swap_fields("ids"),
            _in_batches,
        ),
        Family(
            "collated of examples",
            {
                "modalities": {"a": {"encoder": "vector", "input": "vector"}, "b": {"input": "prompt"}},
                "data": {"edit": "examples"},
            },
            _lengths,
            Lengths,
            _length_loss,
            swap_fields("ids"),
            _as_loader,
        ),
        Family(
            "early fusion, tuples",
            {
                "modalities": {"a": {"input": "x", "slice": "[:6]"}, "b": {"input": "x", "slice": "[6:]"}},
                "batch": ["x", "label"],
                "call": "positional",
            },
            _early,
            Early,
            _classes,
            _swap_columns,
            _as_tuples,
        ),
        Family(
            "a class for each pixel",
            {
                "modalities": {"a": {"encoder": "rgb", "input": "rgb"}, "b": {"encoder": "depth", "input": "depth"}},
                "fusion": "fuse",
                "task": "dense",
            },
            _segments,
            Segments,
            _pixel_loss,
            swap_fields("depth"),
        ),
    )
}
