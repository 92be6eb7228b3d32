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


# Three streams that look at one another, as of MulT: text, sound and faces of different lengths, padded, with masks.

STREAMS = {"text": 4, "audio": 3, "video": 5}
LONGEST = {"text": 6, "audio": 10, "video": 8}


class Streams(nn.Module):
    """Each stream looks at both others; what is padded is looked at by none."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.ModuleDict({m: nn.Conv1d(width, HIDDEN, 1, bias=False) for m, width in STREAMS.items()})
        self.cross = nn.ModuleDict({f"{m}_{o}": Attend(HIDDEN) for m in STREAMS for o in STREAMS if o != m})
        self.out = nn.Sequential(nn.Linear(6 * HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def forward(
        self,
        text: Tensor,
        text_mask: Tensor,
        audio: Tensor,
        audio_mask: Tensor,
        video: Tensor,
        video_mask: Tensor,
    ) -> Tensor:
        there = {"text": text_mask, "audio": audio_mask, "video": video_mask}
        rows = {"text": text, "audio": audio, "video": video}
        steps = {m: self.project[m](x.transpose(1, 2)).transpose(1, 2) for m, x in rows.items()}
        parts = []
        for pair, attend in self.cross.items():
            m, other = pair.split("_")
            mixed = attend(steps[m], steps[other], there[other] == 0)
            parts.append((mixed * there[m][..., None]).sum(1) / there[m].sum(1, keepdim=True))
        out: Tensor = self.out(torch.cat(parts, 1))
        return out[:, 0]


def _streams(world: World) -> Any:
    """Three bits, one a stream: a, b, and a third; what is felt is their weighted sum."""
    bits = {"text": world.a, "audio": world.b, "video": torch.randint(0, 2, world.a.shape, generator=world.draw)}
    split: dict[str, Any] = {}
    felt = 0.4 * torch.randn(len(world.a), generator=world.draw)
    for m, bit in bits.items():
        count = torch.randint(2, LONGEST[m] + 1, (len(bit),), generator=world.draw).tolist()
        steps = world.noisy(bit, LONGEST[m], STREAMS[m], size=0.8)
        split[m] = [row[:size] for row, size in zip(steps, count, strict=True)]
        felt = felt + (2 * bit - 1)
    return {**split, "label": felt}


def _with_masks(batch: Any) -> Any:
    """A batch whose streams are padded to their longest, each with its mask."""
    out = {"label": batch["label"]}
    for m in STREAMS:
        out[m] = nn.utils.rnn.pad_sequence(batch[m], batch_first=True)
        sizes = torch.tensor([len(row) for row in batch[m]])
        out[f"{m}_mask"] = (torch.arange(out[m].shape[1]) < sizes[:, None]).float()
    return out


def _felt_loss(model: nn.Module, batch: Any) -> Tensor:
    """As such models are trained: the mean absolute error."""
    ready = _with_masks(batch)
    return F.l1_loss(model(**{k: v for k, v in ready.items() if k != "label"}), ready["label"])


def _padded_batches(split: Any) -> Any:
    rows = torch.arange(len(split["label"]))
    return [_with_masks(some(split, part)) for part in rows.split(50)]


# One stream of bytes and patches, as of a Perceiver: position codes beside them, latents that look at all.

BYTES, PATCHES, CHANNELS = 8, 12, 5


class Perceiver(nn.Module):
    """One array of tokens of two modalities, and codes of where each stands."""

    def __init__(self) -> None:
        super().__init__()
        places = torch.linspace(-1, 1, BYTES + PATCHES)[:, None] * torch.tensor([1.0, 2.0, 4.0]) * torch.pi
        self.register_buffer("codes", torch.cat([places.sin(), places.cos()], 1))
        self.kind = nn.Parameter(torch.randn(2, 4))
        self.latents = nn.Parameter(torch.randn(6, HIDDEN))
        self.read = Attend(CHANNELS + 6 + 4)
        self.think = nn.TransformerEncoderLayer(HIDDEN, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(HIDDEN, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        kind = self.kind.repeat_interleave(torch.tensor([BYTES, PATCHES]), 0)
        about = torch.cat([self.codes, kind], 1).expand(len(inputs), -1, -1)  # type: ignore[list-item]
        latents = self.latents.expand(len(inputs), -1, -1)
        out: Tensor = self.head(self.think(self.read(latents, torch.cat([inputs, about], 2))).mean(1))
        return out


def _arrays(world: World) -> Any:
    """Bytes are one of two symbols a bit, flipped now and then; patches have a mean."""
    flip = torch.rand(len(world.a), BYTES, generator=world.draw) < 0.3
    symbol = torch.where(flip, 1 - world.a[:, None], world.a[:, None])
    bytes_ = F.one_hot(2 * symbol + torch.randint(0, 2, symbol.shape, generator=world.draw), CHANNELS).float()
    patches = world.noisy(world.b, PATCHES, CHANNELS, size=0.3)
    return {"inputs": torch.cat([bytes_, patches], 1), "label": world.label}


def _swap_places(start: int, stop: int) -> Any:
    def swap(split: Any, order: Tensor) -> Any:
        inputs = split["inputs"].clone()
        inputs[:, start:stop] = split["inputs"][order][:, start:stop]
        return {**split, "inputs": inputs}

    return swap


def _class_loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch["inputs"]), batch["label"])


# Graphs as of torch_geometric: objects whose nodes lie in one tensor once they are collated.


class Graph:
    """A graph, or many as one: nodes, edges, which node is whose, a vector beside it, a class."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


def join_graphs(graphs: list[Any]) -> Graph:
    """Make one graph of many, as Batch.from_data_list does: node numbers of edges move on."""
    sizes = torch.tensor([len(g.x) for g in graphs])
    starts = (sizes.cumsum(0) - sizes).tolist()
    return Graph(
        x=torch.cat([g.x for g in graphs]),
        edge_index=torch.cat([g.edge_index + start for g, start in zip(graphs, starts, strict=True)], 1),
        batch=torch.arange(len(graphs)).repeat_interleave(sizes),
        vector=torch.stack([g.vector for g in graphs]),
        y=torch.cat([g.y for g in graphs]),
    )


class GraphNet(nn.Module):
    """Messages along edges, a mean over each graph's nodes, and a vector beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.near = nn.Linear(4, HIDDEN), nn.Linear(4, HIDDEN)
        self.vector = nn.Linear(6, HIDDEN)
        self.head = nn.Sequential(nn.Linear(2 * HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 4))

    def forward(self, data: Graph) -> Tensor:
        source, target = data.edge_index
        near = torch.zeros_like(data.x).index_add(0, target, data.x[source])
        nodes = torch.relu(self.own(data.x) + self.near(near))
        count = torch.bincount(data.batch, minlength=len(data.vector)).clamp_min(1)
        graphs = torch.zeros(len(count), HIDDEN).index_add(0, data.batch, nodes) / count[:, None]
        out: Tensor = self.head(torch.cat([self.vector(data.vector), graphs], 1))
        return out


def _graphs(world: World) -> Any:
    """Rings of three to eight nodes."""
    sizes = torch.randint(3, 9, (len(world.a),), generator=world.draw).tolist()
    nodes = [
        torch.randn(size, 4, generator=world.draw) + 0.6 * (2 * bit - 1)
        for size, bit in zip(sizes, world.b.tolist(), strict=True)
    ]
    rings = [torch.stack([torch.arange(s), (torch.arange(s) + 1) % s]) for s in sizes]
    return {
        "vector": world.noisy(world.a, 6, size=0.8),
        "x": nodes,
        "edge_index": rings,
        "label": world.label,
    }


def _as_graphs(split: Any) -> list[Graph]:
    names = ("vector", "x", "edge_index")
    rows = zip(*(split[name] for name in names), split["label"], strict=True)
    return [Graph(vector=v, x=x, edge_index=e, y=y[None]) for v, x, e, y in rows]


def _graph_loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(join_graphs(_as_graphs(batch))), batch["label"])


def _graph_loader(split: Any) -> Any:
    return torch.utils.data.DataLoader(_as_graphs(split), batch_size=64, collate_fn=join_graphs)  # type: ignore[arg-type]


# Encoders of each modality and one of all that agree, as of GMC: classes are read off the joint one.


class Agreement(nn.Module):
    """A network for each modality and one for both, one projection for all three, contrasted; a head on the joint one."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(6, HIDDEN), nn.ReLU())
        self.b = nn.Sequential(nn.Linear(8, HIDDEN), nn.ReLU())
        self.joint = nn.Sequential(nn.Linear(14, HIDDEN), nn.ReLU())
        self.shared = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 8))
        self.classify = nn.Linear(8, 4)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Any]:
        joint = self.shared(self.joint(torch.cat([a, b], 1)))
        alone = [self.shared(self.a(a)), self.shared(self.b(b))]
        return {"logits": self.classify(joint), "representations": [joint, *alone]}


def _pairs(world: World) -> Any:
    return {
        "a": world.noisy(world.a, 6, size=0.8),
        "b": world.noisy(world.b, 8, size=0.7),
        "label": world.label,
    }


def _named_classes(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch["a"], batch["b"])["logits"], batch["label"])


def _agreement_loss(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy, and each modality's representation against the joint ones of the batch."""
    found = model(batch["a"], batch["b"])
    joint, *alone = (F.normalize(z, dim=1) for z in found["representations"])
    rows = torch.arange(len(joint))
    contrasts = [F.cross_entropy(z @ joint.T / 0.2, rows) for z in alone]
    return F.cross_entropy(found["logits"], batch["label"]) + 0.1 * torch.stack(contrasts).sum()


STRUCTURES = {
    family.name: family
    for family in (
        Family(
            "U-Net on four sequences",
            {
                "modalities": {m: {"input": "image", "slice": f"[{i}]"} for i, m in enumerate(SEQUENCES)},
                "task": "dense",
                "task_options": {"points": 64},
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
        Family(
            "three streams with masks",
            {
                "modalities": {m: {"input": [m, f"{m}_mask"]} for m in STREAMS},
                "task": "regression",
                "metric": "mae",
            },
            _streams,
            Streams,
            _felt_loss,
            swap_fields("video"),
            _padded_batches,
            swaps={m: swap_fields(m) for m in STREAMS},
            ignored=("video",),
        ),
        Family(
            "joint encoder, contrasted",
            {"modalities": {"a": {"input": "a"}, "b": {"input": "b"}}},
            _pairs,
            Agreement,
            _agreement_loss,
            swap_fields("b"),
            answer_loss=_named_classes,
        ),
        Family(
            "graphs",
            {
                "modalities": {"a": {"input": "vector"}, "b": {"input": ["x", "edge_index"]}},
                "call": "dict",
                "data": {"edit": "examples", "label": "y"},
            },
            _graphs,
            GraphNet,
            _graph_loss,
            swap_fields("x", "edge_index"),
            _graph_loader,
        ),
        Family(
            "latents on one stream",
            {
                "modalities": {
                    "a": {"input": "inputs", "slice": f"[:{BYTES}]"},
                    "b": {"input": "inputs", "slice": f"[{BYTES}:]"},
                }
            },
            _arrays,
            Perceiver,
            _class_loss,
            _swap_places(BYTES, BYTES + PATCHES),
        ),
    )
}
