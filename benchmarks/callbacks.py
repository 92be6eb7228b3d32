"""What one measurement of the training callbacks costs beside one training step.

python -m benchmarks.callbacks

A step is forward, backward and AdamW on one batch; a measurement is all that ``Monitor.measure`` does on a held batch of as
many examples: forward in eval mode, fusion and head again for every modality, the spectra, and putting everything back. They
are taken in turn, step, measurement, step, measurement, so that a busy machine slows both alike; one thread; medians.
Measuring every k steps costs a k-th of the ratio: 5 % at k = 100 would be a ratio of 5.

The models: two MLP encoders of 5.8 million weights each, features 256 wide, with a fusion and head of 0.1 million
("encoders") or of 6 million ("fusion"), where more of the model runs again; and "tiny", 0.2 million weights in all, where
what does not grow with the model weighs most.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.plugins import import_plugin
from benchmarks.repair.cost import CLASSES, INPUTS, MODALITIES, WIDTH, Wide

CONFIG = {"modalities": {m: f"encoders.{m}" for m in MODALITIES}, "fusion": "fusion", "task": "classification"}


def heavy_fusion() -> Wide:
    """The same encoders with a fusion about as large as one of them."""
    model = Wide()
    layers = [
        nn.Linear(2 * WIDTH, 2048),
        nn.ReLU(),
        nn.Linear(2048, 2048),
        nn.ReLU(),
        nn.Linear(2048, WIDTH),
        nn.ReLU(),
    ]
    model.fusion = nn.Sequential(*layers)
    return model


MODELS: dict[str, Callable[[], Wide]] = {"encoders": Wide, "fusion": heavy_fusion, "tiny": lambda: Wide(16)}


def times(model: Wide, size: int, draws: int, repeats: int) -> tuple[float, float]:
    """Median seconds of a training step, and of a measurement, on ``size`` examples each."""
    batch = {m: torch.randn(size, INPUTS) for m in MODALITIES} | {"label": torch.randint(0, CLASSES, (size,))}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    monitor = import_plugin("callbacks").Monitor(model, batch, CONFIG, draws=draws)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(**{m: batch[m] for m in MODALITIES}), batch["label"]).backward()
        optimizer.step()

    taken: dict[Callable[[], object], list[float]] = {step: [], monitor.measure: []}
    for _ in range(repeats + 3):
        for run, seconds in taken.items():
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    of_step, of_measurement = (median(seconds[3:]) for seconds in taken.values())
    return of_step, of_measurement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256], help="examples a batch")
    parser.add_argument("--draws", type=int, default=1, help="as Monitor's")
    parser.add_argument("--repeats", type=int, default=25, help="steps, and measurements, timed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'model':10}{'batch':>6}{'step, ms':>11}{'measurement, ms':>17}{'ratio':>7}{'at k = 100':>12}")
    for name, make in MODELS.items():
        for size in args.sizes:
            step, measurement = times(make(), size, args.draws, args.repeats)
            ratio = measurement / step
            print(f"{name:10}{size:>6}{step * 1e3:>11.1f}{measurement * 1e3:>17.1f}{ratio:>7.2f}{ratio / 100:>12.2%}")


if __name__ == "__main__":
    main()
