"""Peak memory of opening a model from its checkpoint, in the model's own size: weights, their check, the second build.

python -m benchmarks.speed.opening [--billions 1.5]

A model of so many weights in bfloat16 is saved and diagnosed by one probe on 24 examples, in a process of its own. Memory is
what is not in files (RssAnon of /proc, so Linux alone), every two milliseconds. What the code takes without a model is that
of the same diagnosis of a small one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).parents[2]
WIDTH = 8192
MODEL = """
import torch
from torch import nn


class Large(nn.Module):
    def __init__(self, layers, width):
        super().__init__()
        torch.set_default_dtype(torch.bfloat16)
        self.a = nn.Sequential(nn.Linear(6, width), *(nn.Linear(width, width) for _ in range(layers)), nn.Linear(width, 6))
        self.b, self.fusion, self.head = nn.Linear(5, 6), nn.Linear(12, 8), nn.Linear(8, 3)
        torch.set_default_dtype(torch.float32)

    def forward(self, a, b):
        return self.head(self.fusion(torch.cat([self.a(a), self.b(b)], 1)))
"""
DIAGNOSED = """
import json, sys, threading, time
import collapsekit.diagnosis

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024

def watch():
    while True:
        peak[0] = max(peak[0], resident())
        time.sleep(0.002)

peak = [before := resident()]
threading.Thread(target=watch, daemon=True).start()
began = time.process_time()
config = json.loads(sys.argv[1])
collapsekit.diagnose(config=config, profile="quick", probes=["spectrum"], progress=False, cache=None)
print(json.dumps([peak[0] - before, time.process_time() - began]))
"""


def grown(layers: int, width: int) -> tuple[float, float, float]:
    """Bytes of a model's weights, by how many memory grew while it was diagnosed, and CPU seconds of that."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "large.py").write_text(MODEL)
        size = _save(folder, layers, width)
        config = {
            "model": {"factory": "large:Large", "kwargs": {"layers": layers, "width": width}},
            "modalities": {m: {"encoder": m} for m in "ab"},
            "data": {"path": str(folder / "data.safetensors")},
            "fusion": "fusion",
            "task": "classification",
        }
        config["model"] |= {"checkpoint": str(folder / "weights.safetensors")}  # type: ignore[operator]
        env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
        command = [sys.executable, "-c", DIAGNOSED, json.dumps(config)]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True)
    peak, seconds = json.loads(done.stdout)
    return size, peak, seconds


def _save(folder: Path, layers: int, width: int) -> float:
    """Write a checkpoint of small random numbers, whose layers go on sharing none, and data. Returns bytes of weights."""
    scope: dict[str, type[torch.nn.Module]] = {}
    exec(MODEL, scope)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in scope["Large"](layers, width).state_dict().items()}
    tensors = {name: torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.01) for name, shape in shapes.items()}
    save_file(tensors, folder / "weights.safetensors")
    data = {f"test/{m}": torch.randn(24, n) for m, n in (("a", 6), ("b", 5))}
    save_file(data | {"test/label": torch.arange(24) % 3}, folder / "data.safetensors")
    return float(sum(t.nbytes for t in tensors.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--billions", type=float, default=1.5, help="of weights")
    given = parser.parse_args()
    torch.set_num_threads(1)
    _, alone, _ = grown(0, 64)
    size, peak, seconds = grown(max(1, round(given.billions * 1e9 / WIDTH**2)), WIDTH)
    print(f"weights {size / 1e9:.2f} GB; memory grew by {peak / 1e9:.2f} GB, of a small model by {alone / 1e9:.3f} GB:")
    print(f"{(peak - alone) / size:.2f} x the model, {seconds:.0f} CPU seconds")


if __name__ == "__main__":
    main()
