"""What to do next. After a diagnosis: the repair that `collapsekit repair` would recommend, what would judge more, the
gate. After a repair: the gate, or another method. After a comparison: its page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from collapsekit.cli.options import typed_fields
from collapsekit.config.options import CompareOptions, DiagnoseOptions, RepairOptions
from collapsekit.io.safe_text import TEXT_LIMIT, clean
from collapsekit.render.views._next import ask_more, gate_outcome, judge_more
from collapsekit.render.views._screen import NextStep
from collapsekit.report.diagnosis import Report
from collapsekit.report.recommend import advise, recommend, weak_modalities
from collapsekit.report.repair import WEIGHTS, RepairReport
from collapsekit.session.command_line import words_of

Options = TypeVar("Options", DiagnoseOptions, RepairOptions)
_SHARED = RepairOptions.model_fields.keys() & DiagnoseOptions.model_fields.keys() - {"options", "cache"}


@dataclass(frozen=True)
class Request(Generic[Options]):
    """What a diagnosis or a repair was asked for, as it was typed."""

    options: Options
    checkpoint: Path | None = None
    config: Path | None = None

    def command(self, name: str, options: DiagnoseOptions | RepairOptions) -> tuple[str, ...]:
        """Write a command about the same checkpoint by the same config."""
        return ("collapsekit", name, *self._subject(), *words_of(options, brief=True))

    def gate(self, report: Path | None, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Write the gate's command: of the report where it was written, and then the config is named where it has rules;
        else of the checkpoint, which it diagnoses again as it was."""
        if report is None:
            return ("collapsekit", "gate", *self._subject(), *gate_words(self.options))
        rules = bool(config.get("gate"))
        named: tuple[str, ...] = ("--config", str(self.config)) if self.config is not None and rules else ()
        return ("collapsekit", "gate", str(report), *named)

    def _subject(self) -> Iterator[str]:
        yield from [str(self.checkpoint)] * (self.checkpoint is not None)
        yield from ["--config", str(self.config)] * (self.config is not None)


def gate_words(options: DiagnoseOptions | RepairOptions) -> list[str]:
    """Return the options of a diagnosis or a repair that the gate takes for a diagnosis of its own, as they are typed."""
    changed = options.changed()
    taken = {one.path[0] for one in typed_fields(DiagnoseOptions, "gate")}
    return words_of(DiagnoseOptions.make(**{name: changed[name] for name in taken & changed.keys()}), brief=True)


def next_steps(report: Report, typed: Request[DiagnoseOptions], place: Path | None) -> tuple[NextStep, ...]:
    """List what can be done after a diagnosis, at most two things, the first one first.

    Args:
        report: The diagnosis.
        typed: What was asked for.
        place: Where report.json was written; None: nowhere.

    Returns:
        A repair where a modality surely is less used than it could be, chosen as `collapsekit repair` chooses it (of a model
        that is elsewhere none); what would judge more where something is open; else the gate.
    """
    if report.subject.engine is not None:
        return tuple(_elsewhere(report, typed, place))
    weak = weak_modalities(report)
    repair = [_repair(report, typed)] if weak else []
    if report.verdict == "inconclusive" or (report.judged is not None and report.judged.missing):
        return (*repair, _judge_more(report, typed))
    if weak:
        return (*repair, _gate(report, typed, place))
    return tuple(_keep(report, typed, place))


def after_repair(report: RepairReport, typed: Request[RepairOptions], folder: Path) -> tuple[NextStep, ...]:
    """List what can be done after a repair.

    Args:
        report: The repair.
        typed: What was asked for.
        folder: Where it was written.

    Returns:
        Of one that was accepted the gate of its weights; else the method that the diagnosis recommends, where that is
        another one, and what changed.
    """
    compare = NextStep("every number beside before and plain fine-tuning:", ("collapsekit", "compare", str(folder)))
    if report.accepted:
        config = report.after.settings.get("config", {})
        named = ("--config", str(typed.config)) if typed.config is not None else ()
        command = ("collapsekit", "gate", str(folder / WEIGHTS), *named, *gate_words(typed.options))
        return (NextStep(f"the gate for CI{gate_outcome(report.after, config)}:", command), compare)
    weak = weak_modalities(report.before)
    methods, why = recommend(report.before, weak) if weak else ((), "")
    if not methods or methods == report.method:
        return (compare,)
    options = typed.options.model_copy(update={"method": ",".join(methods), "resume": False, "force": True})
    return (NextStep(clean(why, TEXT_LIMIT), (*typed.command("repair", options), "--output", str(folder))), compare)


def after_comparison(typed: Sequence[str], options: CompareOptions) -> tuple[NextStep, ...]:
    """Name the command that draws the comparison, whose words are ``typed``."""
    command = ("collapsekit", "compare", *typed, *words_of(options, brief=True), "-f", "html", "-o", "compare.html")
    return (NextStep("a page with figures, every number, tests and definitions:", command),)


def _repair(report: Report, typed: Request[DiagnoseOptions]) -> NextStep:
    weak = weak_modalities(report)
    advice = advise(report, weak)
    if advice is not None:
        return NextStep(clean(advice, TEXT_LIMIT))
    methods, why = recommend(report, weak)
    shared = {name: getattr(typed.options, name) for name in _SHARED}
    options = RepairOptions.make(method=",".join(methods), **shared)
    return NextStep(clean(why, TEXT_LIMIT), typed.command("repair", options))


def _judge_more(report: Report, typed: Request[DiagnoseOptions]) -> NextStep:
    from collapsekit.readouts.unimodal import UnimodalOptions

    training = report.settings["probes"].get("prefix_gap", UnimodalOptions().model_dump())
    training = {name: training[name] for name in ("epochs", "budget")}
    more = judge_more(report, typed.options.profile, typed.options.limit, training)
    return NextStep(more.about, more.command(typed.command("diagnose", typed.options)))


def _elsewhere(report: Report, typed: Request[DiagnoseOptions], place: Path | None) -> Iterator[NextStep]:
    """What can be done about a model that is not here: ask it more, and the gate."""
    if report.verdict == "inconclusive" or (report.judged is not None and report.judged.missing):
        yield ask_more(report)
    if place is not None:
        yield _gate(report, typed, place)


def _gate(report: Report, typed: Request[DiagnoseOptions], place: Path | None) -> NextStep:
    config = report.settings.get("config", {})
    return NextStep(f"the gate for CI{gate_outcome(report, config)}:", typed.gate(place, config))


def _keep(report: Report, typed: Request[DiagnoseOptions], place: Path | None) -> Iterator[NextStep]:
    if place is None:
        yield _gate(report, typed, place)
        return
    yield NextStep(
        "nothing to repair. Keep this report as a baseline for later models:",
        ("collapsekit", "baseline", "create", str(place)),
    )
    gate = typed.gate(place, report.settings.get("config", {}))
    yield NextStep("and hold the report of a later one against it:", (*gate, "--baseline", "baseline.json"))
