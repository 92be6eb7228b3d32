"""docs/lightning.md, done word by word in an empty folder, with a stand-in for Lightning, which is not installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.repository.test_own_model_tutorial import plain_environment, run
from tests.repository.test_tutorials import BLOCK

TEXT = (Path(__file__).parents[2] / "docs" / "lightning.md").read_text(encoding="utf-8")
# A LightningModule is an nn.Module, and a LightningDataModule has methods that raise or do nothing until they are written.
STAND_IN = """
import torch
from torch import nn

class LightningModule(nn.Module):
    @classmethod
    def load_from_checkpoint(cls, path, map_location=None):
        saved = torch.load(path, map_location=map_location, weights_only=True)
        module = cls(**saved["hyper_parameters"])
        module.load_state_dict(saved["state_dict"])
        return module

class LightningDataModule:
    def prepare_data(self): pass
    def setup(self, stage): pass
    def train_dataloader(self): raise NotImplementedError("train_dataloader")
    def val_dataloader(self): raise NotImplementedError("val_dataloader")
    def test_dataloader(self): raise NotImplementedError("test_dataloader")
"""
OWN = """
import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

class LitNet(L.LightningModule):
    def __init__(self, width=16):
        super().__init__()
        self.encoders = nn.ModuleDict({
            "depth": nn.Sequential(nn.Linear(6, width), nn.ReLU()), "emg": nn.Sequential(nn.Linear(5, width), nn.ReLU())})
        self.trunk = nn.Linear(2 * width, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        parts = [self.encoders[m](x[m]) for m in ("depth", "emg")]
        return self.head(torch.relu(self.trunk(torch.cat(parts, 1))))

    def training_step(self, batch, index): raise AssertionError("no part of a diagnosis")
    def configure_optimizers(self): raise AssertionError("no part of a diagnosis")

class Rows(Dataset):
    def __init__(self, seed, count):
        g = torch.Generator().manual_seed(seed)
        self.label = torch.arange(count) % 3
        places = torch.randn(3, 11, generator=torch.Generator().manual_seed(9))
        x = places[self.label] + 0.7 * torch.randn(count, 11, generator=g)
        self.x = {"depth": x[:, :6], "emg": x[:, 6:]}
    def __len__(self): return len(self.label)
    def __getitem__(self, i): return {m: v[i] for m, v in self.x.items()}, self.label[i]

class MyData(L.LightningDataModule):
    def setup(self, stage):
        if stage == "fit":
            self.fit = {"train": Rows(0, 240), "val": Rows(1, 120)}
        else:
            self.held = Rows(2, 150)
    def train_dataloader(self): return DataLoader(self.fit["train"], 32, shuffle=True)
    def val_dataloader(self): return DataLoader(self.fit["val"], 32)
    def test_dataloader(self): return DataLoader(self.held, 32)
"""
TRAINING = """
import torch
from my_lightning import LitNet, Rows

torch.manual_seed(0)
net, rows = LitNet(width=28), Rows(0, 240)
optimizer = torch.optim.Adam(net.parameters(), 0.01)
for _ in range(40):
    loss = torch.nn.functional.cross_entropy(net(rows.x), rows.label)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
torch.save({"state_dict": net.state_dict(), "hyper_parameters": {"width": 28}, "epoch": 40, "global_step": 40,
            "pytorch-lightning_version": "2.5.0"}, "last.ckpt")
"""


def blocks(kind: str) -> list[str]:
    return [text for found, text in BLOCK.findall(TEXT) if found == kind]


@pytest.mark.slow
def test_the_page_does_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "lightning.py").write_text(STAND_IN, encoding="utf-8")
    here = tmp_path / "empty"
    here.mkdir()
    (here / "my_lightning.py").write_text(OWN, encoding="utf-8")
    env = plain_environment(tmp_path)
    paths = [str(tmp_path), *filter(None, [env.get("PYTHONPATH")])]
    env |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONIOENCODING": "utf-8"}
    call(TRAINING, here, env)

    (commands,) = blocks("bash")
    init, diagnose = commands.splitlines()
    run(init, here, env)
    written = yaml.safe_load((here / "collapsekit.yaml").read_text(encoding="utf-8"))
    model, batches = map(yaml.safe_load, blocks("yaml"))
    assert written["model"] == model["model"]
    assert written["batch"] == batches["batch"]
    assert written["modalities"] == batches["modalities"]
    assert written["data"]["factory"] == "my_lightning:MyData"
    said = run(f"{diagnose} --profile quick", here, env)
    assert re.search(r"Data test split, 150 examples", said), said

    (script,) = blocks("python")
    # With batches (x, y), as the page says.
    more = {"batch": batches["batch"], "modalities": batches["modalities"]}
    added = f"config |= {more!r}"
    lines = script.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("report ="))
    text = "\n".join(
        ["from my_lightning import LitNet, MyData", *lines[:at], added, *lines[at:], "print(report.summary)"]
    )
    assert call(text, here, env).strip()


def call(code: str, here: Path, env: dict[str, str]) -> str:
    """Run Python code in the folder. Returns what it printed."""
    whole = [sys.executable, "-c", code]
    done = subprocess.run(whole, cwd=here, env=env, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout
