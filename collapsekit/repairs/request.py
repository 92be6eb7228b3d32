"""What was asked of a repair, checked, and the job it makes."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from collapsekit import registry
from collapsekit.adapters.base import Adapter
from collapsekit.config.schema import Config
from collapsekit.context import Options, Profile, Progress
from collapsekit.diagnosis import build_adapter, diagnose, settle_config
from collapsekit.distributed.process_group import current
from collapsekit.errors import ConfigError, FaultError, did_you_mean
from collapsekit.features.extraction import extract
from collapsekit.features.features import Features
from collapsekit.io.writable import check_folder
from collapsekit.probes.runner import warnings_of
from collapsekit.readouts.fit import in_full
from collapsekit.readouts.linear import Fold
from collapsekit.repairs.methods._warm_up import ENOUGH
from collapsekit.repairs.recommend import kept_by
from collapsekit.repairs.training.fsdp import need_shardable
from collapsekit.repairs.training.job import Job, Training, trainable_of
from collapsekit.repairs.training.tensorboard import summary_writer
from collapsekit.report.diagnosis import Report
from collapsekit.session.checks import (
    check_arguments,
    check_data,
    check_modalities,
    check_named,
    check_parts,
    known_sizes,
)
from collapsekit.tasks.make import make_task, tasks_with_prior

FITTED = ("train", "val")  # the splits that a repair is trained on, and decided on
# How the command line calls what is called otherwise there.
FLAGS = {"rate": "--lr", "batch": "--batch-size", "weight_decay": "--weight-decay"}
LITTLE = 0.05  # of the prior loss: under that an encoder trained alone gains nothing worth catching up on


@dataclass(frozen=True)
class Asked:
    """What is the same for the method and the control."""

    checkpoint: str | Path | None
    config: Config
    training: Training
    device: str
    seed: int
    limit: int | None
    profile: Profile
    trust: str | None
    cache: str | Path | None
    plugins: Sequence[str | Path]
    progress: Progress
    tensorboard: Path | None = None

    def adapter(self) -> Adapter:
        """The model as the checkpoint has it, in float32."""
        built = build_adapter(self.config, self.checkpoint, device=self.device, seed=self.seed, trust=self.trust)
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
            profile=self.profile,
            device=self.device,
            seed=self.seed,
            limit=self.limit,
            trust_pickle=self.trust if adapter is None else None,
            plugins=self.plugins,
            progress=self.progress,
            cache=self.cache,
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
    training: Mapping[str, Any] | None,
    *,
    profile: Profile = "standard",
    device: str = "cpu",
    seed: int = 0,
    limit: int | None = None,
    plugins: Sequence[str | Path] = (),
    trust_pickle: str | None = None,
    progress: Progress | None = None,
    cache: str | Path | None = None,
    tensorboard: str | Path | None = None,
) -> Asked:
    """The config found, plugins loaded, settings checked; ``tensorboard``: a folder for training's curves; other keywords
    as for diagnose. Raises CollapsekitError."""
    check_arguments(locals())
    told = _Once(progress or Progress())
    settled = settle_config(config, checkpoint, told, "repair")
    registry.load_builtins()
    for file in [*(settled.resolve(p) for p in settled.plugins), *plugins]:
        registry.load_plugin_file(file)
    _need_judge(settled)
    how = check_training(training or {})
    need_shardable(how, device, current())
    curves = None if tensorboard is None else Path(tensorboard)
    if curves is not None:
        summary_writer()
        current().once(partial(check_folder, curves, "--tensorboard"))
    return Asked(checkpoint, settled, how, device, seed, limit, profile, trust_pickle, cache, plugins, told, curves)


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
    trainable_of(adapter.model, asked.training)
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
    job = Job(adapter, at, weak, credit, asked.training, asked.seed, Options())
    return replace(job, ignored=ignored, underused=underused, kept=kept), data


def _fold(adapter: Adapter, asked: Asked) -> tuple[Fold, str]:
    """Training and deciding examples, and a digest of both."""
    train_, val = (_features(adapter, split, asked) for split in FITTED)
    width = adapter.task.expect(val.outputs[:1])[0].numel()
    at = Fold(train_, torch.arange(len(train_)), val, torch.arange(len(val)), width)
    return at, hashlib.sha256(f"{train_.digest} {val.digest}".encode()).hexdigest()


def _features(adapter: Adapter, split: str, asked: Asked) -> Features:
    return extract(adapter, split, limit=asked.limit, seed=asked.seed, progress=asked.progress)


def _credit(before: Report, modality: str) -> float:
    found = before.find("utilisation.credit", modality)
    return found.value if found is not None and found.value is not None else 0.0


def check_training(given: Mapping[str, Any]) -> Training:
    """Training settings, checked. Raises ConfigError naming the one that is wrong."""
    try:
        return Training(**given)
    except ValidationError as e:
        first = e.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "?"
        if first["type"] == "extra_forbidden":
            known = list(Training.model_fields)
            near = did_you_mean(name, known)
            raise ConfigError(f"there is no training setting {name!r}{near}: {', '.join(known)}.") from None
        flag = f" ({FLAGS[name]})" if name in FLAGS else ""
        raise ConfigError(f"training setting {name!r}{flag}: {first['msg']}, found {given.get(name)!r}.") from None


def check_method_options(given: Mapping[str, Mapping[str, Any]]) -> dict[str, Options]:
    """Options of every repair, ``given`` ones checked. Raises ConfigError naming the option."""
    for name in given:
        registry.get_repair(name)
    return {n: registry.checked_options("repair", n, s.options, given.get(n, {})) for n, s in registry.REPAIRS.items()}
