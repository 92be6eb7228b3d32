"""What was asked of a repair, checked, and the job it makes."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from collapsekit import registry
from collapsekit.adapters.base import Adapter
from collapsekit.adapters.build import seed_everything
from collapsekit.adapters.weights.offloaded import is_dispatched
from collapsekit.config.options import DiagnoseOptions, RepairOptions, RunOptions
from collapsekit.config.schema import Config
from collapsekit.context import Options, Progress, Stages
from collapsekit.diagnosis import CONTROLS, check_options, choose_probes, report_on, settle_config
from collapsekit.distributed.process_group import current
from collapsekit.errors import ConfigError, FaultError
from collapsekit.io.writable import check_folder
from collapsekit.probes.runner import warnings_of
from collapsekit.readouts.fit import in_full
from collapsekit.readouts.linear import FitSplit
from collapsekit.repairs.ingredients.warm_up import ENOUGH
from collapsekit.repairs.training.fsdp import need_shardable
from collapsekit.repairs.training.job import Job, trainable_of
from collapsekit.repairs.training.tensorboard import summary_writer
from collapsekit.report.diagnosis import Report
from collapsekit.report.recommend import kept_by
from collapsekit.session.checks import (
    check_call,
    check_data,
    check_diagnosis,
    check_modalities,
    check_named,
    check_parts,
    known_sizes,
)
from collapsekit.session.opening import OpenModel, open_model
from collapsekit.tasks.make import task_of, tasks_with_prior

FITTED = ("train", "val")  # the splits that a repair is trained on, and decided on
LITTLE = 0.05  # of the prior loss: under that an encoder trained alone gains nothing worth catching up on


@dataclass(frozen=True)
class RepairRequest:
    """What is the same for the method and the control."""

    checkpoint: str | Path | None
    config: Config
    options: RepairOptions
    progress: Progress
    files: Sequence[str] = ()  # modules of the plugin files

    def open(self) -> AbstractContextManager[OpenModel]:
        """Open the model as the checkpoint has it, read and built once for all that the repair does with it."""
        return open_model(self.config, self.checkpoint, self.options, progress=self.progress)

    def decide(self, subject: OpenModel, split: str, probes: Sequence[str]) -> Report:
        """Run the probes that a decision rests on.

        Args:
            subject: The checkpoint, or what was trained from it.
            split: The examples.
            probes: Names of the probes.

        Returns:
            The report.

        Raises:
            FaultError: Where an error ended one of them.
        """
        report = self.diagnose(subject, split, probes)
        ended = [w.sentence for w in warnings_of(report.results)]
        if ended:
            raise FaultError(
                f"what the repair is decided by could not be measured on split {split!r}: {' '.join(ended)} Nothing was "
                "written but snapshots of what was trained, from which --resume goes on."
            )
        return report

    def diagnose(
        self, subject: OpenModel, split: str, probes: Sequence[str] | None = None, weak: Sequence[str] = ()
    ) -> Report:
        """Diagnose an open model as was asked of the repair.

        Args:
            subject: the checkpoint, or what was trained from it.
            split: the examples.
            probes: their names; None: all that run by default.
            weak: the modalities for which β is turned.

        Returns:
            The report.
        """
        shared = {name: getattr(self.options, name) for name in RunOptions.model_fields}
        turned = {"rank_sweep": {"modality": weak[0] if len(weak) == 1 else "all"}} if weak else None
        how = DiagnoseOptions.make(**{**shared, "split": split, "probes": probes, "options": turned})
        chosen = choose_probes(how.probes, (*how.skip, CONTROLS), self.files, task=subject.config.task)
        every = check_options(how.options or {})
        live = subject.adapter.checkpoint is None
        check_diagnosis(subject.config, None, chosen, every.values(), how, live=live)
        return report_on(subject, how, chosen, every, typed=not live)


class _Once(Progress):
    """Says each note once: several diagnoses of one model would say the same."""

    def __init__(self, shown: Progress) -> None:
        self.shown, self.said = shown, set[str]()
        self.planned = shown.planned

    def plan(self, stages: Stages) -> None:
        self.shown.plan(stages)

    def begin(self, stage: str) -> None:
        self.shown.begin(stage)

    def step(self, what: str, done: int, total: int | None, said: str = "") -> None:
        self.shown.step(what, done, total, said)

    def note(self, text: str) -> None:
        if text not in self.said:
            self.shown.note(text)
        self.said.add(text)

    def announce(self, text: str) -> None:
        self.shown.announce(text)

    def fault(self, text: str) -> None:
        self.shown.fault(text)


def make_request(
    checkpoint: str | Path | None,
    config: str | Path | Mapping[str, Any] | Config | None,
    options: RepairOptions,
    progress: Progress | None = None,
) -> RepairRequest:
    """Find the config, load plugins, and check options against this machine.

    Args:
        checkpoint: The weights; None: the config's.
        config: As for :func:`collapsekit.repair`.
        options: The options of the call.
        progress: Hears what is used; None: nobody does.

    Returns:
        The request.

    Raises:
        CollapsekitError: For whatever the caller can mend.
    """
    check_call(options, checkpoint=checkpoint, config=config, progress=progress)
    told = _Once(progress or Progress())
    settled = settle_config(config, checkpoint, told, "repair")
    registry.load_builtins()
    files = [registry.load_plugin_file(p) for p in [*map(settled.resolve, settled.plugins), *options.plugins]]
    _need_judge(settled)
    need_shardable(options.training, options.device, current())
    if options.tensorboard is not None:
        summary_writer()
        current().on_main(partial(check_folder, options.tensorboard, "--tensorboard"))
    return RepairRequest(checkpoint, settled, options, told, files)


def _need_judge(config: Config) -> None:
    """Raises ConfigError where no score could say whether a repair helped."""
    task = task_of(config)
    if not task.has_prior():
        *others, last = tasks_with_prior()
        raise ConfigError(
            f"a repair is judged by the credit a balanced reference gives each modality, and for task {task.name!r} there "
            f"is none: it works for {', '.join(others)} and {last}."
        )


def _check_data(config: Config) -> None:
    """Raises CollapsekitError where the splits and arrays that a repair reads are known not to be there."""
    task = check_parts(config, live=False)
    there = known_sizes(config, None)
    if there is not None:
        check_data(config, task, there, [*FITTED, *(["test"] if "test" in there else [])])


def check_request(request: RepairRequest, modalities: Sequence[str] | None, options: Collection[Options]) -> None:
    """Check the data, whom to repair and the methods' options against the config; nothing is read.

    Args:
        request: The request, with its config.
        modalities: Whom to repair; None: not named.
        options: The options of every method.

    Raises:
        CollapsekitError: Where they do not fit.
    """
    _check_data(request.config)
    check_modalities(options, request.config)
    if request.config.adapter == "module":
        check_named(modalities or (), tuple(request.config.modalities))


def check_built(
    request: RepairRequest, adapter: Adapter, modalities: Sequence[str] | None, options: Collection[Options]
) -> None:
    """Check what only the built model can tell; no example is read.

    Args:
        request: what is the same for the method and the control.
        adapter: the model as the checkpoint has it.
        modalities: whom to repair.
        options: of all methods.

    Raises:
        CollapsekitError: for a modality, a submodule to freeze or a split that is not there, and for a model over devices.
    """
    if is_dispatched(adapter.model):
        raise ConfigError(
            f"{request.config.origin} builds a model that is dispatched over devices (accelerate), which can be diagnosed "
            "but not trained: build it on one device, or repair by several processes with --fsdp."
        )
    check_modalities(options, request.config, adapter.modalities)
    check_named(modalities or (), adapter.modalities)
    for split in FITTED:
        adapter.source.need(split)
    trainable_of(adapter.model, request.options.training)


def make_job(
    request: RepairRequest, subject: OpenModel, adapter: Adapter, before: Report, weak: tuple[str, ...]
) -> tuple[Job, str]:
    """Make the job of training a model.

    Args:
        request: what is the same for the method and the control.
        subject: the checkpoint as it was diagnosed, whose passes are those of ``adapter`` too.
        adapter: the model, as the checkpoint has it; brought to float32.
        before: the diagnosis on the val split.
        weak: the modalities to repair.

    Returns:
        The job, and a digest of the examples.
    """
    at, data = _fold(subject, adapter)
    credit = {m: _credit(before, m) for m in adapter.modalities}
    kept = {m: share for m in weak if (share := kept_by(before, m, LITTLE)) is not None}
    found = {m: before.modalities[m].verdict for m in weak}
    behind = [m for m in weak if found[m] == "underused" and kept.get(m, 1.0) < ENOUGH]
    ignored = tuple(m for m in weak if found[m] == "collapsed" or m in behind)
    underused = tuple(m for m in weak if found[m] == "underused" and m not in behind)
    job = Job(adapter, at, weak, credit, request.options.training, request.options.seed, Options())
    return replace(job, ignored=ignored, underused=underused, kept=kept, read=_read(before)), data


def _fold(subject: OpenModel, adapter: Adapter) -> tuple[FitSplit, str]:
    """Training and deciding examples, and a digest of both; the model is brought to float32."""
    passes = subject.passes_of(in_full(adapter))
    train_, val = (passes.checked(split) for split in FITTED)
    seed_everything(passes.reader.seed)  # what methods draw does not depend on which passes were made already
    width = adapter.task.expect(val.outputs[:1])[0].numel()
    at = FitSplit(train_, torch.arange(len(train_)), val, torch.arange(len(val)), width)
    return at, hashlib.sha256(f"{train_.digest} {val.digest}".encode()).hexdigest()


def _credit(before: Report, modality: str) -> float:
    found = before.find("utilisation.credit", modality)
    return found.value if found is not None and found.value is not None else 0.0


def _read(before: Report) -> dict[str, str]:
    """The family of the readout that each modality's due was read from."""
    found = {m: before.find("utilisation.strength", m) for m in before.subject.modalities}
    return {m: str(r.curve.x[0]) for m, r in found.items() if r is not None and r.curve is not None and r.curve.x}


def check_method_options(given: Mapping[str, Mapping[str, Any]]) -> dict[str, Options]:
    """Return options of every repair, ``given`` ones checked. Raises ConfigError naming the option."""
    for name in given:
        registry.get_repair(name)
    return {n: registry.checked_options("repair", n, s.options, given.get(n, {})) for n, s in registry.REPAIRS.items()}
