"""What a rule may name: values of a report.

    verdict                                       subject.examples
    modalities.NAME.score  .score.lower  .score.upper  .verdict  .costs_now  .costs_if_missing.OTHER
    results[vif.mean]  results[reliance.shapley, audio]  results[prefix_gap.gap, audio].upper

``*`` in the place of a modality's name stands for each of them. Unusual names go in quotes: modalities."a.b".score.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from collapsekit.errors import did_you_mean
from collapsekit.io.safe_text import quote
from collapsekit.report.diagnosis import Interval, ModalityState, ModalityVerdict, OverallState, Report, Result

ROOTS = ("verdict", "modalities", "results", "subject")
_TEXTS = ("checkpoint", "sha256", "task", "metric", "split")
_NUMBERS = ("examples", "seed")
_FIELDS = ("verdict", "score", "costs_now", "costs_if_missing")
_ENDS = ("lower", "upper")
_PART = re.compile(r"""\.(?:([\w*-]+)|"([^"]*)"|'([^']*)')""")
Kind = Literal["number", "text"]


@dataclass(frozen=True)
class ReportPath:
    """A value of a report, by name. ``words``: what a text can be, where that is known."""

    text: str
    root: str
    parts: tuple[str, ...]  # what follows the root
    kind: Kind
    end: str = "value"  # value, lower or upper
    words: tuple[str, ...] | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities it names, of which ``*`` is none."""
        places = {"modalities": (*self.parts[:1], *self.parts[2:]), "results": self.parts[1:]}
        return tuple(name for name in places.get(self.root, ()) if name != "*")

    @property
    def star(self) -> bool:
        """Whether it stands for every modality."""
        return "*" in self.parts


@dataclass(frozen=True)
class ReportValue:
    """A value that a reference names, or why there is none."""

    name: str
    value: float | str | None
    why_not: str | None = None
    modality: str | None = None


def parse_path(text: str) -> ReportPath | str:
    """Return the reference, or what is wrong with it, as the end of a sentence that begins with it."""
    root = re.split(r"[.\[]", text)[0]
    rest = text[len(root) :]
    if root == "results":
        return _result_path(text, rest)
    parts = [a or b or c for a, b, c in _PART.findall(rest)]
    if "".join(m[0] for m in _PART.finditer(rest)) != rest:
        return "is not written as names joined by dots"
    if root == "verdict":
        return ReportPath(text, root, (), "text", words=get_args(OverallState)) if not parts else "has no parts"
    if root == "subject":
        if len(parts) != 1 or parts[0] not in (*_TEXTS, *_NUMBERS):
            return f"is none of {', '.join(f'subject.{f}' for f in (*_TEXTS, *_NUMBERS))}"
        return ReportPath(text, root, (parts[0],), "text" if parts[0] in _TEXTS else "number")
    return _modality_path(text, parts)


def _modality_path(text: str, parts: list[str]) -> ReportPath | str:
    if len(parts) < 2:
        return f"needs a modality and what of it, as in modalities.audio.score; there are {', '.join(_FIELDS)}"
    modality, field, more = parts[0], parts[1], parts[2:]
    if field not in _FIELDS:
        return f"asks for {quote(field)}{did_you_mean(field, _FIELDS)}: a modality has {', '.join(_FIELDS)}"
    if field == "score" and len(more) == 1 and more[0] in _ENDS:
        return ReportPath(text, "modalities", (modality, field), "number", more[0])
    if len(more) != (1 if field == "costs_if_missing" else 0):
        if field == "costs_if_missing":
            return "needs the other modality, as in modalities.audio.costs_if_missing.image"
        return f"says too much after {field}" + (
            ", which may be followed by lower or upper" if field == "score" else ""
        )
    if field == "verdict":
        return ReportPath(text, "modalities", (modality, field), "text", words=get_args(ModalityState))
    return ReportPath(text, "modalities", (modality, field, *more), "number")


def _result_path(text: str, rest: str) -> ReportPath | str:
    found = re.fullmatch(r"\[([^\]]*)\](?:\.(\w+))?", rest)
    parts = [p.strip().strip("\"'") for p in found[1].split(",")] if found is not None else []
    if found is None or not 1 <= len(parts) <= 3 or not all(parts):
        return "is not written as results[vif.mean], results[reliance.shapley, audio] or results[NAME, audio, image]"
    if found[2] not in (None, "value", *_ENDS):
        return f"asks for {quote(found[2])} of a result: value, lower or upper"
    if "*" in (parts[0], *parts[2:]):
        return "may have a * only in the place of the modality"
    return ReportPath(text, "results", tuple(parts), "number", found[2] or "value")


def look_up(reference: ReportPath, report: Report) -> Iterator[ReportValue]:
    """Yield the value it names in this report; of a ``*``, one for each modality."""
    names = report.subject.modalities if reference.star else (None,)
    if not names:
        yield ReportValue(reference.text, None, "the report has no modalities")
    for name in names:
        parts = tuple(name if p == "*" and name is not None else p for p in reference.parts)
        shown = reference.text if name is None else reference.text.replace("*", name, 1)
        if reference.root == "verdict":
            yield ReportValue(shown, report.verdict)
        elif reference.root == "subject":
            yield ReportValue(shown, getattr(report.subject, parts[0]))
        elif reference.root == "modalities":
            yield _of_modality(shown, parts, reference.end, report)
        else:
            yield _of_result(shown, parts, reference.end, report)


def _of_modality(shown: str, parts: tuple[str, ...], end: str, report: Report) -> ReportValue:
    name, field = parts[0], parts[1]
    verdict = report.modalities.get(name)
    if verdict is None:
        near = did_you_mean(name, report.modalities)
        return ReportValue(shown, None, f"the report has no modality {quote(name)}{near}", name)
    if field == "costs_if_missing":
        return _of_cost(shown, parts[2], name, verdict)
    if field == "score" and end != "value":
        return _end_of(shown, verdict.interval, end, name)
    value = getattr(verdict, field)
    return ReportValue(shown, value, None if value is not None else f"the report gives {name} no {field}", name)


def _of_cost(shown: str, other: str, name: str, verdict: ModalityVerdict) -> ReportValue:
    cost = verdict.costs_if_missing.get(other)
    why = f"the report does not say what {quote(name)} costs where {quote(other)} is missing"
    return ReportValue(shown, cost, None if cost is not None else why, name)


def _of_result(shown: str, parts: tuple[str, ...], end: str, report: Report) -> ReportValue:
    name = parts[0]
    modality, versus = (*parts[1:], None, None)[:2]
    result = report.find(name, modality, versus)
    if result is None:
        return ReportValue(shown, None, _why_no_result(name, modality, report), modality)
    if result.value is None:
        return ReportValue(
            shown, None, f"it was skipped: {result.skipped}" if result.skipped else "it is a curve", modality
        )
    if end != "value":
        return _end_of(shown, result.interval, end, modality)
    return ReportValue(shown, result.value, None, modality)


def _why_no_result(name: str, modality: str | None, report: Report) -> str:
    there: list[Result] = list(report.named(name))
    if not there:
        probe = report.find(name.split(".")[0])
        if probe is not None and probe.skipped is not None:
            return f"its probe was skipped: {probe.skipped}"
        return f"the report has no result {quote(name)}{did_you_mean(name, {r.name for r in report.results})}"
    of = ", ".join(dict.fromkeys(f"{r.modality}, {r.versus}" if r.versus else str(r.modality) for r in there))
    return f"the report has {name} of {of}: write results[{name}, NAME]" + (
        "" if modality is None else ", as named there"
    )


def _end_of(shown: str, interval: Interval | None, end: str, modality: str | None) -> ReportValue:
    if interval is None:
        return ReportValue(shown, None, "the report gives it no interval", modality)
    return ReportValue(shown, interval[0 if end == "lower" else 1], None, modality)
