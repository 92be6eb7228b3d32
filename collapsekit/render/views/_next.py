"""What to do after a diagnosis, out of its report alone: the repair that it recommends, what would judge more, the gate.

The command line says the same of what was typed (``collapsekit.cli.next_steps``), which can name more. A report's own
command may be a stranger's: only words of it that name the checkpoint, the config and the run are taken on.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from collapsekit.errors import CollapsekitError
from collapsekit.gating.decide import decide
from collapsekit.io.safe_text import TEXT_LIMIT, clean
from collapsekit.render.views._screen import NextStep
from collapsekit.report.diagnosis import Report
from collapsekit.report.recommend import advise, recommend, weak_modalities
from collapsekit.report.verdicts import DECIDING

# Of a diagnosis's words: those that a repair takes, too, those that a gate takes, which diagnoses the checkpoint once more,
# and those that another diagnosis takes.
_KEPT = ("--config", "--seed", "--profile", "--device", "--limit")
_GATED = (*_KEPT, "--split", "--training-seed")
_CHOSEN = (*_KEPT, "--split", "--probe", "--skip")
_SETTLED = ("split", "seed", "profile", "device", "limit")  # of settings, those that are words of a command
_USUAL = (("--seed", "0"), ("--device", "cpu"), ("--split", "test"), ("--profile", "standard"))
_FULL, _EPOCHS = "budget", "epochs were over"  # words of what is missing, where more training would judge more
_ALL = ("",)  # every value begins with it


@dataclass(frozen=True)
class More:
    """What would judge more, and how the words of the diagnosis change for it.

    Attributes:
        about: The reason, a sentence.
        dropped: By option, how the values begin that are no longer asked for.
        added: Words that are asked for instead.
        helps: Whether a command would; else only the sentence is said.
    """

    about: str
    dropped: Mapping[str, Sequence[str]] = field(default_factory=dict)
    added: tuple[str, ...] = ()
    helps: bool = True

    def command(self, words: Sequence[str]) -> tuple[str, ...]:
        """Change the words of a diagnosis; none come of none, or where no command would help."""
        if not words or not self.helps:
            return ()
        kept, rest = [], iter(words)
        for word in rest:
            values = [next(rest, "")] if word in self.dropped else []
            if not any(values[0].startswith(tuple(self.dropped[word])) for _ in values):
                kept += [word, *values]
        return (*kept, *self.added)


def recorded_steps(report: Report, unnamed: Sequence[str] = ()) -> tuple[NextStep, ...]:
    """List what can be done after a diagnosis: a repair where a modality is less used than it could be, then the gate.

    Args:
        report: The diagnosis.
        unnamed: What stands for the checkpoint and the config where the report does not say by which command it was made.

    Returns:
        The steps, with their commands where the report says by which command it was made, or something stands for that.
    """
    here = report.subject.engine is None  # no weights of a model that is elsewhere can be trained
    weak = weak_modalities(report) if here else ()
    steps = []
    advice = advise(report, weak)
    if advice is not None:
        steps.append(NextStep(clean(advice, TEXT_LIMIT)))
    elif weak:
        methods, why = recommend(report, weak)
        subject = tuple(_subject(report, _KEPT, unnamed))
        command = ("collapsekit", "repair", *subject, "--method", ",".join(methods)) if subject else ()
        steps.append(NextStep(clean(why, TEXT_LIMIT), command))
    elif report.verdict == "healthy" and here:
        steps.append(NextStep("nothing to repair."))
    if report.verdict == "inconclusive" or (report.judged is not None and report.judged.missing):
        steps.append(_recorded_more(report, unnamed) if here else ask_more(report))
    gate = ("collapsekit", "gate", *(tuple(_subject(report, _GATED)) or ("report.json",)))
    return (*steps, NextStep(f"the gate for CI{gate_outcome(report, report.settings.get('config', {}))}:", gate))


def recorded_command(report: Report) -> tuple[str, ...]:
    """Return the words of the diagnosis that made the report, from the checkpoint on; none where no command did."""
    command = report.settings.get("command")
    try:
        words = shlex.split(command) if isinstance(command, str) else []
    except ValueError:
        return ()
    if words[:2] != ["collapsekit", "diagnose"] or len(words) < 3 or words[2].startswith("-"):
        return ()
    return tuple(words[2:])


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


def judge_more(report: Report, profile: Any, limit: Any, training: Mapping[str, float]) -> More:
    """Tell what would decide what is open in a diagnosis, as far as an option would.

    Args:
        report: The diagnosis.
        profile: The profile that it was asked for by.
        limit: How many examples it was asked to keep to; None: to none.
        training: `epochs` and `budget` (seconds) of encoders trained alone; empty where they are not known.

    Returns:
        The first thing to change.
    """
    missing = " ".join(report.judged.missing) if report.judged is not None else ""
    left_out = [name for name in DECIDING if name not in report.settings.get("probes", {})]
    if any(r.error is not None and r.probe in DECIDING for r in report.results):
        return More(
            "an error ended a probe that verdicts need; mend it, or report it, and diagnose again.", helps=False
        )
    if left_out:
        why = f"verdicts need {' and '.join(left_out)}, which did not run."
        return _more(why, {"--probe": _ALL, "--skip": DECIDING})
    if profile == "quick":
        return _more("profile quick trains no encoder; standard trains each one alone.", {"--profile": _ALL})
    if _EPOCHS in missing and training:
        twice = {f"prefix_gap.{name}=": 2 * value for name, value in training.items()}
        words = [word for name, value in twice.items() for word in ("--set", f"{name}{value}")]
        why = "an encoder trained alone still got better when its epochs were over."
        return _more(why, {"--set": tuple(twice)}, *words)
    if _FULL in missing and profile == "standard":
        why = "the budget of profile standard ran out; full has none, and takes its time."
        return _more(why, {"--profile": _ALL}, "--profile", "full")
    if limit is not None:
        return _more(f"--limit left {report.subject.examples} examples; more would decide.", {"--limit": _ALL})
    return More("no option of the command would decide more: the reason of each modality says what would.", helps=False)


def ask_more(report: Report) -> NextStep:
    """Tell what would decide what is open about a model that is elsewhere, of which no encoder can be trained here."""
    again = "plan again about more examples, or with more draws (--set reliance.draws=N)"
    if report.judged is None or not report.judged.missing:
        return NextStep(f"to judge more: {again}.")
    own = "name what a model of yours predicts from each modality alone (`predictions` in the config)"
    return NextStep(f"to judge more: {own}, or {again}.")


def _recorded_more(report: Report, unnamed: Sequence[str]) -> NextStep:
    settings = report.settings
    more = judge_more(report, settings.get("profile"), settings.get("limit"), _recorded_training(report))
    subject = tuple(_subject(report, _CHOSEN, unnamed))
    return NextStep(more.about, more.command(("collapsekit", "diagnose", *subject) if subject else ()))


def _more(why: str, dropped: Mapping[str, Sequence[str]], *added: str) -> More:
    return More(f"to judge more: {why}", dropped, added)


def _recorded_training(report: Report) -> dict[str, float]:
    """How long encoders were trained alone, where the report has numbers of it."""
    options = report.settings.get("probes", {}).get("prefix_gap", {})
    given = [options.get(name) for name in ("epochs", "budget")] if isinstance(options, Mapping) else []
    numbers = [value for value in given if isinstance(value, int | float) and not isinstance(value, bool)]
    return dict(zip(("epochs", "budget"), numbers, strict=True)) if len(numbers) == 2 else {}


def _subject(report: Report, kept: Sequence[str], unnamed: Sequence[str] = ()) -> Iterator[str]:
    """The checkpoint, the config, and how examples are drawn, as the report's own command names them."""
    words = recorded_command(report)
    pairs = list(pairwise(words[1:])) if words else list(_settled(report)) if unnamed else []
    yield from words[:1] or unnamed
    for option, value in pairs:
        if option in kept and (option, value) not in _USUAL:
            yield from (option, value)


def _settled(report: Report) -> Iterator[tuple[str, str]]:
    """How examples are drawn and judged, as the report's settings have it, in the words of a command."""
    for name in _SETTLED:
        value = report.settings.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool):
            yield f"--{name}", str(value)
