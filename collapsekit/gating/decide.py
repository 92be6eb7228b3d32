"""gate(): rules and comparisons of one report, and what they come to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import get_args

from collapsekit.config.options import Situation
from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.gating.baseline import baseline_of
from collapsekit.gating.criteria import DEFAULT as WATCH
from collapsekit.gating.criteria import Limits, says_nothing
from collapsekit.gating.inputs import report_of
from collapsekit.gating.rules.evaluate import DEFAULT, check_judged, decide_rule
from collapsekit.report.baseline import Baseline, Run, differs, seed_of
from collapsekit.report.diagnosis import Report
from collapsekit.report.gate import Against, GateCheck, GateReport, State, outcome_of
from collapsekit.report.per_example import PerExample
from collapsekit.report.repair import RepairReport
from collapsekit.version import __version__


def gate(
    report: Report | RepairReport | str | os.PathLike[str],
    *,
    require: str | Sequence[str] | None = None,
    baseline: Baseline | str | os.PathLike[str] | None = None,
    situation: Situation = "auto",
    watch: str | Sequence[str] = WATCH,
    alpha: float = 0.05,
    margins: Mapping[str, float] | None = None,
    effects: Mapping[str, float] | None = None,
    allow_partial: bool = False,
) -> GateReport:
    """Decide whether a model may ship, by rules over its report and by comparison with earlier reports.

    Nothing is printed or written, and only the files that are named are read: no config is looked for. ``collapsekit gate``
    of the same report, rules and numbers gives the same answer.

    Args:
        report: The report to judge, or the path of a report.json, of its folder, or of a repair.json (whose model after the
            repair is judged). The records beside a file are read with it.
        require: A rule or several (docs/gate.md). Without: ``verdict != collapsed`` where there is no baseline, else none.
        baseline: Earlier reports to compare with, as :func:`collapsekit.baseline` makes them, or the path of such a file.
        situation: ``paired`` (the same training run, compared example by example), ``retrained`` (another run, compared with
            how the baseline's runs vary), or ``auto``: told by weights and training seeds.
        watch: What is compared with the baseline: of ``metric``, ``use``, ``missing``.
        alpha: The most false alarms, as a probability over everything compared.
        margins: By kind of what is watched, a worsening under which nothing fails, in its own unit: of the metric, or of
            what is due to a modality (docs/gate.md has the defaults).
        effects: By kind, a worsening that must not be missed: where it could have been, the check is inconclusive.
        allow_partial: Whether a report may pass that judged its modalities only partly, as profile quick mostly does; else
            that is inconclusive.

    Returns:
        The checks and the outcome, ``passed``, ``failed`` or ``inconclusive``; true where it passed.

    Raises:
        ConfigError: For what is no report, a rule or number that cannot be read, or a baseline that cannot be compared with.
        RefusedError: Where a file or its records are damaged.

    Example:
        >>> import collapsekit
        >>> result = collapsekit.gate("report.json", require="verdict != collapsed")
        >>> result.outcome, result.exit_code
        ('failed', 1)
        >>> print(result.checks[0].sentence)
        Does not hold: verdict is collapsed (of audio).
    """
    limits = Limits(
        watch=(watch,) if isinstance(watch, str) else tuple(watch),
        alpha=alpha,
        margins=margins or {},
        effects=effects or {},
    )
    earlier = None if baseline is None else baseline_of(baseline)
    return decide(
        report_of(report),
        require=require,
        baseline=earlier,
        limits=limits,
        situation=situation,
        allow_partial=allow_partial,
    )


def decide(
    report: Report,
    *,
    require: str | Sequence[str] | None = None,
    baseline: Baseline | None = None,
    limits: Limits | None = None,
    situation: Situation = "auto",
    allow_partial: bool = False,
) -> GateReport:
    """Judge a report that was read, as ``limits`` say: :func:`gate` without its files.

    Args:
        report: The report to judge, with its records where it has any.
        require: A rule, or several; None: ``verdict != collapsed`` where there is no baseline, else none.
        baseline: What it is compared with: the same weights or training seed as one of its runs paired over the
            examples of ``report.records``, else against how retrained models vary; ``situation`` says otherwise.
        limits: What is watched, and by how much it may worsen.
        situation: Which comparison; ``auto`` follows from weights and seeds.
        allow_partial: Whether a report that was only partly judged may pass.

    Returns:
        The checks, and the outcome that follows from them.

    Raises:
        ConfigError: For a rule that cannot be read, or a baseline that cannot be compared.
        RefusedError: For damaged records.
    """
    if situation not in get_args(Situation):
        near = did_you_mean(str(situation), get_args(Situation))
        raise ConfigError(f"there is no situation {situation!r}{near}: {', '.join(get_args(Situation))}.")
    limits = limits or Limits()
    asked = require if require is not None else (DEFAULT if baseline is None else ())
    asked = [asked] if isinstance(asked, str) else asked
    rules = list(dict.fromkeys(rule.strip() for rule in asked))
    checks = [decide_rule(rule, report) for rule in rules]
    against, notes = None, list[str]()
    if baseline is not None:
        against, compared = _compare(report, baseline, limits, situation)
        checks += compared
        notes += [*_notes(baseline, limits), *_unchecked(report)]
    elif situation != "auto":
        raise ConfigError(f"situation {situation!r} needs a baseline to compare with: name one with --baseline.")
    if checks and not allow_partial:
        checks.append(check_judged(report))
    outcome = outcome_of([c.state for c in checks])
    return GateReport(
        collapsekit=__version__,
        outcome=outcome,
        summary=_summary(outcome, checks),
        subject=report.subject,
        verdict=report.verdict,
        modalities={m: v.verdict for m, v in report.modalities.items()},
        checks=tuple(checks),
        against=against,
        notes=tuple(notes),
        settings={
            "require": rules,
            "allow_partial": allow_partial,
            "alpha": limits.alpha,
            "watch": list(limits.watch),
            "margins": {k: limits.margin(k) for k in limits.watch},
            "effects": {k: limits.effect(k) for k in limits.watch},
        },
    )


def _compare(
    report: Report, baseline: Baseline, limits: Limits, situation: Situation
) -> tuple[Against, list[GateCheck]]:
    said = differs(baseline.runs[0].report, report)
    if said is not None:
        raise ConfigError(
            f"the report cannot be compared with the baseline, as {said}: diagnose as the baseline was, or make it anew "
            "with `collapsekit baseline create`."
        )
    # Imported here: rules alone need neither NumPy nor SciPy, which take a second.
    from collapsekit.gating.regression import paired_checks, retrained_checks, undecided

    twin, because = _twin(report, baseline)
    if situation == "retrained" or (situation == "auto" and twin is None):
        if situation == "retrained":
            because = "as asked"
        return Against(situation="retrained", runs=len(baseline.runs), because=because), retrained_checks(
            report, baseline.runs, limits
        )
    if twin is None:
        raise ConfigError(
            f"nothing can be paired, as {because}: leave out --situation, or give the report of that run."
        )
    against = Against(situation="paired", runs=1, because=because)
    if report.records is None or twin.records is None:
        whose = "the report" if report.records is None else "the baseline's run"
        why = f"pairing needs what {whose} says of each example: keep records.safetensors beside report.json"
        return against, undecided(report, limits, "paired", why)
    return against, paired_checks(report, PerExample.from_bytes(report.records, "records.safetensors"), twin, limits)


def _twin(report: Report, baseline: Baseline) -> tuple[Run | None, str]:
    """The baseline's run of the same training, if there is one, and why it is or is not."""
    for run in baseline.runs:
        if run.report.subject.sha256 == report.subject.sha256:
            return run, "the weights are the same"
    seed = seed_of(report)
    for run in baseline.runs:
        if seed is not None and run.training_seed == seed:
            return run, f"both were trained with seed {seed}"
    seeds = "no run of the baseline has its weights"
    return None, seeds + (" or training seed" if seed is not None else ", and the report names no training seed")


def _unchecked(report: Report) -> list[str]:
    """What a reader should know of numbers that nothing could be held against."""
    if report.records is not None or report.settings.get("records") is None:
        return []
    return [
        "the report names records of its examples, which were not there: its numbers could not be checked against them."
    ]


def _notes(baseline: Baseline, limits: Limits) -> list[str]:
    reports, found = [run.report for run in baseline.runs], []
    collapsed = sum(r.verdict == "collapsed" for r in reports)
    if collapsed:
        who = f"{collapsed} of the {len(reports)} runs of the baseline are collapsed themselves"
        if len(reports) == 1:
            who = "the baseline's one run is collapsed itself"
        found.append(f"{who}: to be no worse is not to be healthy.")
    idle = says_nothing(reports) if "use" in limits.watch else []
    if idle:
        found.append(f"the use of {', '.join(idle)} is not watched, as the baseline says that nothing is due to it.")
    return found


def _summary(outcome: State, checks: Sequence[GateCheck]) -> str:
    def names(state: State) -> str:
        found = [c.name for c in checks if c.state == state]
        return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")

    count = len(checks)
    if not checks:
        return "Nothing was checked: give a rule or a baseline."
    if outcome == "passed":
        return "The one check passed." if count == 1 else f"All {count} checks passed."
    number = sum(c.state == outcome for c in checks)
    which = "The one check" if count == 1 else f"{number} of {count} checks"
    if outcome == "failed":
        return f"{which} failed: {names('failed')}."
    return f"{which if count == 1 else f'Nothing failed, but {which}'} decided nothing: {names('inconclusive')}."
