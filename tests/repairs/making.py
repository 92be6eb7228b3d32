"""Small jobs in memory, and what tests of repairs compare training with."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapsekit import registry
from collapsekit.context import Options, Progress
from collapsekit.features.extraction import extract
from collapsekit.readouts.linear import FitSplit
from collapsekit.repairs.training import loop
from collapsekit.repairs.training.job import Job, Stage, Step, Training
from collapsekit.repairs.training.snapshots import Snapshots
from collapsekit.report.repair import LossCurve
from tests.factories import split_arrays
from tests.problems import Late, adapt, make_arrays

registry.load_builtins()

WIDTHS = {"image": 5, "audio": 4}
SIZES = {"train": 40, "val": 24}
BRIEF: dict[str, Any] = {"epochs": 4, "batch": 16, "rate": 0.02}  # three steps an epoch
OPTIONS: dict[str, dict[str, Any]] = {"kd": {"width": 6, "negatives": 8}}


def build(widths: Mapping[str, int], lively: bool = False, outputs: int = 3) -> nn.Module:
    """``Late``, untrained, of the weights that are drawn now; ``lively``: with batch norm and dropout in its encoders
    and its fusion. The factory of the jobs' configs."""
    model = Late(widths, outputs)
    if lively:
        for m, linear in list(model.encoders.items()):
            model.encoders[m] = nn.Sequential(linear, nn.BatchNorm1d(linear.out_features), nn.Dropout(0.2))
        model.fusion = nn.Sequential(*model.fusion, nn.BatchNorm1d(12), nn.Dropout(0.2))
    return model


def make_model(widths: Mapping[str, int] = WIDTHS, *, lively: bool = False, seed: int = 0) -> nn.Module:
    """What ``build`` builds under a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(widths, lively)


def make_job(
    model: nn.Module | None = None,
    *,
    widths: Mapping[str, int] = WIDTHS,
    weak: Sequence[str] = ("audio",),
    ignored: Sequence[str] = (),
    underused: Sequence[str] = (),
    kept: Mapping[str, float] | None = None,
    credit: Mapping[str, float] | None = None,
    sizes: Mapping[str, int] = SIZES,
    task: str = "classification",
    arrays: Mapping[str, Tensor] | None = None,
    factory: bool = True,
    seed: int = 0,
    method: str = "finetune",
    options: Mapping[str, Any] | None = None,
    select: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
    **training: Any,
) -> Job:
    """A job over arrays in memory, with the options of ``method``; ``more``: keys of its config."""
    model = model if model is not None else make_model(widths)
    lively = any(isinstance(part, nn.BatchNorm1d) for part in model.modules())
    made = arrays if arrays is not None else make_arrays(widths, task=task, sizes=sizes)
    config = {
        "modalities": {m: {"encoder": f"encoders.{m}", "select": (select or {}).get(m)} for m in widths},
        "fusion": "fusion",
        "head": "head",
        "task": task,
        "data": {"path": "unused.npz", "label": "label"},
        "model": {"factory": "tests.repairs.making:build", "kwargs": {"widths": dict(widths), "lively": lively}}
        if factory
        else {},
        **(more or {}),
    }
    adapter = adapt(model, config, split_arrays(made))
    train, val = extract(adapter, "train"), extract(adapter, "val")
    width = adapter.task.expect(val.outputs[:1])[0].numel()
    return Job(
        adapter,
        FitSplit(train, torch.arange(len(train)), val, torch.arange(len(val)), width),
        tuple(weak),
        dict(credit or {m: float(i) for i, m in enumerate(widths)}),
        Training(**{**BRIEF, **training}),
        seed,
        options_of(method, options),
        ignored=tuple(ignored),
        underused=tuple(underused),
        kept=dict(kept or {}),
    )


def options_of(method: str, given: Mapping[str, Any] | None = None) -> Options:
    """Options of a repair, small where a size is asked for."""
    return registry.get_repair(method).options(**{**OPTIONS.get(method, {}), **(given or {})})


def kept_in(folder: Path, **identity: Any) -> Snapshots:
    """Snapshots of a repair that is told by ``identity``."""
    return Snapshots(folder / "snapshots", identity)


def run(job: Job, folder: Path, stages: Sequence[Stage] | None = None, method: str = "finetune") -> list[LossCurve]:
    """Train a method's stages (or these) to the end."""
    made = registry.get_repair(method).stages(job) if stages is None else stages
    return loop.train(made, job, method, kept_in(folder), Progress())


def chain(folder: Path, methods: Sequence[str] = ("kd", "finetune"), **training: Any) -> dict[str, Tensor]:
    """Several methods trained in order on a lively model, going on from what is in ``folder``; the final state."""
    job = make_job(make_model(lively=True), **{"epochs": 2, **training})
    for name in methods:
        stages = registry.get_repair(name).stages(replace(job, options=options_of(name)))
        loop.train(stages, job, name, Snapshots(folder / name, {"method": name}), Progress())
    return state(job)


def state(job: Job) -> dict[str, Tensor]:
    """A copy of the model's state."""
    return {k: v.detach().clone() for k, v in job.adapter.model.state_dict().items()}


def differing(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> set[str]:
    """Names of the tensors in which two states differ, in any bit."""
    assert a.keys() == b.keys()
    return {k for k in a if not torch.equal(a[k], b[k])}


def plain_stage(job: Job, **changes: Any) -> Stage:
    """Fine-tuning as a stage, with other parts in it."""
    parts: dict[str, Any] = {
        "name": "plain",
        "module": job.adapter.model,
        "parameters": job.trainable(),
        "loss": plain_loss(job),
        "held": job.held_loss,
    }
    return Stage(**{**parts, **changes})


def plain_loss(job: Job) -> Callable[[Step], Tensor]:
    """The task's loss."""
    return lambda step: job.task_loss(job.run(step).outputs, step)


def by_hand(
    job: Job, halved: Callable[[int, int], int] = lambda _epoch, _step: 0
) -> tuple[dict[str, Tensor], list[float], list[float]]:
    """Fine-tuning of a copy of the job's model written out, without adapter or snapshots: the state of the best epoch,
    the training losses, and the held-out ones from epoch 0. ``halved`` says how often the rate was halved by then."""
    how, at = job.training, job.at
    model = copy.deepcopy(job.adapter.model).eval()
    x, y = at.train.inputs, at.train.targets
    optimizer = torch.optim.AdamW(model.parameters(), lr=how.rate, weight_decay=how.weight_decay)
    size = how.batch * how.accumulate
    steps = math.ceil(len(at.fit) / size)

    def held() -> float:
        with torch.no_grad():
            return float(F.cross_entropy(model(**at.held.inputs).double(), at.held_targets))

    def copied() -> dict[str, Tensor]:
        return {k: v.clone() for k, v in model.state_dict().items()}

    losses, trained, best = [held()], [], (0, copied())
    for epoch in range(how.epochs):
        model.train()
        order = torch.randperm(len(at.fit), generator=torch.Generator().manual_seed(loop._seed(job.seed, 0, epoch)))
        total = 0.0
        for step in range(steps):
            torch.manual_seed(loop._seed(job.seed, 0, epoch, step))
            rows = order[step * size : (step + 1) * size]
            optimizer.zero_grad()
            for part in rows.split(how.batch):
                loss = F.cross_entropy(model(**{k: v[part] for k, v in x.items()}), y[part])
                (loss * (len(part) / len(rows))).backward()
                total += float(loss.detach()) * len(part)
            if how.clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), how.clip)
            rate = how.rate * (1 + math.cos(math.pi * (epoch + step / steps) / how.epochs)) / 2
            optimizer.param_groups[0]["lr"] = rate / 2 ** halved(epoch, step)
            optimizer.step()
        model.eval()
        losses.append(held())
        trained.append(total / len(at.fit))
        if losses[-1] < losses[best[0]] - 1e-4:
            best = (epoch + 1, copied())
    return best[1], trained, losses
