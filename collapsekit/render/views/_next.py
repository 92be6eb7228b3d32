"""What to do after a diagnosis, out of its report alone: the repair that it recommends, what would judge more, the gate.

The command line says the same of what was typed (``collapsekit.cli.next_steps``), which can name more. A report's own
command may be a stranger's: only words of it that name the checkpoint, the config and the run are taken on.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from collapsekit.errors import CollapsekitError
from collapsekit.gating.decide import decide
from collapsekit.io.safe_text import TEXT_LIMIT, clean
from collapsekit.render.views._screen import NextStep
from collapsekit.report.diagnosis import Report
from collapsekit.report.recommend import recommend, weak_modalities

_KEPT = (
    "--config",
    "--seed",
    "--device",
    "--limit",
)  # of a diagnosis's words, those that a repair and a gate take, too
_USUAL = (("--seed", "0"), ("--device", "cpu"))


def recorded_steps(report: Report) -> tuple[NextStep, ...]:
    """List what can be done after a diagnosis: a repair where a modality is less used than it could be, then the gate.

    Args:
        report: The diagnosis.

    Returns:
        The steps, with their commands where the report says by which command it was made.
    """
    here = report.subject.engine is None  # no weights of a model that is elsewhere can be trained
    weak, subject = weak_modalities(report) if here else (), tuple(_subject(report))
    steps = []
    if weak:
        methods, why = recommend(report, weak)
        command = ("collapsekit", "repair", *subject, "--method", ",".join(methods)) if subject else ()
        steps.append(NextStep(clean(why, TEXT_LIMIT), command))
    elif report.verdict == "healthy" and here:
        steps.append(NextStep("nothing to repair."))
    if report.verdict == "inconclusive" or (report.judged is not None and report.judged.missing):
        steps.append(NextStep("to judge more: the reason of each modality says what would."))
    gate = ("collapsekit", "gate", *subject) if subject else ("collapsekit", "gate", "report.json")
    return (*steps, NextStep(f"the gate for CI{gate_outcome(report, report.settings.get('config', {}))}:", gate))


def gate_outcome(report: Report, config: Mapping[str, Any]) -> str:
    """Say how the gate ends as things stand, by the config's rules; nothing where that takes a baseline."""
    rules = config.get("gate", {}) if isinstance(config, Mapping) else {}
    if rules.get("baseline") is not None:
        return ""
    try:
        found = decide(report, require=rules.get("require"), allow_partial=bool(rules.get("allow_partial")))
    except (CollapsekitError, OSError):  # it says so itself when it is run
        return ""
    return f", which as it stands {'passes' if found.outcome == 'passed' else f'exits with {found.exit_code}'}"


def _subject(report: Report) -> Iterator[str]:
    """The checkpoint, the config, and how examples are drawn, as the report's own command names them."""
    command = report.settings.get("command")
    try:
        words = shlex.split(command) if isinstance(command, str) else []
    except ValueError:
        return
    if words[:2] != ["collapsekit", "diagnose"] or len(words) < 3 or words[2].startswith("-"):
        return
    yield words[2]
    for option, value in pairwise(words[3:]):
        if option in _KEPT and (option, value) not in _USUAL:
            yield from (option, value)
