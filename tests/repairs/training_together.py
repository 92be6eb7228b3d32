"""Training by several processes: python -m tests.repairs.training_together JSON, a list of [SIZE, FOLDER, HOW].

Process r leaves FOLDER/r.pt: the model's state, the curves of losses, and what it held while it trained; or FOLDER/r.txt,
the error that ``fails`` expects. HOW: ``methods``, ``options``, ``lively``, ``odd`` (weights that cannot be shared out, or
are not reached), ``training``, ``unit`` (weights of a unit with fsdp), ``stop`` (epoch after which all are interrupted),
``from`` (another FOLDER whose snapshots to go on from), ``break`` ([rank, step]: its loss is infinite there once),
``astray`` ([rank, step]: its encoders run in another order there), ``kill`` ([rank, step]: it is gone), ``stubborn`` (a
submodule lets no other weights in).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which optimisers import; before the fork, so that it is done once
import torch.distributed.fsdp
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from collapsekit import registry
from collapsekit.context import Progress
from collapsekit.distributed.process_group import ProcessGroup, together
from collapsekit.errors import CollapsekitError
from collapsekit.repairs.training import fsdp_units as units
from collapsekit.repairs.training import loop
from collapsekit.repairs.training.job import Stage, Step
from collapsekit.repairs.training.snapshots import Snapshots
from tests.problems import Late
from tests.repairs.making import WIDTHS, make_job, make_model, options_of, state
from tests.several import free_port


class Odd(Late):
    """With weights that have no rows, or that nothing reaches."""

    def __init__(self) -> None:
        super().__init__(WIDTHS)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.none = nn.Parameter(torch.empty(0, 2))
        self.unused = nn.Parameter(torch.ones(6))

    def forward(self, **x: Tensor) -> Tensor:
        return super().forward(**x) * self.scale + self.none.sum()


class Astray(Late):
    """Whose encoders run in another order in one training step."""

    def __init__(self, at: int | None, kill: int | None) -> None:
        super().__init__(WIDTHS)
        self.at, self.kill, self.steps = at, kill, 0

    def forward(self, **x: Tensor) -> Tensor:
        self.steps += self.training
        if self.training and self.steps == self.kill:
            os._exit(0)
        order = reversed(WIDTHS) if self.training and self.steps == self.at else WIDTHS
        parts = {m: self.encoders[m](x[m]) for m in order}
        return self.head(self.fusion(torch.cat([parts[m] for m in WIDTHS], 1)))


class Stopping(Progress):
    """Interrupts after an epoch."""

    def __init__(self, epoch: int | None) -> None:
        self.epoch = epoch

    def step(self, what: str, done: int, total: int | None, said: str = "") -> None:
        if done == self.epoch:
            self.epoch = None
            raise KeyboardInterrupt


def _broken(stages: Iterator[Stage], world: ProcessGroup, at: list[int] | None) -> Iterator[Stage]:
    calls = [0]
    for stage in stages:
        loss = stage.loss

        def breaking(step: Step, loss: Any = loss) -> torch.Tensor:
            calls[0] += 1
            found: torch.Tensor = loss(step)
            return found * float("inf") if at == [world.rank, calls[0]] else found

        yield replace(stage, loss=breaking)


class Stubborn(nn.Linear):
    """Lets nothing but plain weights in."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, DTensor):
            raise TypeError("what is this?")
        super().__setattr__(name, value)


def _model(how: dict[str, Any], world: ProcessGroup) -> nn.Module:
    torch.manual_seed(0)
    if how.get("odd"):
        return Odd()
    if how.get("stubborn"):
        model = make_model()
        model.head = Stubborn(12, 3)
        return model
    if "fails" in how:
        steps = [at[1] if at[0] == world.rank else None for at in (how.get(k, [-1, 0]) for k in ("astray", "kill"))]
        return Astray(*steps)
    return make_model(lively=how.get("lively", False))


def _bytes(tensors: Any) -> int:
    return sum((t.to_local() if isinstance(t, DTensor) else t).nbytes for t in tensors if t.ndim)


def _watched(held: list[list[int]]) -> Any:
    """What a process holds of weights, of moments, and of copies that are kept, in bytes, whenever these are made."""
    keep = loop._StageRun._keep

    def keeping(run: Any) -> None:
        keep(run)
        moments = [v for s in run.optimizer.state.values() for v in s.values()]
        copies = [*run.best.values(), *run.good[0].values(), *run.good[1].values()]
        held.append([_bytes(run.lay.parameters), _bytes(moments), _bytes(copies)])

    return keeping


def _described(model: nn.Module) -> list[Any]:
    """Of each module: its class, what it holds, its hooks, and which parameters they are."""
    return [
        (
            type(m),
            sorted(vars(m)),
            {k: list(v) for k, v in vars(m).items() if "_hooks" in k and v},
            {k: (type(p), id(p), p.shape) for k, p in m._parameters.items() if p is not None},
        )
        for m in model.modules()
    ]


def train(folder: Path, how: dict[str, Any], world: ProcessGroup) -> None:
    """Train, and leave what came of it."""
    units.UNIT = how.get("unit", units.UNIT)
    job = make_job(_model(how, world), **how.get("training", {}))
    if "from" in how and world.is_main:
        shutil.copytree(Path(how["from"]) / "kept", folder / "kept", dirs_exist_ok=True)
    curves, held, before = [], list[list[int]](), _described(job.adapter.model)
    loop._StageRun._keep = _watched(held)  # type: ignore[method-assign]
    try:
        for name in how["methods"]:
            stages = iter(registry.get_repair(name).stages(replace(job, options=options_of(name, how.get("options")))))
            kept = Snapshots(folder / "kept" / name, {"method": name})
            made = loop.train(_broken(stages, world, how.get("break")), job, name, kept, Stopping(how.get("stop")))
            curves += [curve.model_dump(mode="json") for curve in made]
    except KeyboardInterrupt:
        return
    except CollapsekitError as e:
        if "fails" not in how:
            raise
        (folder / f"{world.rank}.txt").write_text(str(e))
        return
    same = _described(job.adapter.model) == before
    told = {"state": state(job), "curves": json.dumps(curves), "held": held[-1] if held else [], "ordinary": same}
    torch.save(told, folder / f"{world.rank}.pt")


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
