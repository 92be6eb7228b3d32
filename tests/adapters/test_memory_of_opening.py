"""What opening a model takes in memory, in the model's size: measured in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

WIDTH = 2500  # four layers of it are 100 MB
MODEL = f"""
import torch
from torch import nn


class Big(nn.Module):
    def __init__(self):
        super().__init__()
        layers = [m for _ in range(4) for m in (nn.Linear({WIDTH}, {WIDTH}), nn.ReLU())]
        self.a, self.b = nn.Sequential(nn.Linear(6, {WIDTH}), *layers, nn.Linear({WIDTH}, 6)), nn.Linear(5, 6)
        self.fusion, self.head = nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, a, b):
        return self.head(self.fusion(torch.cat([self.a(a), self.b(b)], 1)))
"""
MEASURED = """
import threading, time
import collapsekit.diagnosis

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024

def watch():
    while True:
        peak[0] = max(peak[0], resident())
        time.sleep(0.002)

peak = [before := resident()]
threading.Thread(target=watch, daemon=True).start()
config = {"model": {"factory": "big:Big", "checkpoint": "ckpt.safetensors"}, "data": {"path": "data.safetensors"}}
config |= {"modalities": {m: {"encoder": m} for m in "ab"}, "fusion": "fusion", "task": "classification"}
collapsekit.diagnose(config=config, profile="quick", probes=["spectrum"], progress=False)
print(peak[0] - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_there_is_no_second_copy_of_the_weights(tmp_path: Path) -> None:
    (tmp_path / "big.py").write_text(MODEL)
    scope: dict[str, type[torch.nn.Module]] = {}
    exec(MODEL, scope)
    model = scope["Big"]()
    save_file(model.state_dict(), tmp_path / "ckpt.safetensors")
    size = sum(p.numel() for p in model.parameters()) * 4 / 2**20
    data = {f"{s}/{m}": torch.randn(40, n) for s in ("train", "val", "test") for m, n in (("a", 6), ("b", 5))}
    save_file(
        data | {f"{s}/label": torch.arange(40) % 3 for s in ("train", "val", "test")}, tmp_path / "data.safetensors"
    )
    env = os.environ | {"PYTHONPATH": f"{os.environ.get('PYTHONPATH', Path.cwd())}{os.pathsep}{tmp_path}"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURED], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= 1.05 * size + 24  # 24 MB: what the code itself takes
