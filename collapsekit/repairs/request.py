"""What was asked of a repair, checked, and the job it makes."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from collapsekit import registry
from collapsekit.adapters.base import Adapter
from collapsekit.config.options import RepairOptions
from collapsekit.config.schema import Config
from collapsekit.context import Options, Progress
from collapsekit.diagnosis import build_adapter, diagnose, settle_config
from collapsekit.distributed.process_group import current
from collapsekit.errors import ConfigError, FaultError
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.io.writable import check_folder
from collapsekit.probes.runner import warnings_of
from collapsekit.readouts.fit import in_full
from collapsekit.readouts.linear import Fold
from collapsekit.repairs.methods._warm_up import ENOUGH
from collapsekit.repairs.recommend import kept_by
from collapsekit.repairs.training.fsdp import need_shardable
from collapsekit.repairs.training.job import Job, trainable_of
from collapsekit.repairs.training.tensorboard import summary_writer
from collapsekit.report.diagnosis import Report
from collapsekit.session.checks import (
    check_call,
    check_data,
    check_modalities,
    check_named,
    check_parts,
    known_sizes,
)
from collapsekit.tasks.make import make_task, tasks_with_prior

FITTED = ("train", "val")  # the splits that a repair is trained on, and decided on
LITTLE = 0.05  # of the prior loss: under that an encoder trained alone gains nothing worth catching up on


@dataclass(frozen=True)
class Asked:
    """What is the same for the method and the control."""

    checkpoint: str | Path | None
    config: Config
    options: RepairOptions
    progress: Progress

    def adapter(self) -> Adapter:
        """The model as the checkpoint has it, in float32."""
        how = self.options
        built = build_adapter(self.config, self.checkpoint, device=how.device, seed=how.seed, trust=how.trust_pickle)
        return in_full(built)

    def decide(self, adapter: Adapter | None, split: str, probes: Sequence[str]) -> Report:
        """A report of the probes that a decision rests on. Raises FaultError where an error ended one of them."""
        report = self.diagnose(adapter, split, probes)
        ended = [w.sentence for w in warnings_of(report.results)]
        if ended:
            raise FaultError(
                f"what the repair is decided by could not be measured on split {split!r}: {' '.join(ended)} Nothing was "
                "written but snapshots of what was trained, from which --resume goes on."
            )
        return report

    def diagnose(
        self, adapter: Adapter | None, split: str, probes: Sequence[str] | None = None, weak: Sequence[str] = ()
    ) -> Report:
        """A report on ``adapter``'s model, or on the checkpoint itself; β is turned for the ``weak`` modalities."""
        return diagnose(
            self.checkpoint if adapter is None else None,
            config=self.config if adapter is None else adapter.config,
            model=None if adapter is None else adapter.model,
            split=split,
            probes=probes,
            options={"rank_sweep": {"modality": weak[0] if len(weak) == 1 else "all"}} if weak else None,
            profile=self.options.profile,
            device=self.options.device,
            seed=self.options.seed,
            limit=self.options.limit,
            trust_pickle=self.options.trust_pickle if adapter is None else None,
            plugins=self.options.plugins,
            progress=self.progress,
            cache=self.options.cache,
        )


class _Once(Progress):
    """Says each note once: several diagnoses of one model would say the same."""

    def __init__(self, shown: Progress) -> None:
        self.shown, self.said = shown, set[str]()

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


def make_asked(
    checkpoint: str | Path | None,
    config: str | Path | Mapping[str, Any] | Config | None,
    options: RepairOptions,
    progress: Progress | None = None,
) -> Asked:
    """The config found, plugins loaded, options checked against this machine. Raises CollapsekitError."""
    check_call(options, checkpoint=checkpoint, config=config, progress=progress)
    told = _Once(progress or Progress())
    settled = settle_config(config, checkpoint, told, "repair")
    registry.load_builtins()
    for file in [*map(settled.resolve, settled.plugins), *options.plugins]:
        registry.load_plugin_file(file)
    _need_judge(settled)
    need_shardable(options.training, options.device, current())
    if options.tensorboard is not None:
        summary_writer()
        current().once(partial(check_folder, options.tensorboard, "--tensorboard"))
    return Asked(checkpoint, settled, options, told)


def _need_judge(config: Config) -> None:
    """Raises ConfigError where no score could say whether a repair helped."""
    task = make_task(config.task, metric=config.metric, temperature=config.temperature, base=config.base)
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


def check_asked(asked: Asked, modalities: Sequence[str] | None, options: Collection[Options]) -> Adapter:
    """The data, whom to repair, what to freeze and the methods' options, against the config, then against the model as the
    checkpoint has it, which is given back; no example is read. Raises CollapsekitError."""
    names = modalities or ()
    _check_data(asked.config)
    check_modalities(options, asked.config)
    if asked.config.adapter == "module":
        check_named(names, tuple(asked.config.modalities))
    adapter = asked.adapter()
    check_modalities(options, asked.config, adapter.modalities)
    check_named(names, adapter.modalities)
    for split in FITTED:
        adapter.source.need(split)
    trainable_of(adapter.model, asked.options.training)
    return adapter


def make_job(asked: Asked, before: Report, weak: tuple[str, ...]) -> tuple[Job, str]:
    """The model as the checkpoint has it, to be trained; and a digest of the examples."""
    adapter = asked.adapter()
    at, data = _fold(adapter, asked)
    credit = {m: _credit(before, m) for m in adapter.modalities}
    kept = {m: share for m in weak if (share := kept_by(before, m, LITTLE)) is not None}
    found = {m: before.modalities[m].verdict for m in weak}
    behind = [m for m in weak if found[m] == "underused" and kept.get(m, 1.0) < ENOUGH]
    ignored = tuple(m for m in weak if found[m] == "collapsed" or m in behind)
    underused = tuple(m for m in weak if found[m] == "underused" and m not in behind)
    job = Job(adapter, at, weak, credit, asked.options.training, asked.options.seed, Options())
    return replace(job, ignored=ignored, underused=underused, kept=kept), data


def _fold(adapter: Adapter, asked: Asked) -> tuple[Fold, str]:
    """Training and deciding examples, and a digest of both."""
    train_, val = (_features(adapter, split, asked) for split in FITTED)
    width = adapter.task.expect(val.outputs[:1])[0].numel()
    at = Fold(train_, torch.arange(len(train_)), val, torch.arange(len(val)), width)
    return at, hashlib.sha256(f"{train_.digest} {val.digest}".encode()).hexdigest()


def _features(adapter: Adapter, split: str, asked: Asked) -> Features:
    return extract(adapter, split, limit=asked.options.limit, seed=asked.options.seed, progress=asked.progress)


def _credit(before: Report, modality: str) -> float:
    found = before.find("utilisation.credit", modality)
    return found.value if found is not None and found.value is not None else 0.0


def check_method_options(given: Mapping[str, Mapping[str, Any]]) -> dict[str, Options]:
    """Options of every repair, ``given`` ones checked. Raises ConfigError naming the option."""
    for name in given:
        registry.get_repair(name)
    return {n: registry.checked_options("repair", n, s.options, given.get(n, {})) for n, s in registry.REPAIRS.items()}
