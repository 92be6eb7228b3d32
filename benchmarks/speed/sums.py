"""Features that several processes sum where they are made: seconds, memory, and what each sends, whatever the examples are.

python -m benchmarks.speed.sums [--examples N ...] [--width D] [--processes P]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from collapsekit.adapters.base import ForwardPass, Prediction
from collapsekit.distributed.process_group import together
from collapsekit.features.features import GROUPS, groups_of
from collapsekit.features.summing import cut, run_summed
from collapsekit.io.spill import SpillBuffer

ROOT = Path(__file__).parents[2]
BATCH, OUTPUTS = 4096, 4


def measure(n: int, d: int) -> dict[str, float]:
    """One process's part of a pass over n examples, whose fused representation has d numbers and is drawn a batch at a
    time; MB are beyond what was there before."""
    base, outputs = torch.randn(BATCH, d), torch.zeros(BATCH, OUTPUTS)
    groups = groups_of(n, None)

    def made(k: int) -> ForwardPass:
        rows = min(BATCH, n - k * BATCH)
        x = base.roll(k, 1)[:rows]
        return ForwardPass({}, {"one": x, "other": x}, Prediction(x, outputs[:rows]))

    def batches(first: int, last: int) -> Iterator[ForwardPass]:
        for k in range(first // BATCH, -(-last // BATCH)):
            yield cut(made(k), k * BATCH, first, last)

    with together() as world:
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        found = run_summed(batches, made(0), groups, {None: d}, SpillBuffer().column(), world)
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counted = sum(part.n for part in found.sums.groups[None])
    if counted != n:
        raise SystemExit(f"{counted} of {n} examples were summed.")
    return {"seconds": seconds, "grew": (peak - before) / 1e3}


def start(n: int, d: int, processes: int) -> list[dict[str, float]]:
    """What each process measured."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    command = [sys.executable, "-m", "benchmarks.speed.sums", "--one", str(n), str(d)]
    running = [
        subprocess.Popen(command, cwd=ROOT, env={**shared, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(processes)
    ]
    return [json.loads(process.communicate()[0]) for process in running]


def main() -> None:
    """Print a line a number of examples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one)))
        return
    node = GROUPS * (1 + args.width + args.width**2) * 8 / 1e6
    print(f"{args.processes} processes, {args.width} wide; a node of the tree is {node:.1f} MB")
    for n in args.examples:
        each = start(n, args.width, args.processes)
        grew, outputs = " and ".join(f"{one['grew']:.0f}" for one in each), n * OUTPUTS * 4 / 1e6
        print(
            f"{n:,} examples: {max(one['seconds'] for one in each):.1f} s; memory grew by {grew} MB, outputs {outputs:.0f}"
        )


if __name__ == "__main__":
    main()
