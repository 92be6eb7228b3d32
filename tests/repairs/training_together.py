"""Training by several processes: python -m tests.repairs.training_together JSON, a list of [SIZE, FOLDER, HOW].

Process r leaves FOLDER/r.pt: the model's state and the curves of losses. HOW: ``methods``, ``lively``, ``training``,
``stop`` (epoch after which all are interrupted), ``break`` ([rank, step]: its loss is infinite there once).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from collapsekit import registry
from collapsekit.repairs import loop, units
from collapsekit.repairs.snapshots import Snapshots
from collapsekit.repairs.stage import Stage, Step
from collapsekit.settings import Progress
from collapsekit.world import World, together
from tests.repairs.making import make_job, make_model, options_of, state
from tests.several import free_port


class Stopping(Progress):
    """Interrupts after an epoch."""

    def __init__(self, epoch: int | None) -> None:
        self.epoch = epoch

    def step(self, what: str, done: int, total: int | None, said: str = "") -> None:
        if done == self.epoch:
            self.epoch = None
            raise KeyboardInterrupt


def _broken(stages: Iterator[Stage], world: World, at: list[int] | None) -> Iterator[Stage]:
    calls = [0]
    for stage in stages:
        loss = stage.loss

        def breaking(step: Step, loss: Any = loss) -> torch.Tensor:
            calls[0] += 1
            found: torch.Tensor = loss(step)
            return found * float("inf") if at == [world.rank, calls[0]] else found

        yield replace(stage, loss=breaking)


def train(folder: Path, how: dict[str, Any], world: World) -> None:
    """Train, and leave what came of it."""
    units.UNIT = how.get("unit", units.UNIT)
    job = make_job(make_model(lively=how.get("lively", False)), **how.get("training", {}))
    curves = []
    try:
        for name in how["methods"]:
            stages = iter(registry.get_repair(name).stages(replace(job, options=options_of(name, how.get("options")))))
            kept = Snapshots(folder / "kept" / name, {"method": name})
            made = loop.train(_broken(stages, world, how.get("break")), job, name, kept, Stopping(how.get("stop")))
            curves += [curve.model_dump(mode="json") for curve in made]
    except KeyboardInterrupt:
        return
    torch.save({"state": state(job), "curves": json.dumps(curves)}, folder / f"{world.rank}.pt")


def _one(size: int, folder: Path, how: dict[str, Any]) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["MASTER_PORT"] = str(free_port())
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            if size > 1:
                os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size)}
            try:
                with together() as world:
                    train(folder, how, world)
            except BaseException as e:  # noqa: BLE001 - the parent has to hear of it
                print(f"process {rank}: {e!r}", file=sys.stderr)
                os._exit(1)
            os._exit(0)
        children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    sys.exit(max(_one(size, Path(folder), how) for size, folder, how in json.loads(sys.argv[1])))
