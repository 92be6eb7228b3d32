"""What replays cost where branches are lists of layers, and only the last layer of each is named as its encoder.

python -m benchmarks.speed.replay_pruning

The model: four branches, each a list of five layers (four convolutions of 32 to 256 channels on pictures of 64 x 64, and a
linear layer, which is the encoder), a fusion and head of 0.07 million weights. A plain pass is a user's own evaluation loop,
in batches of 64. *Whole* lets all of the model but the encoders run in each what-if question, *pruned* leaves out what feeds
nothing but them. One replay: fusion and head over all examples. A diagnosis: every probe that trains nothing (--draws: of
other examples for the coalitions, if not the default). Both ways are taken in turn in one process, on one thread; CPU
seconds, medians. The reports of both ways are compared.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.speed.passes import plain_pass, training_free
from collapsekit import diagnose
from collapsekit.adapters import module as module_adapter
from collapsekit.adapters.build import preserve_rng_state, seed_everything
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.adapters.pruning.find import Pruning
from collapsekit.config.load import check_config
from collapsekit.data.arrays import ArraySource
from collapsekit.features.extraction import extract
from collapsekit.interventions.replay import predict
from collapsekit.report.diagnosis import Report

MODALITIES = ("front", "side", "top", "depth")
CHANNELS, SIDE, WIDTH, FUSED, CLASSES = (3, 32, 64, 128, 256), 64, 128, 128, 10
CONFIG = {
    "modalities": {m: f"branches.{m}.{len(CHANNELS) - 1}" for m in MODALITIES},
    "fusion": "fusion",
    "head": "head",
    "data": {"path": "memory", "batch_size": 64},
}


class Layer(nn.Sequential):
    """A convolution that halves the picture."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(nn.Conv2d(inside, outside, 3, 2, 1), nn.BatchNorm2d(outside), nn.ReLU(inplace=True))


class Last(nn.Sequential):
    """Features (n, WIDTH) of a map."""

    def __init__(self) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS[-1], WIDTH))


class Lists(nn.Module):
    """Branches as lists of layers, a fusion, a head."""

    def __init__(self) -> None:
        super().__init__()
        steps = list(pairwise(CHANNELS))
        layers = lambda: nn.ModuleList([*(Layer(a, b) for a, b in steps), Last()])  # noqa: E731
        self.branches = nn.ModuleDict({m: layers() for m in MODALITIES})
        self.fusion = nn.Sequential(nn.Linear(WIDTH * len(MODALITIES), FUSED), nn.ReLU())
        self.head = nn.Linear(FUSED, CLASSES)

    def forward(self, **x: Tensor) -> Tensor:
        """Pictures (n, 3, SIDE, SIDE) by name to logits (n, CLASSES)."""
        made = []
        for m in MODALITIES:
            h = x[m]
            for layer in self.branches[m]:  # type: ignore[union-attr]
                h = layer(h)
            made.append(h)
        logits: Tensor = self.head(self.fusion(torch.cat(made, 1)))
        return logits


@contextmanager
def everything_runs() -> Iterator[None]:
    """Replays as they would be if nothing were left out."""
    with patch.object(module_adapter, "find_pruning", lambda *_args: Pruning({})):
        yield


def subject(examples: int) -> tuple[nn.Module, dict[str, dict[str, Tensor]]]:
    """The model, as initialised, and examples drawn at random."""
    with preserve_rng_state():
        seed_everything(0)
        draw = lambda: {m: torch.randn(examples, CHANNELS[0], SIDE, SIDE) for m in MODALITIES}  # noqa: E731
        return Lists().eval(), {"test": draw() | {"label": torch.randint(CLASSES, (examples,))}}


def timed(what: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    what()
    return time.process_time() - start


def replays(model: nn.Module, data: dict[str, dict[str, Tensor]], repeats: int) -> tuple[float, float, float]:
    """Seconds of a plain pass, and of one replay of all examples, whole and pruned."""

    def opened() -> Callable[[], object]:
        adapter = ModuleAdapter(check_config(CONFIG, base=Path.cwd()), model=model, source=ArraySource(data, "memory"))
        features = extract(adapter, "test")
        return lambda: predict(adapter, features)

    with everything_runs():
        whole = opened()
    ways = (lambda: plain_pass(model, data["test"])), whole, opened()
    for way in ways:  # first calls set things up
        way()
    taken = [[timed(way) for way in ways] for _ in range(repeats)]
    one, two, three = (median(column) for column in zip(*taken, strict=True))
    return one, two, three


def diagnoses(
    model: nn.Module, data: dict[str, dict[str, Tensor]], repeats: int, draws: int | None = None
) -> tuple[float, float]:
    """Seconds of a diagnosis, whole and pruned. Raises ValueError where a byte of their reports differs."""
    reports: list[Report] = []

    def run() -> None:
        options = {"reliance": {"draws": draws}} if draws is not None else {}
        reports.append(diagnose(config=CONFIG, model=model, data=data, probes=training_free(), options=options))

    whole, pruned = [], []
    for _ in range(repeats):
        with everything_runs():
            whole.append(timed(run))
        pruned.append(timed(run))
    if len({r.model_dump_json() for r in reports}) > 1:
        raise ValueError("the reports of whole and of pruned replays differ")
    return median(whole), median(pruned)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--draws", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    net, splits = subject(options.examples)
    plain, full, left = replays(net, splits, options.repeats)
    print(f"plain pass {plain:.2f} s; one replay: whole {full:.3f} s, pruned {left:.4f} s ({full / left:.0f} : 1)")
    full, left = diagnoses(net, splits, options.repeats, options.draws)
    print(f"diagnosis: whole {full:.1f} s ({full / plain:.1f} passes), pruned {left:.1f} s ({left / plain:.1f} passes)")
