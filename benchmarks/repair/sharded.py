"""What --fsdp saves and costs: fine-tuning by several processes, weights whole on each, then in shares.

python -m benchmarks.repair.sharded --processes 2 --hidden 4096

Every run is of processes of its own, on one thread each, through gloo. Of each process: how much its resident memory grew at
most over what it was with the model and the data at hand (the first one also makes the snapshots), what it holds between
steps, and the median seconds of an optimiser step. The model is that of benchmarks.repair.cost.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.repair.cost import make_job
from collapsekit import registry
from collapsekit.context import Progress
from collapsekit.distributed.process_group import together
from collapsekit.repairs.training import loop
from collapsekit.repairs.training.job import Training
from collapsekit.repairs.training.snapshots import Snapshots

ROOT = Path(__file__).parents[2]


def run(processes: int, hidden: int, steps: int, *, fsdp: bool) -> list[dict[str, float]]:
    """What each process measured: ``weights`` trained, ``grown`` and ``held`` in MB, ``step`` in seconds."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
        s.close()
        running = []
        for rank in range(processes):
            env = {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"}
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            command = [
                sys.executable,
                "-m",
                "benchmarks.repair.sharded",
                "--one",
                folder,
                *(["--fsdp"] if fsdp else []),
            ]
            command += ["--hidden", str(hidden), "--steps", str(steps)]
            running.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True))
        said = [process.communicate()[0] for process in running]
    return [json.loads(text) for text in said]


def _one(folder: Path, hidden: int, steps: int, *, fsdp: bool) -> dict[str, float]:
    registry.load_builtins()
    how = Training(epochs=2, fsdp=fsdp)
    job = make_job(hidden, how)
    job = replace(job, at=replace(job.at, fit=job.at.fit[: how.batch * steps]))
    seconds, plain_step = [], loop._StageRun._step
    held: list[int] = []

    def timed(self: Any, rows: Tensor) -> bool:
        began = time.perf_counter()
        done = plain_step(self, rows)
        seconds.append(time.perf_counter() - began)
        moments = [v for s in self.optimizer.state.values() for v in s.values()]
        gradients = [p.grad for p in self.lay.parameters if p.grad is not None]
        copies = [*self.best.values(), *self.good[0].values(), *self.good[1].values()]
        held.append(sum(_own(t) for t in (*self.lay.parameters, *gradients, *moments, *copies)))
        return done

    loop._StageRun._step = timed  # type: ignore[method-assign]
    weights = sum(p.numel() * p.element_size() for p in job.adapter.model.parameters())
    with together():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        stages = registry.get_repair("finetune").stages(job)
        loop.train(stages, job, "finetune", Snapshots(folder, {}), Progress())
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"weights": weights / 1e6, "grown": grown / 1e3, "held": max(held) / 1e6, "step": median(seconds[2:])}


def _own(tensor: Any) -> int:
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return int(local.numel() * local.element_size())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=4096, help="width of the encoders; 4096: 20 million weights each")
    parser.add_argument("--steps", type=int, default=6, help="optimiser steps in each of two epochs")
    parser.add_argument("--fsdp", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one is not None:
        torch.set_num_threads(1)
        print(json.dumps(_one(given.one, given.hidden, given.steps, fsdp=given.fsdp)))
        return
    columns = ("weights", "process", "MB trained", "MB held between steps", "MB grown at most", "s a step")
    print(f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", sep="\n")
    for fsdp in (False, True):
        for rank, each in enumerate(run(given.processes, given.hidden, given.steps, fsdp=fsdp)):
            print(
                f"| {'in shares' if fsdp else 'whole'} | {rank} | {each['weights']:.0f} | {each['held']:.0f} | "
                f"{each['grown']:.0f} | {each['step']:.2f} |"
            )


if __name__ == "__main__":
    main()
