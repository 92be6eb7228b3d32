"""Whether the watch names planted faults of the pipeline within fifty steps, how often it is wrong on healthy trainings, and
what it costs.

python -m benchmarks.pipeline [--seeds 3] [--healthy 1000]

Cost: the models of benchmarks.callbacks, steps of forward, backward and AdamW with the watch and without it in turn, one
thread, CPU seconds, medians: over the first fifty steps and over the first thousand.
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from importlib import import_module
from inspect import signature
from statistics import median
from typing import Any

import torch

from benchmarks.callbacks import MODELS
from benchmarks.pipeline.subjects import (
    HEALTHY,
    MODALITIES,
    PLANTED,
    STEPS,
    Training,
    arguments,
    draw_batches,
    label_of,
    losses,
)
from benchmarks.plugins import import_plugin
from benchmarks.repair.cost import CLASSES, INPUTS
from benchmarks.repair.cost import MODALITIES as MODALITIES_OF_COST


def watch_training(training: Training, seed: int, steps: int = STEPS) -> Any:
    """Train for some steps under a watch.

    Args:
        training: Which.
        seed: Of weights and data.
        steps: How many.

    Returns:
        The watch, with its findings.
    """
    torch.manual_seed(seed)
    model, loss_of = training.model(), losses(training.data)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    watch = import_plugin("callbacks").Watch(model, MODALITIES[training.data], loss=loss_of)
    batches = itertools.islice(draw_batches(training.data, seed, **training.settings), steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, drawn in enumerate(batches, 1):
            batch = training.change(drawn, number)
            label = label_of(batch)
            output = model(**arguments(training.data, batch))
            loss = output["loss"] if loss_of is None else loss_of(output, label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.step(number, label)
    watch.close()
    return watch


def measure_faults(seeds: int) -> None:
    """Print a line a planted fault: in how many seeds it was flagged, and called by its name."""
    print(f"{'fault':32}{'flagged':>9}{'named':>7}  as")
    flagged = named = 0
    for training in PLANTED:
        found = [watch_training(training, seed).findings for seed in range(seeds)]
        hits = [[f for f in one if f.modality == training.modality] for one in found]
        right = [any(f.kind == training.kind for f in one) for one in hits]
        flagged += all(map(bool, hits))
        named += all(right)
        others = sorted({f"{f.modality} {f.kind}" for one in found for f in one})
        print(f"{training.name:32}{sum(map(bool, hits)):>7}/{seeds}{sum(right):>5}/{seeds}  {', '.join(others)}")
    print(f"flagged {flagged} of {len(PLANTED)}, named {named}\n")


def measure_alarms(windows: int) -> int:
    """Print the findings in healthy trainings of fifty steps, and count the trainings that had any."""
    wrong = 0
    for number in range(windows):
        training = HEALTHY[number % len(HEALTHY)]
        findings = watch_training(training, 1000 + number).findings
        wrong += bool(findings)
        for finding in findings:
            print(f"seed {1000 + number} {training.name}: {finding.kind}: {finding.sentence}", flush=True)
    print(f"{wrong} of {windows} healthy trainings had a finding")
    return wrong


def measure_cost(batch: int, repeats: int) -> None:
    """Print what the watch adds to training, over the first fifty steps and over the first thousand."""
    watch_of = import_plugin("callbacks").Watch
    steps = import_module("collapsekit_callbacks.watch")
    counted = sum(n <= steps.EACH or n % steps.THINNED == 0 for n in range(1, steps.FIRST + 1))
    later = 1000 // signature(watch_of).parameters["every"].default
    print(f"\n{'model':10}{'step, ms':>10}{'early step, ms':>16}{'look, ms':>10}{'first 50':>10}{'first 1,000':>13}")
    for name, make in MODELS.items():
        model = make()
        fields = {m: torch.randn(batch, INPUTS) for m in MODALITIES_OF_COST}
        label = torch.randint(0, CLASSES, (batch,))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

        def step(model: Any = model, fields: Any = fields, label: Any = label, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(**fields), label).backward()
            optimizer.step()

        seconds: dict[str, list[float]] = {"step": [], "early": [], "look": []}
        for _ in range(repeats):
            watch = watch_of(model, {m: m for m in MODALITIES_OF_COST})
            for number in range(1, steps.LOOKS[0] + 1):
                start = time.process_time()
                step()
                middle = time.process_time()
                watch.step(number, label)
                seconds["step"].append(middle - start)
                seconds["look" if number == steps.LOOKS[0] else "early"].append(time.process_time() - middle)
            watch.close()
        one, early, look = (median(each) for each in seconds.values())
        first = (counted * early + len(steps.LOOKS) * look) / (steps.FIRST * one)
        whole = (counted * early + (len(steps.LOOKS) + later) * look) / (1000 * one)
        print(f"{name:10}{one * 1e3:>10.1f}{early * 1e3:>16.2f}{look * 1e3:>10.1f}{first:>10.1%}{whole:>13.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--healthy", type=int, default=1000, help="healthy trainings of fifty steps")
    parser.add_argument("--batch", type=int, default=64, help="examples a batch where cost is measured")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    measure_faults(args.seeds)
    measure_alarms(args.healthy)
    measure_cost(args.batch, args.repeats)
    print(f"{time.process_time() - start:.0f} CPU seconds")


if __name__ == "__main__":
    main()
