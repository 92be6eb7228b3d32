"""How many plain passes a diagnosis takes on each model of the zoo, over the examples that it reads.

python -m benchmarks.wild [--examples 128] [--only NAME ...] [--profile quick] [--probes reliance utilisation]

Counted, not timed: multiplications with the weights of every leaf module that runs, over what they are in one plain pass
over all examples that were read. Passes back are not counted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.wild.counting import Work, counted_work
from benchmarks.wild.zoo import STRANGERS, Stranger
from collapsekit import diagnose
from collapsekit.report.diagnosis import Report


def plain_work(model: nn.Module, data: dict[str, Tensor]) -> Work:
    """A plain pass over the examples."""
    with counted_work(model) as work, torch.no_grad():
        model(**{k: v for k, v in data.items() if k != "label"})
    return work


def passes_of(
    stranger: Stranger, examples: int, probes: Sequence[str] | None, profile: str, **options: Any
) -> tuple[float, float, Report]:
    """How many plain passes a diagnosis takes over the examples read, CPU seconds, and its report."""
    model, data, config = stranger.make(examples)
    once = {split: plain_work(model, part).total for split, part in data.items()}
    with tempfile.TemporaryDirectory() as cache, counted_work(model) as work:
        began = time.process_time()
        report = diagnose(
            model=model, data=data, config=config, probes=probes, profile=profile, cache=Path(cache), **options
        )
        seconds = time.process_time() - began
    read = [split for split in once if split == report.subject.split or _reads_more(report)]
    return work.total / sum(once[split] for split in read), seconds, report


def _reads_more(report: Report) -> bool:
    """Whether splits beside the diagnosed one were read."""
    return any(r.name.startswith("utilisation") for r in report.results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=128, help="of each split")
    parser.add_argument("--only", nargs="+", default=list(STRANGERS), choices=list(STRANGERS))
    parser.add_argument("--profile", default="quick", choices=["quick", "standard", "full"])
    parser.add_argument("--probes", nargs="+", help="default: all of the profile")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | passes over what is read | CPU seconds |\n|---|---|---|")
    for name in given.only:
        passes, seconds, _ = passes_of(STRANGERS[name], given.examples, given.probes, given.profile)
        print(f"| {name}, {given.profile} | {passes:.2f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
