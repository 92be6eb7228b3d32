"""Small models with every kind of encoder that treats a device in its own way, trained for a moment, and their data.

Nothing in them is random in training, as a device draws other numbers than the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

SIZES = {"train": 96, "val": 64, "test": 80}
CLASSES, WIDTH, WIDE, FUSED = 3, 6, 8, 10


class Tokens(nn.Module):
    """Attention over tokens, of which a mask leaves some out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 12, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = self.layer(x, src_key_padding_mask=~mask)
        return out


class Frames(nn.Module):
    """Self-attention by itself, with a scale that is a plain buffer and places that are not in the state_dict."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.register_buffer("scale", torch.full((WIDTH,), 0.5))
        self.register_buffer("places", torch.linspace(-1, 1, 4)[:, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale + self.places
        out: Tensor = self.attend(x, x, x)[0]
        return out


class Steps(nn.Module):
    """A recurrent layer, whose cells are fused where the device has a kernel for them."""

    def __init__(self, kind: type[nn.GRU] | type[nn.LSTM]) -> None:
        super().__init__()
        self.layer = kind(WIDTH, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)[0]
        return out


def _dense(width: int, out: int = WIDTH) -> nn.Module:
    return nn.Sequential(nn.Linear(width, out), nn.ReLU())


def _convolution(kind: int) -> nn.Module:
    convolution, norm = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d))[kind - 1]
    return nn.Sequential(convolution(1, WIDTH, 3, padding=1), norm(WIDTH), nn.ReLU())


# Of each kind of model its modalities: how an example's values are shaped, and how the config names the encoder.
KINDS: dict[str, dict[str, tuple[tuple[int, ...], dict[str, Any]]]] = {
    "linear": {"a": ((6,), {}), "b": ((5,), {}), "c": ((4,), {})},
    "convolution": {"image": ((1, 5, 5), {"scale": 255}), "sound": ((1, 7), {"channels": "first"})},
    "attention": {
        "words": ((5, WIDTH), {"input": ["words", "mask"], "mask": "mask", "pool": "last"}),
        "frames": ((4, WIDTH), {"pool": "first"}),
    },
    "embedding": {"text": ((6,), {"input": ["text", "mask"], "mask": "mask"}), "bag": ((5,), {}), "state": ((4,), {})},
    "recurrent": {"slow": ((5, WIDTH), {"pool": "last"}), "fast": ((5, WIDTH), {"pool": "last"})},
}
EVERYWHERE = tuple(kind for kind in KINDS if kind != "recurrent")  # fused cells need a kernel of the device's own
ENCODERS: dict[str, Any] = {
    "a": lambda: _dense(6),
    "b": lambda: _dense(5, WIDE),
    "c": lambda: _dense(4),
    "image": lambda: _convolution(2),
    "sound": lambda: _convolution(1),
    "words": Tokens,
    "frames": Frames,
    "text": lambda: nn.Embedding(8, WIDTH),
    "bag": lambda: nn.EmbeddingBag(8, WIDTH),
    "state": lambda: _dense(4),
    "slow": lambda: Steps(nn.GRU),
    "fast": lambda: Steps(nn.LSTM),
}


class Mixed(nn.Module):
    """An encoder a modality, a fusion with BatchNorm, a head."""

    def __init__(self, kind: str, views: Sequence[str], outputs: int) -> None:
        super().__init__()
        self.kind, self.views = kind, tuple(views)
        self.encoders = nn.ModuleDict({m: ENCODERS[m]() for m in views})
        self.fusion = nn.Sequential(
            nn.Linear(sum(WIDE if m == "b" else WIDTH for m in views), FUSED), nn.BatchNorm1d(FUSED), nn.Tanh()
        )
        self.head = nn.Linear(FUSED, outputs)

    def forward(self, **x: Tensor) -> Tensor:
        parts = []
        for m in self.views:
            z = self.encoders[m](x[m], x["mask"]) if m == "words" else self.encoders[m](x[m])
            if m == "text":
                z = z * x["mask"][..., None]
            if z.ndim > 2:
                z = z.flatten(2).mean(2) if m in ("image", "sound") else z.mean(1)
            parts.append(z)
        out: Tensor = self.head(self.fusion(torch.cat(parts, 1)))
        return out


def build(kind: str, views: Sequence[str] | None = None, outputs: int = CLASSES) -> nn.Module:
    """The factory that configs name."""
    return Mixed(kind, tuple(KINDS[kind]) if views is None else views, outputs)


def make_data(kind: str, task: str = "classification") -> dict[str, Tensor]:
    """Arrays by SPLIT/NAME. Every modality shows the class."""
    g = torch.Generator().manual_seed(0)
    means = {m: torch.randn(CLASSES, *shape, generator=g) for m, (shape, _) in KINDS[kind].items()}
    out: dict[str, Tensor] = {}
    for split, n in SIZES.items():
        label = torch.arange(n) % CLASSES
        for m, (shape, _) in KINDS[kind].items():
            x = means[m][label] + 0.8 * torch.randn(n, *shape, generator=g)
            if m in ("text", "bag"):
                x = (x * 2 + 4).round().clamp(0, 7).long()
            elif m == "image":
                x = (x * 40 + 128).clamp(0, 255).to(torch.uint8)
            out[f"{split}/{m}"] = x
        if kind in ("attention", "embedding"):
            length = KINDS[kind]["words" if kind == "attention" else "text"][0][0]
            out[f"{split}/mask"] = torch.arange(length) < torch.randint(2, length + 1, (n, 1), generator=g)
        out[f"{split}/label"] = label
        if task == "multilabel":
            out[f"{split}/label"] = F.one_hot(label, CLASSES).float()
        elif task == "regression":
            out[f"{split}/label"] = label[:, None] + 0.1 * torch.randn(n, 2, generator=g)
    return out


def make_project(folder: Path, kind: str, task: str = "classification") -> dict[str, Any]:
    """Data and a checkpoint in ``folder``, and the config that describes them. The last modality was shuffled in most of
    the training, so that there is something to repair."""
    folder.mkdir(parents=True, exist_ok=True)
    outputs, views = {"regression": 2, "contrastive": 4}.get(task, CLASSES), list(KINDS[kind])
    data = make_data(kind, task)
    save_file({k: v.contiguous() for k, v in data.items()}, folder / "data.safetensors")
    views_of = {"ckpt.pt": views, **({"ab.pt": views[:2]} if kind == "linear" else {})}
    for name, some in views_of.items():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = build(kind, some, outputs)
            _train(model, data, views[-1], task)
        torch.save(model.state_dict(), folder / name)
    kwargs = {"kind": kind, "outputs": outputs}
    config: dict[str, Any] = {
        "model": {"factory": "benchmarks.gpu.subjects:build", "kwargs": kwargs, "checkpoint": str(folder / "ckpt.pt")},
        "modalities": {m: {"encoder": f"encoders.{m}", **how} for m, (_, how) in KINDS[kind].items()},
        "fusion": "fusion",
        "head": "head",
        "task": task,
        "data": {"path": str(folder / "data.safetensors"), "batch_size": 64},
    }
    if kind == "linear":
        config["subsets"] = [
            {"modalities": views[:2], "checkpoint": str(folder / "ab.pt"), "kwargs": {"views": views[:2]}}
        ]
    return config


def _train(model: nn.Module, data: dict[str, Tensor], ignored: str, task: str) -> None:
    x = {k.removeprefix("train/"): v for k, v in data.items() if k.startswith("train/")}
    y = x.pop("label")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = {"multilabel": F.binary_cross_entropy_with_logits, "regression": F.mse_loss}
    for _ in range(40):
        given = {k: v / 255 if v.dtype == torch.uint8 else v for k, v in x.items()}
        given[ignored] = given[ignored][torch.randperm(len(y))]
        loss = losses.get(task, F.cross_entropy)(model(**given), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
