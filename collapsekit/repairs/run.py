"""repair(): diagnose, train, judge beside plain fine-tuning, export."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from collapsekit import registry
from collapsekit.adapters.build import preserve_rng_state
from collapsekit.config.keywords import RepairKeywords, takes
from collapsekit.config.options import RepairOptions
from collapsekit.config.schema import Config
from collapsekit.config.values import check_path
from collapsekit.context import Options
from collapsekit.distributed.process_group import current
from collapsekit.repairs import stages
from collapsekit.repairs.chain import MethodChain
from collapsekit.repairs.decision import RepairDecision, decide_repair, read_methods
from collapsekit.repairs.folder import check_free, check_room_for, lock_folder, write_results
from collapsekit.repairs.judging import CONTROL, DECIDING, judge_repair
from collapsekit.repairs.request import (
    RepairRequest,
    check_built,
    check_method_options,
    check_request,
    make_job,
    make_request,
)
from collapsekit.repairs.training.estimate import estimate_cost, reckon_files
from collapsekit.report.repair import RepairReport
from collapsekit.report.verdicts import describe_state
from collapsekit.session.opening import OpenModel
from collapsekit.session.progress_display import ProgressChoice, shown_progress
from collapsekit.user_code.exits import no_exit
from collapsekit.user_code.process_state import preserve_process_state


@takes(RepairOptions)
@no_exit()
@preserve_rng_state()
@preserve_process_state()
def repair(
    checkpoint: str | Path | None = None,
    *,
    output: str | Path,
    config: str | Path | Mapping[str, Any] | Config | None = None,
    progress: ProgressChoice = None,
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
    with shown_progress(progress) as display:
        request = make_request(checkpoint, config, options, display)
        methods, every = read_methods(options.method), check_method_options(options.options or {})
        folder = Path(output)
        with lock_folder(folder):
            current().on_main(lambda: check_free(folder, resume=options.resume, force=options.force))
            check_request(request, options.modalities, every.values())
            with request.open() as subject:
                check_built(request, subject.adapter, options.modalities, every.values())
                runs_wanted = 1 + (options.control and methods != (CONTROL,))
                size = reckon_files(subject.adapter.model, options.training, runs_wanted)
                current().on_main(lambda: check_room_for(folder, size))
                stages.plan(request.progress, options, methods, subject.adapter)
                request.progress.begin(stages.BEFORE)
                decision = decide_repair(request.decide(subject, "val", DECIDING), methods, options.modalities)
                _announce(request, decision)
                split = "test" if "test" in subject.adapter.source.splits() else "val"
                request.progress.begin(stages.SHOWN)
                shown = request.diagnose(subject, split, weak=decision.weak)
            with preserve_rng_state():  # of a device too, which the diagnosis has set up
                runs = _train(request, subject, decision, every, folder)
                report = judge_repair(request, subject, runs, shown, decision, {n: every[n] for n in decision.methods})
            current().assert_same(report.to_json(), "results")
            current().on_main(lambda: _finish(folder, report, runs))
        return report


def _announce(request: RepairRequest, decision: RepairDecision) -> None:
    """Tell what is expected of the repair, and by which methods, before it trains."""
    for sentence in decision.describe_forecasts():
        request.progress.note(sentence)
    if decision.why is not None:
        request.progress.note(f"Method {','.join(decision.methods)}: {decision.why}")


def _train(
    request: RepairRequest, subject: OpenModel, decision: RepairDecision, every: Mapping[str, Options], folder: Path
) -> dict[str, MethodChain]:
    """The methods' chain, and that of the control, each trained from the checkpoint on."""
    chains = {"method": decision.methods}
    if request.options.control and decision.methods != (CONTROL,):
        chains["control"] = (CONTROL,)
    runs: dict[str, MethodChain] = {}
    for name, methods in chains.items():
        # The model that was diagnosed is trained itself, as nothing reads it any more.
        adapter = subject.adapter if not runs else subject.rebuilt()
        job, data = make_job(request, subject, adapter, decision.before, decision.weak)
        request.progress.begin(stages.TRAINING[name])
        runs[name] = MethodChain(request, job, data, methods, every, decision.before, folder)
        runs[name].train()
    return runs


def _finish(folder: Path, report: RepairReport, runs: Mapping[str, MethodChain]) -> None:
    """Weights and report; then the snapshots are no longer needed."""
    write_results(folder, report, runs["method"].adapter.model)
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
    progress: ProgressChoice = None,
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
    with shown_progress(progress) as display:
        request = make_request(checkpoint, config, options, display)
        methods, every = read_methods(options.method), check_method_options(options.options or {})
        check_request(request, options.modalities, every.values())
        with request.open() as subject:
            check_built(request, subject.adapter, options.modalities, every.values())
            began = time.perf_counter()
            before = request.decide(subject, "val", DECIDING)
            took = time.perf_counter() - began
        decision = decide_repair(before, methods, options.modalities)
        first = decision.methods[0]
        job, _ = make_job(request, subject, subject.adapter, before, decision.weak)
        own = frozenset(id(p) for p in job.adapter.model.parameters())
        here = job.at_place(0, every[first])
        stages = registry.get_repair(first).stages(here)
        return [
            *decision.describe_forecasts(),
            f"To say this took {took:.0f} s: the diagnosis of val, which the repair begins with.",
            f"To repair: {', '.join(f'{m} ({describe_state(before.modalities[m])} on val)' for m in decision.weak)}.",
            f"Method: {','.join(decision.methods)}{f'; {decision.why}' if decision.why else '.'}",
            *estimate_cost(next(iter(stages)), here, first, own),
        ]
