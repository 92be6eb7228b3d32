"""What many settings cost at once, on cached features: beside the bare arithmetic, and beside one at a time.

python -m benchmarks.speed.settings

The model: four encoders, features 64 wide (--widths), a fusion and head of three layers; 1024 training examples, 512 to
diagnose. Encoders do not run. *Fusions*: what ``rank_sweep.mode=train`` trains, one for each of the seven default values of
β and one for the modality alone, 15 epochs each. *Coalitions*: the 16 subsets of the modalities, 32 draws each, the default.

*Bare* is the same written out in plain torch for this one model, all settings at once: how much dearer ours is does not
depend on the machine. *One at a time* is a loop over ``retrained_fusion``, and a loop over subsets and draws of ``predict``,
scored alike: how much slower that is does, as a fast machine enters a model sooner, and the arithmetic stays. All ways are
taken in turn in one process, on one thread, so that a busy machine slows them alike; medians. Their numbers are compared.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
from collapsekit.readouts.fit import BATCH, MIN_IMPROVEMENT, Recipe, fresh_fusion, retrained_fusion
from collapsekit.readouts.fit_stacked import retrained_fusions
from collapsekit.readouts.linear import FitSplit, make_split

MODALITIES = ("image", "audio", "text", "touch")
INPUTS, HIDDEN, FUSED, CLASSES = 32, 128, 64, 4
TRAINED, DIAGNOSED = 1024, 512

ROWS = 4096  # of a bare forward
EPOCHS = 15  # of every fusion: none ends earlier


@dataclass(frozen=True)
class Times:
    """Seconds of each repeat: one at a time, at once, and the bare arithmetic."""

    alone: list[float]
    together: list[float]
    bare: list[float]

    @property
    def medians(self) -> tuple[float, float, float]:
        """The median of each way."""
        return median(self.alone), median(self.together), median(self.bare)


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


def _in_turn(ways: Sequence[Callable[[], list[Tensor]]], repeats: int) -> Times:
    """Time one at a time, at once and bare, after a round that is not counted. Raises where they give different numbers."""
    taken = Times([], [], [])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for k in range(repeats + 1):
            found = []
            for way, seconds in zip(ways, (taken.alone, taken.together, taken.bare), strict=True):
                start = time.perf_counter()
                found.append(way())
                if k:
                    seconds.append(time.perf_counter() - start)
            for a, *others in zip(*found, strict=True):
                for b in others:
                    torch.testing.assert_close(b, a, rtol=1e-2, atol=1e-2 * float(a.abs().max()))
    finally:
        torch.set_num_threads(threads)
    return taken


def fusions(adapter: ModuleAdapter, features: Features, repeats: int = 5, epochs: int = EPOCHS) -> Times:
    """Time training a fusion for each default β and for the first modality alone, and asking each for its answer."""
    options = RankSweepOptions()
    first, *others = MODALITIES
    factors = [*({first: beta} for beta in options.betas), dict.fromkeys(others, 0.0)]
    recipe = Recipe(rate=options.rate, epochs=epochs, patience=epochs, seed=0)
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

    def bare() -> list[Tensor]:
        twin = fresh_fusion(adapter, recipe)
        assert twin is not None
        with preserve_rng_state():
            return _train_bare(twin.model, at, features, factors, recipe)

    return _in_turn((alone, together, bare), repeats)


def _side_by_side(features: Features, factors: Sequence[Mapping[str, float]]) -> Tensor:
    """Features of all modalities, times each setting's factors: (settings, n, d)."""
    parts = {m: features.recorded[m][0] for m in MODALITIES}
    return torch.stack([torch.cat([parts[m] * f.get(m, 1.0) for m in MODALITIES], 1) for f in factors])


def _train_bare(
    model: nn.Module, at: FitSplit, features: Features, factors: Sequence[Mapping[str, float]], recipe: Recipe
) -> list[Tensor]:
    """Fusion and head of ``Small`` in every setting at once, and what each answers: no more than has to be computed."""
    layers = [m for m in (*model.fusion, model.head) if isinstance(m, nn.Linear)]  # type: ignore[misc]
    stacked = [t.detach().repeat(len(factors), 1, 1) for m in layers for t in (m.weight.T, m.bias[None])]
    weights = [t.requires_grad_() for t in stacked]

    def answer(x: Tensor, w: Sequence[Tensor]) -> Tensor:
        hidden = torch.baddbmm(w[1], x, w[0]).relu()
        return torch.baddbmm(w[5], torch.baddbmm(w[3], hidden, w[2]).relu(), w[4])

    train, held, asked = (_side_by_side(f, factors) for f in (at.train, at.held, features))
    chosen = held[:, at.choose]
    optimizer = torch.optim.AdamW(weights, lr=recipe.rate, weight_decay=recipe.weight_decay, fused=True)
    best, kept = [float("inf")] * len(factors), [w.detach().clone() for w in weights]
    seed_everything(recipe.seed)
    for _ in range(recipe.epochs):
        for rows in at.fit[torch.randperm(len(at.fit))].split(BATCH):
            out = answer(train[:, rows], weights)
            targets = at.train.targets[rows].repeat(len(factors))
            loss = F.cross_entropy(out.flatten(0, 1), targets) * len(factors)
            for w in weights:
                w.grad = None
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            out = answer(chosen, weights)
            targets = at.held_targets.repeat(len(factors))
            losses = F.cross_entropy(out.flatten(0, 1), targets, reduction="none").view(len(factors), -1).mean(1)
            for s, value in enumerate(losses.tolist()):
                if value < best[s] - MIN_IMPROVEMENT:
                    best[s] = value
                    for k, w in zip(kept, weights, strict=True):
                        k[s] = w[s]
    return list(answer(asked, kept))


def coalitions(adapter: ModuleAdapter, features: Features, repeats: int = 5) -> Times:
    """Time the expectation and the worth of every subset of the modalities."""
    draws = draws_for(adapter, features, None)
    masks, expect = range(1 << len(MODALITIES)), adapter.task.expect
    n, model = len(features), adapter.model

    def new_game() -> CoalitionGame:
        return CoalitionGame(adapter, features, draws, 0, Progress())

    def by_subset(answers: Callable[[list[str], Sequence[Tensor]], Iterable[Tensor]]) -> list[Tensor]:
        """The loss of each subset, from what ``answers`` gives where some modalities are each donor's."""
        game, found = new_game(), []
        for mask in masks:
            absent = [m for m in features.modalities if m not in game.names(mask)]
            if not absent:
                found.append(score(adapter.task, features, expect(features.outputs)).loss)
                continue
            mean = MeanOverDraws(features, game.donors)
            for k, outputs in enumerate(answers(absent, game.donors)):
                mean.add(k, expect(outputs))
            found.append(score_draws(adapter.task, features, mean).loss)
        return found

    def one_by_one(absent: list[str], donors: Sequence[Tensor]) -> Iterable[Tensor]:
        return (predict(adapter, features, swap=dict.fromkeys(absent, other)).outputs for other in donors)

    def plain(absent: list[str], donors: Sequence[Tensor]) -> Iterable[Tensor]:
        own = torch.arange(n)
        size = max(1, ROWS // n)
        for some in (donors[i : i + size] for i in range(0, len(donors), size)):
            rows = {m: torch.cat([other if m in absent else own for other in some]) for m in MODALITIES}
            x = torch.cat([features.recorded[m][0].index_select(0, rows[m]) for m in MODALITIES], 1)
            with torch.no_grad():
                yield from model.head(model.fusion(x).relu()).split(n)  # type: ignore[operator]

    def together() -> list[Tensor]:
        game = new_game()
        return [game.value(mask).loss for mask in masks]

    return _in_turn((lambda: by_subset(one_by_one), together, lambda: by_subset(plain)), repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[64], help="of each modality's features")
    parser.add_argument("--repeats", type=int, default=5, help="times both ways are taken")
    args = parser.parse_args()
    for width in args.widths:
        adapter, features = subject(width)
        for what, measure in (("fusions over β", fusions), ("coalitions", coalitions)):
            one, many, bare = measure(adapter, features, args.repeats).medians
            print(
                f"width {width}, {what}: one at a time {one:.2f} s, at once {many:.2f} s, bare {bare:.2f} s: "
                f"{one / many:.1f} times faster, {many / bare:.2f} of the bare arithmetic"
            )


if __name__ == "__main__":
    main()
