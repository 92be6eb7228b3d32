"""Held-out loss while networks are trained from fresh weights, ordinarily and with the parts of a repair."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from collapsekit import registry
from collapsekit.adapters.base import Adapter
from collapsekit.context import Progress
from collapsekit.repairs.request import check_method_options, make_job
from collapsekit.repairs.training.job import Job, Stage
from collapsekit.repairs.training.loop import train
from collapsekit.repairs.training.snapshots import Snapshots
from collapsekit.reproduce.item import Point, Trial, rows_in_order
from collapsekit.reproduce.methods import EBR, HEADS, KD, VANILLA, over_repairs
from collapsekit.reproduce.studies.datasets import Arrays
from collapsekit.reproduce.studies.subjects import DECAY, RATE, Bench, StudySubject, take_modalities, train_ordinarily

ALONE = "encoder trained alone"
EPOCHS = ("0", "1", "2", "5", "10", "20", "40")
PLAIN = {"warm_up": False, "fresh_fusion": False, "finish": False}  # the heads' stage alone
FROM_SCRATCH: dict[str, tuple[str, dict[str, Any]]] = {
    VANILLA: ("finetune", {}),
    HEADS: ("substitute", {"substitution": 0.0, **PLAIN}),
    ALONE: ("finetune", {}),
    KD: ("finetune", {}),
    EBR: ("ebr", PLAIN),
}
MIDDLE = EPOCHS[1:]
FACTS: dict[str, Any] = {
    "claim": "The loss falls further with KD, in steps, and fastest and most smoothly with EBR.",
    "rows": tuple(FROM_SCRATCH),
    "columns": EPOCHS,
    "column_label": "epoch",
    "measured": "cross-entropy on test, nats",
    "orders": (
        over_repairs("mean over epochs", MIDDLE, rises=False),
        over_repairs("after the last epoch it", EPOCHS[-1:], rises=False),
        rows_in_order("EBR is under heads alone (our control)", (HEADS, EBR), MIDDLE, rises=False),
        rows_in_order("KD is under an encoder trained alone (our control)", (ALONE, KD), MIDDLE, rises=False),
    ),
    "drawn": "lines",
}
HOW = (
    "Every network begins with the same fresh weights and trains by AdamW at a constant rate; losses are with every "
    "modality there. KD: its weakest encoder is one that was distilled from a trained network's others, as in the paper's "
    "Table 2; the control beside it has that encoder trained alone. EBR and heads alone: with heads from the start, EBR "
    "with its alignment and substitution."
)


def losses_from_scratch(trial: Trial, subject: StudySubject) -> Iterator[Point]:
    """Yield test losses of every row after epochs of EPOCHS.

    Args:
        trial: Which seed.
        subject: What is trained on.

    Yields:
        Points.
    """
    epochs = trial.pick(int(EPOCHS[-1]), 2)
    settings = {"rate": RATE, "weight_decay": DECAY, "schedule": "constant", "epochs": epochs, "patience": epochs}
    bench = Bench(trial, subject, training=settings)
    encoders = {KD: _distilled(bench), ALONE: _trained_alone(subject)}
    for row, (method, options) in FROM_SCRATCH.items():
        fresh = bench.opened.rebuilt().fresh(trial.seed)
        assert fresh is not None  # there is a factory
        if row in encoders:
            fresh.encoder_module(subject.weak).load_state_dict(encoders[row].state_dict())
        job = _job(bench, fresh, method, options)
        losses: list[float] = []
        stages = followed(registry.get_repair(method).stages(job), fresh.model, subject.arrays, losses)
        train(stages, job, method, Snapshots(bench.folder / f"scratch {row}", {}), Progress())
        for epoch in EPOCHS:
            if int(epoch) < len(losses):
                yield Point(row, epoch, losses[int(epoch)])


def followed(stages: Iterable[Stage], model: nn.Module, arrays: Arrays, losses: list[float]) -> Iterator[Stage]:
    """Note the test loss down whenever a stage is judged: before its first epoch and after each.

    Args:
        stages: Of a method.
        model: What they train.
        arrays: By SPLIT/NAME.
        losses: Grows by a number each time.

    Yields:
        The stages, which choose their epochs as before.
    """
    for stage in stages:

        def judged(stage: Stage = stage) -> float:
            losses.append(loss_on_test(model, arrays))
            return stage.held()

        yield replace(stage, held=judged)


def loss_on_test(model: nn.Module, arrays: Arrays) -> float:
    """Compute the mean cross-entropy on the test split, in nats, with every modality there."""
    names = [k.removeprefix("test/") for k in arrays if k.startswith("test/") and k != "test/label"]
    with torch.no_grad():
        logits = model(**{m: arrays[f"test/{m}"] for m in names})
    return float(F.cross_entropy(logits.double(), arrays["test/label"]))


def _job(bench: Bench, adapter: Adapter, method: str, options: Mapping[str, Any]) -> Job:
    """A job of which nothing is diagnosed."""
    every = check_method_options({method: dict(options)})
    job, _ = make_job(bench.request, bench.opened, adapter, bench.before, (bench.subject.weak,))
    return job.at_place(1, every[method])


def _distilled(bench: Bench) -> nn.Module:
    """The weak modality's encoder of a trained network, after the others' taught it."""
    adapter = bench.opened.rebuilt()
    job = _job(bench, adapter, "kd", {"warm_up": False})

    def distilling() -> Iterator[Stage]:
        for stage in registry.get_repair("kd").stages(job):
            if not stage.name.startswith("distilling"):
                return
            yield stage

    train(distilling(), job, "kd", Snapshots(bench.folder / "distilled", {}), Progress())
    return adapter.encoder_module(bench.subject.weak)


def _trained_alone(subject: StudySubject) -> nn.Module:
    single = replace(subject, arrays=take_modalities(subject.arrays, [subject.weak]))
    encoder: nn.Module = train_ordinarily(single).encoders[subject.weak]  # type: ignore[index,assignment]
    return encoder
