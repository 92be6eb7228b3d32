"""What a failed assertion says: which modalities, and each one's verdict and reason, for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collapsekit.ext import ModalityVerdict, Report

WIDTH = 72  # pytest puts 8 characters before each line
FIRST = " " * len("AssertionError: ")
LET_PASS = (
    "Inconclusive is not a pass: more examples or profile='standard' may decide; allow_inconclusive=True lets it pass."
)


def failure(report: Report, required: Sequence[str], allow_inconclusive: bool) -> str | None:
    """What of ``report`` must not be, in lines of at most 72 characters; None where all is well.

    Raises ConfigError for a required modality that there is not.
    """
    __tracebackhide__ = True
    from collapsekit.ext import ConfigError, clean_report, did_you_mean

    for name in required:
        if name not in report.modalities:
            raise ConfigError(
                f"require names the modality {name!r}{did_you_mean(name, report.modalities)}: the model has "
                f"{', '.join(report.modalities)}."
            )
    safe = clean_report(report)
    shown = dict(zip(report.modalities, safe.modalities, strict=True))
    states = {m: v.verdict for m, v in safe.modalities.items()}
    collapsed = [m for m, state in states.items() if state == "collapsed"]
    open_ = [m for m, state in states.items() if state == "inconclusive" and not allow_inconclusive]
    unused = [m for m in map(shown.__getitem__, required) if states[m] != "used" and m not in (*collapsed, *open_)]
    wrong = {"collapsed": collapsed, "inconclusive": open_, "not used, though required": unused}
    said = [f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} {what}" for what, names in wrong.items() if names]
    if not said:
        return None
    subject, profile = safe.subject, safe.settings.get("profile")
    where = f"{subject.checkpoint}, {subject.examples} examples of split {subject.split!r}, profile {profile}:"
    parts = ["; ".join(said), where, *(part for m, v in safe.modalities.items() for part in _one(m, v))]
    lines = [_wrapped(parts[0], FIRST)[len(FIRST) :], *(_wrapped(part) for part in parts[1:])]
    return "\n".join([*lines, _wrapped(LET_PASS)] if open_ else lines)


def _one(name: str, verdict: ModalityVerdict) -> list[str]:
    score = "" if verdict.score is None else f", score {verdict.score:.2f}"
    if verdict.interval is not None:
        score += f" [{verdict.interval[0]:.2f}, {verdict.interval[1]:.2f}]"
    return [f"{name}: {verdict.verdict}{score}", f"  {verdict.reason}"]


def _wrapped(text: str, first: str = "  ") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent="    ", break_on_hyphens=False)
