"""repair(): diagnose, train, judge beside plain fine-tuning, export."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Unpack

from collapsekit import registry
from collapsekit.adapters.build import preserve_rng_state
from collapsekit.config.keywords import RepairKeywords, takes
from collapsekit.config.options import RepairOptions
from collapsekit.config.schema import Config
from collapsekit.config.values import check_path
from collapsekit.context import Options, Progress
from collapsekit.distributed.process_group import current
from collapsekit.errors import ConfigError, NothingEvaluatedError
from collapsekit.io.files import is_file, write_atomic
from collapsekit.io.locks import locked
from collapsekit.io.writable import check_folder, check_room
from collapsekit.repairs.acceptance import beats, metric_check, score_check, still_used_check
from collapsekit.repairs.export import export_weights
from collapsekit.repairs.forecast import describe_forecasts, forecasts
from collapsekit.repairs.recommend import recommend
from collapsekit.repairs.request import (
    RepairRequest,
    check_built,
    check_method_options,
    check_request,
    make_job,
    make_request,
)
from collapsekit.repairs.training.behaviour import behaviour_of
from collapsekit.repairs.training.estimate import estimate_cost, reckon_files
from collapsekit.repairs.training.job import Job, held_expectations
from collapsekit.repairs.training.loop import train
from collapsekit.repairs.training.snapshots import Snapshots
from collapsekit.report.diagnosis import Report
from collapsekit.report.repair import FILE, WEIGHTS, LossCurve, RepairReport, metric_of
from collapsekit.report.verdicts import is_weak
from collapsekit.session.checks import check_named
from collapsekit.session.opening import OpenModel
from collapsekit.session.subject import changed_weights, weights_by_name
from collapsekit.user_code.exits import no_exit
from collapsekit.user_code.process_state import preserve_process_state
from collapsekit.version import __version__

CONTROL = "finetune"
SNAPSHOTS = "snapshots"
SHOWN = ("repair.md", "repair.html")  # what the command line writes besides
DECIDING = ("utilisation", "prefix_gap")  # the probes that say whom to repair, and whether it helped


@takes(RepairOptions)
@no_exit()
@preserve_rng_state()
@preserve_process_state()
def repair(
    checkpoint: str | Path | None = None,
    *,
    output: str | Path,
    config: str | Path | Mapping[str, Any] | Config | None = None,
    progress: Progress | None = None,
    **keywords: Unpack[RepairKeywords],
) -> RepairReport:
    """Repair a checkpoint by fine-tuning, so that it uses what it ignored; judge that beside plain fine-tuning.

    It writes ``output``/model.safetensors (where it is accepted, or with ``keep``) and ``output``/repair.json. The
    checkpoint is never written.

    Args:
        checkpoint: The file or folder of weights; default: the config's model.checkpoint.
        output: The folder to write.
        config: The path of a collapsekit.yaml, a mapping of its keys, or a Config; default: the nearest file, as commands
            find it.
        method: Names of repairs, run in order; default: recommended from the diagnosis.
        modalities: Whom to repair; default: those collapsed or underused on the val split.
        options: Option values by repair, as ``--set`` takes them.
        training: Epochs, batch, rate and other fields of Training (docs/training.md).
        control: Whether plain fine-tuning is trained beside it, to judge the repair by.
        keep: Write the weights even where they are rejected.
        resume: Go on from the snapshots of an interrupted repair.
        force: Replace what is in the folder.
        profile, device, seed, limit, plugins, trust_pickle, progress, cache: As for :func:`collapsekit.diagnose`.
        tensorboard: A folder for the curves of training.

    Returns:
        Acceptance with its checks, and the reports before, after and of the control.

    Raises:
        CollapsekitError: For whatever the caller can mend.
        FaultError: Where an error of ours ended a probe that the repair is decided by; of another probe the reports in
            ``repair.json`` say so.

    Example:
        >>> import collapsekit
        >>> repair = collapsekit.repair(
        ...     "ckpt.pt", output="repaired", method="dropout", profile="quick", training={"epochs": 12, "rate": 0.01}
        ... )
        >>> repair.accepted, repair.before.modalities["audio"].verdict, repair.after.modalities["audio"].verdict
        (True, 'collapsed', 'used')
    """
    options = RepairOptions.make(**keywords)
    check_path("output", output)
    request = make_request(checkpoint, config, options, progress)
    named, every = _named(options.method), check_method_options(options.options or {})
    modalities, folder = options.modalities, Path(output)
    with _alone_in(folder):
        current().on_main(lambda: _free(folder, resume=options.resume, force=options.force))
        check_request(request, modalities, every.values())
        with request.open() as subject:
            check_built(request, subject.adapter, modalities, every.values())
            runs_wanted = 1 + (options.control and named != (CONTROL,))
            size = reckon_files(subject.adapter.model, options.training, runs_wanted)
            current().on_main(lambda: check_room(folder, size - _taken(folder), "the repair"))
            before = request.decide(subject, "val", DECIDING)
            weak = _whom(before, modalities)
            for said in describe_forecasts(before, weak):
                request.progress.note(said)
            chosen, why = (named, None) if named is not None else recommend(before, weak)
            if why is not None:
                request.progress.note(f"Method {','.join(chosen)}: {why}")
            split = "test" if "test" in subject.adapter.source.splits() else "val"
            shown = request.diagnose(subject, split, weak=weak)
        chains = {"method": chosen, **({"control": (CONTROL,)} if options.control and chosen != (CONTROL,) else {})}
        runs: dict[str, _MethodRun] = {}
        with preserve_rng_state():  # of a device too, which the diagnosis has set up
            for name, methods in chains.items():
                # The model that was diagnosed is trained itself, as nothing reads it any more.
                adapter = subject.adapter if not runs else subject.rebuilt()
                job, data = make_job(request, subject, adapter, before, weak)
                runs[name] = _MethodRun(request, job, data, methods, every, before, folder)
                runs[name].train()
            used = {name: every[name] for name in chosen}
            report = _judged(request, subject, runs, (before, shown), weak, used)
        current().assert_same(report.to_json(), "results")
        current().on_main(lambda: _write(folder, report, runs))
    return report


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """No other repair writes into the folder meanwhile. Raises ConfigError where one does, or nothing can be written."""
    with ExitStack() as stack:

        def lock() -> None:
            check_folder(folder, "--output", (WEIGHTS, FILE, *SHOWN))
            stack.enter_context(locked(folder / FILE, wait=0))

        current().on_main(lock)  # the first process's
        yield


def _write(folder: Path, report: RepairReport, runs: Mapping[str, _MethodRun]) -> None:
    """Weights and report; then the snapshots are no longer needed."""
    if report.exported:
        export_weights(runs["method"].adapter.model, folder)
    else:  # with --force: an earlier repair's, which the report beside them would not be of
        (folder / WEIGHTS).unlink(missing_ok=True)
    write_atomic(folder / FILE, report.to_json())
    for run in runs.values():
        run.clear()


@takes(RepairOptions)
@no_exit()
@preserve_rng_state()
@preserve_process_state()
def plan(
    checkpoint: str | Path | None = None,
    *,
    config: str | Path | Mapping[str, Any] | Config | None = None,
    progress: Progress | None = None,
    **keywords: Unpack[RepairKeywords],
) -> list[str]:
    """Say what :func:`repair` of the same arguments would train, and what that takes; nothing is written.

    Args:
        checkpoint: As for repair.
        config: As for repair.
        progress: As for repair.
        **keywords: The fields of RepairOptions.

    Returns:
        One sentence each.

    Raises:
        CollapsekitError: For whatever the caller can mend.
    """
    options = RepairOptions.make(**keywords)
    request = make_request(checkpoint, config, options, progress)
    named, every = _named(options.method), check_method_options(options.options or {})
    check_request(request, options.modalities, every.values())
    with request.open() as subject:
        check_built(request, subject.adapter, options.modalities, every.values())
        began = time.perf_counter()
        before = request.decide(subject, "val", DECIDING)
        took = time.perf_counter() - began
    weak = _whom(before, options.modalities)
    chosen, why = (named, None) if named is not None else recommend(before, weak)
    told = list(describe_forecasts(before, weak))
    told.append(f"To say this took {took:.0f} s: the diagnosis of val, which the repair begins with.")
    told.append(f"To repair: {', '.join(f'{m} ({before.modalities[m].verdict} on val)' for m in weak)}.")
    told.append(f"Method: {','.join(chosen)}" + (f"; {why}" if why else "."))
    job, _ = make_job(request, subject, subject.adapter, before, weak)
    own = frozenset(id(p) for p in job.adapter.model.parameters())
    here = job.at_place(0, every[chosen[0]])
    stages = registry.get_repair(chosen[0]).stages(here)
    return told + estimate_cost(next(iter(stages)), here, chosen[0], own)


class _MethodRun:
    """One chain of methods, trained from the checkpoint on."""

    def __init__(
        self,
        request: RepairRequest,
        job: Job,
        data: str,
        methods: tuple[str, ...],
        options: Mapping[str, Options],
        before: Report,
        folder: Path,
    ) -> None:
        """``data``: a digest of the examples; ``before``: the diagnosis that the methods follow."""
        self.request, self.job, self.data, self.methods, self.options = request, job, data, methods, options
        self.base, self.folder, self.adapter = before.subject.sha256, folder, job.adapter
        self.curves, self.kept = list[LossCurve](), list[Snapshots]()
        self.changed: frozenset[str] = frozenset()  # names of the weights that are not as the checkpoint has them

    def train(self) -> None:
        """Train one method after the other, from the snapshots on where it is resumed."""
        request, how, job = self.request, self.request.options, self.job
        began = weights_by_name(job.adapter)
        behaviour = current().on_main(lambda: behaviour_of(job))
        for place, name in enumerate(self.methods):
            part = Snapshots(
                self.folder / SNAPSHOTS / "-".join(self.methods[: place + 1]),
                self._identity(place),
                behaviour,
                request.progress.note,
            )
            if not how.resume:
                part.clear()
            self.kept.append(part)
            here = job.at_place(place, self.options[name])
            stages = registry.get_repair(name).stages(here)
            shown = None if how.tensorboard is None else Path(how.tensorboard) / part.folder.name
            self.curves += train(stages, here, name, part, request.progress, shown)
        self.adapter.model.eval()
        self.changed = current().on_main(lambda: changed_weights(began, weights_by_name(job.adapter)))

    def _identity(self, place: int) -> dict[str, Any]:
        """By what snapshots of the method at this place of the chain are known."""
        options, how = self.options, self.request.options
        return {
            "base": self.base,
            "data": self.data,
            "methods": [[n, options[n].model_dump(mode="json")] for n in self.methods[: place + 1]],
            "training": how.training.model_dump(mode="json", exclude={"fsdp"}),  # which may change on the way
            "modalities": list(self.job.weak),
            "seed": how.seed,
            "profile": how.profile,  # with the diagnosis it decides what a method begins with
        }

    def clear(self) -> None:
        """Remove the snapshots."""
        for part in self.kept:
            part.clear()
        parent = self.kept[0].folder.parent
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()


def _judged(
    request: RepairRequest,
    subject: OpenModel,
    runs: Mapping[str, _MethodRun],
    reports: tuple[Report, Report],
    weak: tuple[str, ...],
    options: Mapping[str, Options],
) -> RepairReport:
    """Acceptance on val, reports on test (val where there is none); ``reports``: of the checkpoint, on the two splits."""
    how, run, (before, shown) = request.options, runs["method"], reports
    split = shown.subject.split
    with _open(subject, run) as trained:
        decided = request.decide(trained, "val", DECIDING)
        after = request.diagnose(trained, split, weak=weak)
    beside = None
    if "control" in runs:
        with _open(subject, runs["control"]) as trained:
            beside = request.diagnose(trained, split, weak=weak)
    held = run.job.at.held.outputs[run.job.at.choose]  # as the checkpoint gave them
    expected = run.adapter.task.expect(held), held_expectations(run.job, lambda live: live.outputs)
    checks = (
        metric_check(run.job, *expected),
        *(score_check(m, before, decided) for m in weak),
        *(
            still_used_check(m, before, decided)
            for m, v in before.modalities.items()
            if m not in weak and v.verdict == "used"
        ),
    )
    accepted = all(check.passed for check in checks)
    return RepairReport(
        collapsekit=__version__,
        method=tuple(options),
        summary=_summary(tuple(options), weak, accepted, shown, after, beside),
        repaired=weak,
        base=before.subject.checkpoint,
        base_sha256=before.subject.sha256,
        accepted=accepted,
        exported=accepted or how.keep,
        checks=checks,
        before=shown,
        after=after,
        control=beside,
        forecast=forecasts(before, weak),
        gained=_difference(shown, after),
        losses=tuple(curve for r in runs.values() for curve in r.curves),
        findings=tuple(run.job.findings),
        structure=tuple(run.adapter.config.structure),  # records, checked there
        definitions={n: _definition(n, options.get(n)) for n in [*options, CONTROL]},
        settings={
            "options": {n: o.model_dump(mode="json") for n, o in options.items()},
            "training": how.training.model_dump(mode="json"),
            "seed": how.seed,
            "device": how.device,
            "limit": how.limit,
            "config": request.config.model_dump(mode="json", exclude_defaults=True),
        },
        environment=shown.environment,
    )


def _difference(before: Report, after: Report) -> float | None:
    """What the task metric gained; None where it was not measured on both sides."""
    old, new = metric_of(before), metric_of(after)
    return None if old is None or new is None else new - old


def _definition(name: str, options: Options | None) -> str:
    """What a method trains under its options, and where that is from."""
    spec = registry.get_repair(name)
    return f"{spec.define(options or spec.options())} ({spec.source})"


def _open(subject: OpenModel, run: _MethodRun) -> AbstractContextManager[OpenModel]:
    """The model that was trained, to be diagnosed beside the checkpoint."""
    return subject.with_model(run.adapter.model, run.adapter.config, changed=run.changed)


def _summary(
    method: tuple[str, ...], weak: tuple[str, ...], accepted: bool, before: Report, after: Report, beside: Report | None
) -> str:
    told = [f"{m} is {after.modalities[m].verdict}, before it was {before.modalities[m].verdict}" for m in weak]
    judged = "accepted" if accepted else "rejected"
    text = f"{','.join(method)} was {judged} on the validation split. On {after.subject.split}, {'; '.join(told)}."
    if beside is None:
        return text
    better = beats(after, beside, weak)
    if better is None:
        return f"{text} Whether it beats plain fine-tuning is not known."
    return f"{text} It {'beats' if better else 'does not beat'} plain fine-tuning at that."


def _free(folder: Path, *, resume: bool, force: bool) -> None:
    """Raises ConfigError where the folder is in use or cannot be written; with ``force``, an unfinished repair in it is
    removed."""
    unfinished = (folder / SNAPSHOTS).is_dir()
    there = [name for name in (WEIGHTS, FILE) if is_file(folder / name)]
    if there and not force and not (resume and unfinished):  # ended while it was being written
        raise ConfigError(
            f"{folder} already holds {' and '.join(there)}: name another folder, or replace it with --force."
        )
    if unfinished and not (resume or force):
        raise ConfigError(f"{folder} holds an unfinished repair: go on with --resume, or start anew with --force.")
    if unfinished and not resume:
        for part in (folder / SNAPSHOTS).iterdir():
            Snapshots(part, {}).clear()


def _taken(folder: Path) -> int:
    """Bytes of snapshots that are there, and will be replaced."""
    return sum(f.stat().st_size for f in (folder / SNAPSHOTS).rglob("*") if is_file(f))


def _whom(before: Report, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The modalities to repair. Raises ConfigError for unknown names, NothingEvaluatedError where there are none."""
    known = before.subject.modalities
    check_named(wanted or (), known)
    weak = tuple(m for m in known if (m in wanted if wanted else is_weak(before.modalities[m])))
    if not weak:
        raise NothingEvaluatedError(
            f"no modality is collapsed or underused on the val split, so there is nothing to repair: {before.summary} "
            "Name one with --modality to repair it all the same."
        )
    return weak


def _named(method: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """The methods named, each known and named once; None where none was. Raises ConfigError."""
    if method is None:
        return None
    names = tuple(n.strip() for n in method.split(",")) if isinstance(method, str) else tuple(method)
    for name in names:
        registry.get_repair(name)
    again = next((n for n in names if names.count(n) > 1), None)
    if again is not None or not names:
        raise ConfigError(f"--method names {f'{again!r} twice' if again else 'nothing'}: give each repair once.")
    return names
