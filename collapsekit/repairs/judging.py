"""The report of a repair: whether it is accepted, and what it changed, beside plain fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

from collapsekit import registry
from collapsekit.context import Options
from collapsekit.repairs import stages
from collapsekit.repairs.acceptance import beats, metric_check, score_check, still_used_check
from collapsekit.repairs.chain import MethodChain
from collapsekit.repairs.decision import RepairDecision
from collapsekit.repairs.forecast import forecasts
from collapsekit.repairs.request import RepairRequest
from collapsekit.repairs.training.job import held_expectations
from collapsekit.report.diagnosis import Report
from collapsekit.report.repair import Check, RepairReport, metric_of
from collapsekit.report.verdicts import describe_state
from collapsekit.session.opening import OpenModel
from collapsekit.version import __version__

CONTROL = "finetune"
DECIDING = ("utilisation", "prefix_gap")  # the probes that say whom to repair, and whether it helped


def judge_repair(
    request: RepairRequest,
    subject: OpenModel,
    runs: Mapping[str, MethodChain],
    shown: Report,
    decision: RepairDecision,
    options: Mapping[str, Options],
) -> RepairReport:
    """Judge the trained models: what is accepted is decided on val, and shown on test, where there is one.

    Args:
        request: What was asked for.
        subject: The checkpoint, opened.
        runs: "method", trained, and "control" where there is one.
        shown: The diagnosis of the checkpoint on the split that is shown.
        decision: What was repaired, and how.
        options: Of the methods, by name.

    Returns:
        The report.
    """
    how, run, (before, weak) = request.options, runs["method"], (decision.before, decision.weak)
    split = shown.subject.split
    request.progress.begin(stages.DECIDED)
    with _open(subject, run) as trained:
        decided = request.decide(trained, "val", DECIDING)
        request.progress.begin(stages.AFTER)
        after = request.diagnose(trained, split, weak=weak)
    beside = None
    if "control" in runs:
        request.progress.begin(stages.CONTROL)
        with _open(subject, runs["control"]) as trained:
            beside = request.diagnose(trained, split, weak=weak)
    checks = _check(run, decision, decided)
    accepted = all(check.passed for check in checks)
    return RepairReport(
        collapsekit=__version__,
        method=decision.methods,
        summary=_summarise(decision, accepted, shown, after, beside),
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
        definitions={n: _define(n, options.get(n)) for n in [*options, CONTROL]},
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


def _check(run: MethodChain, decision: RepairDecision, after: Report) -> tuple[Check, ...]:
    """What a repair is accepted by, on val: the task metric, and how each modality is used."""
    before, weak = decision.before, decision.weak
    held = run.job.at.held.outputs[run.job.at.choose]  # as the checkpoint gave them
    expected = run.adapter.task.expect(held), held_expectations(run.job, lambda live: live.outputs)
    others = [m for m, v in before.modalities.items() if m not in weak and v.verdict == "used"]
    return (
        metric_check(run.job, *expected),
        *(score_check(m, before, after) for m in weak),
        *(still_used_check(m, before, after) for m in others),
    )


def _difference(before: Report, after: Report) -> float | None:
    """What the task metric gained; None where it was not measured on both sides."""
    old, new = metric_of(before), metric_of(after)
    return None if old is None or new is None else new - old


def _define(name: str, options: Options | None) -> str:
    """What a method trains under its options, and where that is from."""
    spec = registry.get_repair(name)
    return f"{spec.define(options or spec.options())} ({spec.source})"


def _open(subject: OpenModel, run: MethodChain) -> AbstractContextManager[OpenModel]:
    """The model that was trained, to be diagnosed beside the checkpoint."""
    return subject.with_model(run.adapter.model, run.adapter.config, changed=run.changed)


def _summarise(decision: RepairDecision, accepted: bool, before: Report, after: Report, beside: Report | None) -> str:
    states = [
        f"{m} is {describe_state(after.modalities[m])}, before it was {describe_state(before.modalities[m])}"
        for m in decision.weak
    ]
    judged = "accepted" if accepted else "rejected"
    methods, split = ",".join(decision.methods), after.subject.split
    text = f"{methods} was {judged} on the validation split. On {split}, {'; '.join(states)}."
    if beside is None:
        return text
    better = beats(after, beside, decision.weak)
    if better is None:
        return f"{text} Whether it beats plain fine-tuning is not known."
    return f"{text} It {'beats' if better else 'does not beat'} plain fine-tuning at that."
