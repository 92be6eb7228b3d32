"""Real data with several modalities, a small model of each, and how it is trained ordinarily."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from collapsekit.data.base import SPLITS
from collapsekit.demo.make import demo_data
from collapsekit.demo.model import FusionModel

FOLDER = Path(os.environ.get("COLLAPSEKIT_DATA", Path(__file__).parents[3] / "shared" / "data"))
WIDTH = 64  # of an encoder's features, and of the fusion

Arrays = dict[str, Tensor]  # by SPLIT/NAME


class Fused(nn.Module):
    """An encoder a modality, a linear fusion, and logits."""

    def __init__(self, encoders: dict[str, nn.Module], classes: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.fusion = nn.Sequential(nn.Linear(WIDTH * len(encoders), WIDTH), nn.ReLU())
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, **x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.fusion(torch.cat([encoder(x[m]) for m, encoder in self.encoders.items()], 1)))
        return logits


def _images(channels: int, cells: int) -> nn.Sequential:
    """For images of ``channels``, of which ``cells`` are left after two halvings."""
    convolutions = [nn.Conv2d(channels, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*convolutions, nn.Linear(16 * cells, WIDTH), nn.ReLU())


def _sequences() -> nn.Sequential:
    """For three channels of 64 steps."""
    convolutions = [nn.Conv1d(3, 16, 5, 2, 2), nn.ReLU(), nn.Conv1d(16, 16, 5, 2, 2), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*convolutions, nn.Linear(16 * 16, WIDTH), nn.ReLU())


def _audio_vision() -> nn.Module:
    return Fused({"image": _images(1, 7 * 7), "audio": _images(1, 10 * 16)}, 10)


def _actions() -> nn.Module:
    encoders = {"depth": _images(6, 8 * 8), "skeleton": _images(3, 6 * 5), "accel": _sequences(), "gyro": _sequences()}
    return Fused(encoders, 27)


def _activities() -> nn.Module:
    return Fused({"total_acc": _sequences(), "body_gyro": _sequences()}, 6)


@dataclass(frozen=True)
class DataSet:
    """What is trained on what.

    ``weak``: the modality that is made noisy, the one that says least; ``drawn``: how many training examples a model
    gets, fewer than the ``of`` that there are, so that other subjects have others; ``epochs`` of AdamW, or of SGD as the
    demo's model is trained.
    """

    modalities: tuple[str, ...]
    weak: str
    drawn: int
    of: int
    build: Callable[[], nn.Module]
    load: Callable[[str], Arrays]
    epochs: int
    sgd: bool = False

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Make the optimiser of ordinary training."""
        if self.sgd:
            return torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-3)
        return torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)


def _of_file(name: str, fields: dict[str, str], scale: Callable[[Tensor, Tensor], Tensor]) -> Arrays:
    """Arrays of a file: ``fields`` by modality, ``scale`` of all values and the training split's."""
    from safetensors.torch import load_file

    held = load_file(FOLDER / f"{name}.safetensors")
    out: Arrays = {}
    for number, split in enumerate(SPLITS):
        rows = held["split"] == number
        for m, field in fields.items():
            out[f"{split}/{m}"] = scale(held[field].float(), held[field][held["split"] == 0].float())[rows]
        out[f"{split}/label"] = held["label"][rows]
    return out


def _standardised(values: Tensor, train: Tensor) -> Tensor:
    """Each channel by its mean and deviation in the training split."""
    over = [0, *range(2, train.ndim)]
    return (values - train.mean(over, keepdim=True)) / train.std(over, keepdim=True).clamp_min(1e-6)


def _avmnist(name: str) -> Arrays:
    return _of_file(name, {"image": "image", "audio": "audio_logmel"}, lambda values, _: values / 255)


def _sensors(name: str) -> Arrays:
    return _of_file(name, {m: m for m in DATA_SETS[name].modalities}, _standardised)


DATA_SETS = {
    "mfeat": DataSet(
        ("pix", "fou", "zer", "kar"), "kar", 300, 1200, FusionModel, lambda _: demo_data(), epochs=100, sgd=True
    ),
    "avmnist1500": DataSet(("image", "audio"), "audio", 700, 1050, _audio_vision, _avmnist, epochs=15),
    "avmnist3000": DataSet(("image", "audio"), "audio", 700, 2400, _audio_vision, _avmnist, epochs=15),
    "utd_mhad": DataSet(("depth", "skeleton", "accel", "gyro"), "gyro", 320, 431, _actions, _sensors, epochs=30),
    "uci_har_subset": DataSet(("total_acc", "body_gyro"), "body_gyro", 600, 2080, _activities, _sensors, epochs=20),
}
