"""What one training step of each repair costs beside plain fine-tuning.

python -m benchmarks.repair.cost --methods finetune dropout kd

A step is what the training loop does with one batch: the stage's loss (forward, and all the method draws and makes), the
gradient of what the stage trains, its norm clipped, AdamW. Every stage of a method is timed by itself on a model of its own
(at most --stages of different names; a later one is made of an earlier one that was not trained, which takes as long). The
steps of all stages are taken in turn, A B C A B C ..., so that a busy machine slows all alike; one thread. Not counted: the
held-out loss at each epoch's end, snapshots, and how many steps a stage takes. A stage that trains one encoder has a cheaper
backward pass and optimiser for it: its ratio is a step's, not the method's.

The model: two MLP encoders of 5.8 million weights each, features 256 wide, a fusion and head of 0.1 million.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from collapsekit import registry
from collapsekit.adapters.build import preserve_rng_state, seed_everything
from collapsekit.adapters.module import ModuleAdapter
from collapsekit.config.load import check_config
from collapsekit.context import Options
from collapsekit.data.arrays import ArraySource
from collapsekit.features.extraction import extract
from collapsekit.readouts.linear import FitSplit
from collapsekit.repairs.request import check_method_options
from collapsekit.repairs.training.job import Job, Stage, Step, Training

CONTROL = "finetune"
MODALITIES = ("a", "b")
CLASSES, INPUTS, WIDTH = 10, 512, 256
EXAMPLES = {"train": 2048, "val": 256}


class Wide(nn.Module):
    """Two encoders of ``hidden`` units twice, a small fusion, a head."""

    def __init__(self, hidden: int = 2048) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(
            {
                m: nn.Sequential(
                    nn.Linear(INPUTS, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, WIDTH)
                )
                for m in MODALITIES
            }
        )
        self.fusion, self.head = nn.Sequential(nn.Linear(2 * WIDTH, WIDTH), nn.ReLU()), nn.Linear(WIDTH, CLASSES)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        logits: Tensor = self.head(self.fusion(torch.cat([self.encoders["a"](a), self.encoders["b"](b)], 1)))
        return logits


def build(hidden: int = 2048) -> nn.Module:
    """What the config names as model.factory: kd builds its fusion anew with it."""
    return Wide(hidden)


def make_job(hidden: int, training: Training) -> Job:
    """A job on a model and examples drawn at random: what a step takes does not depend on what is learned. ``b`` is weak."""
    config = {
        "model": {"factory": "benchmarks.repair.cost:build", "kwargs": {"hidden": hidden}},
        "modalities": {m: {"encoder": f"encoders.{m}"} for m in MODALITIES},
        "fusion": "fusion",
        "head": "head",
        "data": {"path": "memory"},
    }
    with preserve_rng_state():
        seed_everything(0)
        model = build(hidden)
        arrays = {
            split: {m: torch.randn(n, INPUTS) for m in MODALITIES} | {"label": torch.arange(n) % CLASSES}
            for split, n in EXAMPLES.items()
        }
    adapter = ModuleAdapter(check_config(config, base=Path.cwd()), model=model, source=ArraySource(arrays, "memory"))
    train, val = (extract(adapter, split) for split in ("train", "val"))
    at = FitSplit(train, torch.arange(len(train)), val, torch.arange(len(val)), CLASSES)
    return Job(adapter, at, ("b",), {"a": 1.0, "b": 0.0}, training, 0, Options())


@dataclass
class Timed:
    """A stage of a method, its optimiser, and the seconds its steps took."""

    method: str
    stage: Stage
    job: Job
    optimizer: torch.optim.Optimizer
    seconds: list[float]

    def step(self, number: int) -> None:
        """One step on the ``number``-th batch, timed."""
        how = self.job.training
        rows = torch.arange(number * how.batch, (number + 1) * how.batch) % len(self.job.at.fit)
        began = time.perf_counter()
        self.optimizer.zero_grad()
        loss = self.stage.loss(Step(rows, 1))
        torch.autograd.backward([loss], inputs=self.stage.parameters)
        torch.nn.utils.clip_grad_norm_(self.stage.parameters, float("inf") if how.clip is None else how.clip)
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - began)


def timed(method: str, most: int, hidden: int, training: Training, options: dict[str, Options]) -> list[Timed]:
    """The first ``most`` stages of different names, each on a model of its own."""
    found: dict[str, Timed] = {}
    number = 0
    while len(found) < most:
        job = replace(make_job(hidden, training), options=options[method])
        stage = next(islice(registry.get_repair(method).stages(job), number, None), None)
        if stage is None:
            break
        number += 1
        if stage.name in found:
            continue
        stage.module.train()
        optimizer = torch.optim.AdamW(stage.parameters, lr=training.rate, weight_decay=training.weight_decay)
        found[stage.name] = Timed(method, stage, job, optimizer, [])
    return list(found.values())


def measure(every: Sequence[Timed], rounds: int, warm: int = 3) -> None:
    """Steps in turn; the first ``warm`` rounds are forgotten."""
    for number in range(rounds + warm):
        for one in every:
            one.step(number)
    for one in every:
        del one.seconds[:warm]


def table(every: Sequence[Timed]) -> str:
    """Markdown: median seconds of a step, and over fine-tuning's the ratio of medians and the middle half of the ratios
    of steps taken one after the other."""
    base = next(one for one in every if one.method == CONTROL)
    lines = ["| method | stage | weights trained | ms a step | over finetune | middle half |", "|---" * 6 + "|"]
    for one in every:
        ratios = sorted(a / b for a, b in zip(one.seconds, base.seconds, strict=True))
        low, high = ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]
        weights = sum(p.numel() for p in one.stage.parameters) / 1e6
        took, ratio = median(one.seconds), median(one.seconds) / median(base.seconds)
        lines.append(
            f"| {one.method} | {one.stage.name} | {weights:.1f} M | {1000 * took:.1f} | {ratio:.3f} | "
            f"{low:.3f} to {high:.3f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    registry.load_builtins()
    parser = argparse.ArgumentParser(
        description="What one training step of each repair costs beside plain fine-tuning."
    )
    parser.add_argument("--methods", nargs="+", default=list(registry.REPAIRS))
    parser.add_argument("--stages", type=int, default=4, help="at most so many stages of different names a method")
    parser.add_argument("--rounds", type=int, default=40, help="steps timed of each stage")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument(
        "--hidden", type=int, default=2048, help="width of the encoders; 2048: 5.8 million weights each"
    )
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    training, options = Training(batch=given.batch), check_method_options({})
    every: list[Timed] = []
    for method in dict.fromkeys([CONTROL, *given.methods]):
        registry.get_repair(method)
        every += timed(method, given.stages, given.hidden, training, options)
    measure(every, given.rounds)
    own = sum(p.numel() for p in every[0].job.adapter.encoder_module("a").parameters())
    print(
        f"{given.rounds} steps of {given.batch} examples each, in turn; one thread; encoders of {own / 1e6:.1f} M weights\n"
    )
    print(table(every))


if __name__ == "__main__":
    main()
