"""What many settings cost at once beside one at a time, on cached features: fusions trained over β, and coalitions.

python -m benchmarks.speed.settings

The model: four encoders, features 64 wide (--width), a fusion and head of three layers; 1024 training examples, 512 to
diagnose. Encoders do not run. *Fusions*: what ``rank_sweep.mode=train`` trains, one for each of the seven default values of
β and one for the modality alone. *Coalitions*: the 16 subsets of the modalities, 32 draws each, the default.

One at a time is a loop over ``retrained_fusion``, and a loop over subsets and draws of ``predict``, scored alike. Both ways
are taken in turn in one process, on one thread, so that a busy machine slows both alike; medians. The numbers of both ways
are compared.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from collapsekit.adapters.build import preserve_rng_state, seed_everything
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.context import Progress
from collapsekit.data.arrays import ArraySource
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.games.coalitions import CoalitionGame, draws_for
from collapsekit.games.draws import MeanOverDraws, score, score_draws
from collapsekit.interventions.replay import predict
from collapsekit.probes.geometry.rank_sweep import RankSweepOptions
from collapsekit.readouts.fit import Recipe, retrained_fusion
from collapsekit.readouts.fit_stacked import retrained_fusions
from collapsekit.readouts.linear import make_split

MODALITIES = ("image", "audio", "text", "touch")
INPUTS, HIDDEN, FUSED, CLASSES = 32, 128, 64, 4
TRAINED, DIAGNOSED = 1024, 512

Times = tuple[list[float], list[float]]  # seconds one at a time, and at once


class Small(nn.Module):
    """Four encoders, their features side by side into a fusion of two layers, a head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({m: nn.Linear(INPUTS, width) for m in MODALITIES})
        self.fusion = nn.Sequential(nn.Linear(width * len(MODALITIES), HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, FUSED))
        self.head = nn.Linear(FUSED, CLASSES)

    def forward(self, **x: Tensor) -> Tensor:
        """Inputs (n, INPUTS) to logits (n, CLASSES)."""
        logits: Tensor = self.head(self.fusion(torch.cat([e(x[m]) for m, e in self.encoders.items()], 1)).relu())
        return logits


def subject(width: int = 64, trained: int = TRAINED, diagnosed: int = DIAGNOSED) -> tuple[ModuleAdapter, Features]:
    """The model, as initialised, and the features of examples every modality of which says a part of the label."""
    with preserve_rng_state():
        seed_everything(0)
        ways = {m: torch.randn(CLASSES, INPUTS) * 0.2 for m in MODALITIES}
        data = {}
        for split, n in {"train": trained, "val": diagnosed, "test": diagnosed}.items():
            label = torch.randint(CLASSES, (n,))
            data[split] = {m: way[label] + torch.randn(n, INPUTS) for m, way in ways.items()} | {"label": label}
        model = Small(width)
    config = {
        "modalities": {m: f"encoders.{m}" for m in MODALITIES},
        "fusion": "fusion",
        "task": "classification",
        "data": {"path": "memory"},
        "model": {"factory": "benchmarks.speed.settings:Small", "kwargs": {"width": width}},
    }
    source = ArraySource(data, "memory")
    adapter = ModuleAdapter(check_config(config, base=Path.cwd()), model=model, source=source)
    return adapter, extract(adapter, "test")


def _in_turn(alone: Callable[[], list[Tensor]], together: Callable[[], list[Tensor]], repeats: int) -> Times:
    """Seconds of ``repeats`` calls each, after one that is not counted. Raises where they give different numbers."""
    taken: Times = ([], [])
    torch.set_num_threads(1)
    for k in range(repeats + 1):
        found = []
        for way, seconds in zip((alone, together), taken, strict=True):
            start = time.perf_counter()
            found.append(way())
            if k:
                seconds.append(time.perf_counter() - start)
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-2, atol=1e-2 * float(a.abs().max()))
    return taken


def fusions(adapter: ModuleAdapter, features: Features, repeats: int = 5, epochs: int | None = None) -> Times:
    """Seconds of training a fusion for each default β and for the first modality alone, and asking each for its answer."""
    options = RankSweepOptions()
    first, *others = MODALITIES
    factors = [*({first: beta} for beta in options.betas), dict.fromkeys(others, 0.0)]
    recipe = Recipe(rate=options.rate, epochs=epochs or options.epochs, seed=0)
    at = make_split(adapter, features)

    def alone() -> list[Tensor]:
        found = []
        for factor in factors:
            twin = retrained_fusion(adapter, at, factor, recipe)
            assert twin is not None
            found.append(predict(twin, features, scale=factor).outputs)
        return found

    def together() -> list[Tensor]:
        made = retrained_fusions(adapter, at, factors, recipe, Progress())
        assert made is not None
        return [predict(twin, features, scale=factor).outputs for twin, factor in zip(made, factors, strict=True)]

    return _in_turn(alone, together, repeats)


def coalitions(adapter: ModuleAdapter, features: Features, repeats: int = 5) -> Times:
    """Seconds of the expectation and the worth of every subset of the modalities."""
    draws = draws_for(adapter, features, None)
    masks, expect = range(1 << len(MODALITIES)), adapter.task.expect

    def alone() -> list[Tensor]:
        game, found = CoalitionGame(adapter, features, draws, 0, Progress()), []
        for mask in masks:
            absent = [m for m in features.modalities if m not in game.names(mask)]
            if not absent:
                found.append(score(adapter.task, features, expect(features.outputs)).loss)
                continue
            mean = MeanOverDraws(features, game.donors)
            for k, other in enumerate(game.donors):
                mean.add(k, expect(predict(adapter, features, swap=dict.fromkeys(absent, other)).outputs))
            found.append(score_draws(adapter.task, features, mean).loss)
        return found

    def together() -> list[Tensor]:
        game = CoalitionGame(adapter, features, draws, 0, Progress())
        return [game.value(mask).loss for mask in masks]

    return _in_turn(alone, together, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[64], help="of each modality's features")
    parser.add_argument("--repeats", type=int, default=5, help="times both ways are taken")
    args = parser.parse_args()
    for width in args.widths:
        adapter, features = subject(width)
        for what, measure in (("fusions over β", fusions), ("coalitions", coalitions)):
            one, many = (median(seconds) for seconds in measure(adapter, features, args.repeats))
            print(
                f"width {width}, {what}: one at a time {one:.2f} s, at once {many:.2f} s: {one / many:.1f} times faster"
            )


if __name__ == "__main__":
    main()
