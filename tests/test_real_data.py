"""Paired images and spoken digits: a model trained as it should be, and one whose audio was shuffled in training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import collapsekit
from collapsekit.stats.threads import threads_for

FOLDER = Path(os.environ.get("COLLAPSEKIT_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))
AVMNIST = FOLDER / "avmnist1500.safetensors"

pytestmark = pytest.mark.skipif(not AVMNIST.is_file(), reason=f"no {AVMNIST.name} in {FOLDER} (set COLLAPSEKIT_DATA)")


def _encoder(features: int) -> nn.Sequential:
    convolutions = [nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*convolutions, nn.Linear(features, 64), nn.ReLU())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.audio = _encoder(16 * 7 * 7), _encoder(16 * 10 * 16)
        self.fusion, self.head = nn.Sequential(nn.Linear(128, 64), nn.ReLU()), nn.Linear(64, 10)

    def forward(self, image: Tensor, audio_logmel: Tensor) -> Tensor:
        logits: Tensor = self.head(self.fusion(torch.cat([self.image(image), self.audio(audio_logmel)], 1)))
        return logits


CONFIG: dict[str, Any] = {
    "modalities": {
        "image": {"encoder": "image", "scale": 255},
        "audio": {"encoder": "audio", "input": "audio_logmel", "scale": 255},
    },
    "fusion": "fusion",
    "head": "head",
    "data": {"path": str(AVMNIST)},
}


def _train(shuffled: float) -> Net:
    """A model trained with this share of the audio taken from other examples."""
    from safetensors.torch import load_file

    data = load_file(AVMNIST)
    rows = data["split"] == 0
    image, audio, label = data["image"][rows] / 255, data["audio_logmel"][rows] / 255, data["label"][rows]
    with threads_for(0), torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net()
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
        for _ in range(12):
            for batch in torch.randperm(len(label)).split(64):
                swap = torch.rand(len(batch)) < shuffled
                other = torch.randperm(len(label))[: len(batch)]
                heard = torch.where(swap[:, None, None, None], audio[other], audio[batch])
                loss = F.cross_entropy(net(image[batch], heard), label[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return net


@pytest.mark.slow  # that a model of real data is called healthy is also what test_examples finds
def test_a_model_trained_on_true_pairs_uses_both() -> None:
    report = collapsekit.diagnose(model=_train(0.0), config=CONFIG, profile="quick", probes=["utilisation"])
    assert {m: v.verdict for m, v in report.modalities.items()} == {"image": "used", "audio": "used"}


@pytest.mark.slow
def test_a_model_trained_on_shuffled_audio_stopped_listening() -> None:
    report = collapsekit.diagnose(model=_train(0.9), config=CONFIG, profile="quick", probes=["utilisation", "reliance"])
    audio = report.modalities["audio"]
    assert (audio.verdict, report.modalities["image"].verdict) == ("collapsed", "used")
    assert audio.score is not None
    assert audio.score > 0.9
    # The image's absence is what the ignored audio would have saved.
    assert audio.costs_if_missing["image"] > 0.5
    loss = report.find("reliance.leave_one_out", "audio")
    assert loss is not None
    assert loss.value == pytest.approx(0.0, abs=0.05)
