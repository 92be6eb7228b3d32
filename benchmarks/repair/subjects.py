"""Models that real training left deaf: one modality's examples are partly another example's, in every split."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit.adapters.build import preserve_rng_state, seed_everything
from collapsekit.data.base import SPLITS
from collapsekit.demo.make import demo_data
from collapsekit.demo.model import FusionModel

FOLDER = Path(os.environ.get("COLLAPSEKIT_DATA", Path(__file__).parents[3] / "shared" / "data"))
SETS = ("mfeat", "avmnist1500", "avmnist3000")
WEAK = {"mfeat": "kar", "avmnist1500": "audio", "avmnist3000": "audio"}
TRAINED = {"mfeat": 300}  # training examples, where not all


@dataclass(frozen=True)
class Subject:
    """Which data, how much of the weak modality is another example's, and the seed of noise and training."""

    data: str
    noise: float
    seed: int


def _encoder(features: int) -> nn.Sequential:
    convolutions = [nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*convolutions, nn.Linear(features, 64), nn.ReLU())


class AudioVision(nn.Module):
    """An image and a log-mel spectrogram in, ten logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"image": _encoder(16 * 7 * 7), "audio": _encoder(16 * 10 * 16)})
        self.fusion, self.head = nn.Sequential(nn.Linear(128, 64), nn.ReLU()), nn.Linear(64, 10)

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        logits: Tensor = self.head(
            self.fusion(torch.cat([self.encoders["image"](image), self.encoders["audio"](audio)], 1))
        )
        return logits


def build(data: str) -> nn.Module:
    """What the configs name as model.factory."""
    return FusionModel() if data == "mfeat" else AudioVision()


def arrays_of(subject: Subject) -> dict[str, Tensor]:
    """Arrays by SPLIT/NAME, the weak modality partly taken from other examples."""
    arrays = demo_data() if subject.data == "mfeat" else _avmnist(subject.data)
    g = torch.Generator().manual_seed(1000 + subject.seed)
    few = TRAINED.get(subject.data)
    if few is not None:
        rows = torch.randperm(len(arrays["train/label"]), generator=g)[:few].sort().values
        arrays |= {k: v[rows] for k, v in arrays.items() if k.startswith("train/")}
    for split in SPLITS:
        key = f"{split}/{WEAK[subject.data]}"
        swap = torch.rand(len(arrays[key]), generator=g) < subject.noise
        other = torch.randperm(len(arrays[key]), generator=g)
        arrays[key] = torch.where(swap.reshape(-1, *[1] * (arrays[key].ndim - 1)), arrays[key][other], arrays[key])
    return {k: v.contiguous() for k, v in arrays.items()}


def _avmnist(data: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    held = load_file(FOLDER / f"{data}.safetensors")
    out: dict[str, Tensor] = {}
    for number, split in enumerate(SPLITS):
        rows = held["split"] == number
        out[f"{split}/image"] = held["image"][rows].float() / 255
        out[f"{split}/audio"] = held["audio_logmel"][rows].float() / 255
        out[f"{split}/label"] = held["label"][rows]
    return out


def trained(subject: Subject, arrays: dict[str, Tensor]) -> nn.Module:
    """An ordinarily trained model: SGD with momentum (mfeat, as the demo) or AdamW."""
    names = [k.removeprefix("train/") for k in arrays if k.startswith("train/") and k != "train/label"]
    x, y = {m: arrays[f"train/{m}"] for m in names}, arrays["train/label"]
    with preserve_rng_state():
        seed_everything(subject.seed)
        model = build(subject.data)
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
        epochs = 15
        if subject.data == "mfeat":
            optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-3)
            epochs = 100
        for _ in range(epochs):
            for rows in torch.randperm(len(y)).split(64):
                if len(rows) < 2:
                    continue
                loss = F.cross_entropy(model(**{m: v[rows] for m, v in x.items()}), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.eval()


def config_of(subject: Subject, path: Path) -> dict[str, Any]:
    """The config of a subject whose data lie at ``path``."""
    names = ("pix", "fou", "zer", "kar") if subject.data == "mfeat" else ("image", "audio")
    return {
        "model": {"factory": "benchmarks.repair.subjects:build", "kwargs": {"data": subject.data}},
        "modalities": {m: {"encoder": f"encoders.{m}"} for m in names},
        "fusion": "fusion",
        "head": "head",
        "data": {"path": str(path)},
    }
