"""How long a diagnosis takes beside what ``--dry-run`` says before: CPU seconds of both, subject by subject.

python -m benchmarks.reckoned [--profile quick] [--planted 6] [--from 0] [--wild NAME ...]

The demo, subjects of benchmarks.planted by number (``--from`` the first, as many as ``--planted``), and models of
benchmarks.wild. Reckoned and taken in one process, on one thread, nothing from a cache.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.planted.measure import config_of
from benchmarks.planted.subjects import draw, make
from benchmarks.wild.zoo import STRANGERS
from collapsekit import diagnose
from collapsekit.context import Progress
from collapsekit.demo.make import make_demo
from collapsekit.diagnosis import estimate_cost

FACTOR = 2.0
WILD = ("peptides, branches as lists", "transformers", "lists of layers")


def jobs(folder: Path, planted: range, wild: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is diagnosed, by name: arguments of ``diagnose``."""
    if 0 in planted:
        checkpoint = make_demo(folder / "demo", 0, Progress())
        yield "demo", {"checkpoint": checkpoint, "config": folder / "demo" / "collapsekit.yaml"}
    for subject in draw(planted.stop, 0)[planted.start :]:
        made, place = make(subject), folder / subject.name
        place.mkdir()
        yield f"planted {subject.name}", {"model": made.model, "config": config_of(made, place)}
    for name in wild:
        model, data, config = STRANGERS[name].make(500)
        yield name, {"model": model, "data": data, "config": config}


def compared(how: dict[str, Any], profile: str, cache: Path) -> tuple[float, float]:
    """CPU seconds that are said before, and that it takes."""
    said = estimate_cost(profile=profile, clock=time.process_time, cache=cache, **how).total.seconds
    began = time.process_time()
    diagnose(profile=profile, cache=cache, **how)
    assert said is not None
    return said, time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="quick", choices=["quick", "standard", "full"])
    parser.add_argument("--planted", type=int, default=6, help="how many planted subjects")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first of them")
    parser.add_argument("--wild", nargs="*", default=list(WILD), choices=list(STRANGERS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| subject | reckoned, s | taken, s | reckoned : taken | within a factor of two |\n|---|---|---|---|---|")
    right = count = 0
    with tempfile.TemporaryDirectory() as name:
        planted = range(given.first, given.first + given.planted)
        for number, (what, how) in enumerate(jobs(Path(name), planted, given.wild)):
            said, taken = compared(how, given.profile, Path(name) / f"cache{number}")
            good = 1 / FACTOR <= said / taken <= FACTOR
            right, count = right + good, count + 1
            print(f"| {what} | {said:.1f} | {taken:.1f} | {said / taken:.2f} | {'yes' if good else 'NO'} |", flush=True)
    print(f"{right} of {count} within a factor of {FACTOR:g}, profile {given.profile}")


if __name__ == "__main__":
    main()
