"""What a report says, as quantities that other reports say too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from collapsekit.comparison.directions import HEADLINES
from collapsekit.comparison.inputs import Group
from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.report.diagnosis import Interval, Report, Result

VERDICTS = ("verdict", "score", "costs_now", "costs_if_missing")
_SOURCE = "docs/verdicts.md"
_DEFINITIONS = {
    "verdict": "what the evidence says of the modality, or of the whole model",
    "score": "how far the model ignores the modality: 0 is fully used, 1 is fully ignored",
    "costs_now": "task metric lost today by not using the modality",
    "costs_if_missing": "task metric lost by not using the modality when the other one is absent",
}
_MOST_MISSING = "the most of the task metric lost by not using the modality when one other modality is absent"


@dataclass(frozen=True)
class Key:
    """What makes two numbers of two reports the same quantity."""

    part: Literal["verdict", "result"]
    name: str
    modality: str | None = None
    versus: str | None = None


@dataclass(frozen=True)
class Found:
    """What one report says of a quantity: a value, a verdict (``state``), or why there is neither."""

    definition: str
    source: str
    value: float | None = None
    interval: Interval | None = None
    state: str | None = None
    unit: str | None = None
    probe: str | None = None
    why_not: str | None = None


def quantities(report: Report) -> dict[Key, Found]:
    """All that the report says as a number or a verdict, in its order; the first where a key occurs twice."""
    found: dict[Key, Found] = {}
    for key, value in (*_verdicts(report), *_results(report.results)):
        found.setdefault(key, value)
    return found


def _verdicts(report: Report) -> Iterator[tuple[Key, Found]]:
    def of(name: str, value: float | None, unit: str | None = None, interval: Interval | None = None) -> Found:
        missing = None if value is not None else "the report has no such number"
        return Found(_DEFINITIONS[name], _SOURCE, value, interval, unit=unit, why_not=missing)

    metric = report.subject.metric
    yield Key("verdict", "verdict"), Found(_DEFINITIONS["verdict"], _SOURCE, state=report.verdict)
    for m, v in report.modalities.items():
        yield Key("verdict", "verdict", m), Found(_DEFINITIONS["verdict"], _SOURCE, state=v.verdict)
        yield Key("verdict", "score", m), of("score", v.score, None, v.interval)
        yield Key("verdict", "costs_now", m), of("costs_now", v.costs_now, metric)
        most = max(v.costs_if_missing.values(), default=None)
        missing = None if most is not None else "the report has no such number"
        yield Key("verdict", "costs_if_missing", m), Found(_MOST_MISSING, _SOURCE, most, unit=metric, why_not=missing)
        for other, cost in v.costs_if_missing.items():
            yield Key("verdict", "costs_if_missing", m, other), of("costs_if_missing", cost, metric)


def _results(results: Sequence[Result]) -> Iterator[tuple[Key, Found]]:
    for r in results:
        if r.value is not None or r.skipped is not None:
            key = Key("result", r.name, r.modality, r.versus)
            yield key, Found(r.definition, r.source, r.value, r.interval, None, r.unit, r.probe, r.skipped)


@dataclass(frozen=True)
class Choice:
    """Which quantities are shown: those whose name fits one of ``only``; else ``every``; else those that say the most."""

    only: tuple[str, ...] = ()
    every: bool = False

    def shows(self, key: Key) -> bool:
        """Whether the quantity is among them."""
        if self.only:
            return any(fnmatchcase(key.name, pattern) for pattern in self.only)
        if self.every:
            return True
        if key.part == "verdict":
            return key.versus is None
        whole = HEADLINES.get(key.name)
        return whole is not None and key.versus is None and (key.modality is None or not whole)


def arranged(groups: Sequence[Group], said: Sequence[Sequence[dict[Key, Found]]], choice: Choice) -> list[Key]:
    """The quantities to show that some run has, verdicts first, then headlines, then in report order; names together.

    Raises ConfigError where there is none, naming what there is.
    """
    every = dict.fromkeys(
        k for runs in said for found in runs for k, f in found.items() if f.value is not None or f.state is not None
    )
    names = list(dict.fromkeys(k.name for k in every if k.part == "result"))
    for pattern in choice.only:
        if not any(fnmatchcase(k.name, pattern) for k in every):
            raise ConfigError(
                f"--only {pattern!r} fits no number of these reports{did_you_mean(pattern, [*VERDICTS, *names])}: "
                "`--all` shows every one."
            )
    order = {name: i for i, name in enumerate([*HEADLINES, *(n for n in names if n not in HEADLINES)])}
    modalities = groups[0].runs[0].report.subject.modalities
    rank = {m: i for i, m in enumerate(modalities)}

    def place(key: Key) -> tuple[int, int, int, int, int]:
        first = VERDICTS.index(key.name) if key.part == "verdict" else order[key.name]
        pair = -1 if key.versus is None else rank.get(key.versus, len(rank))
        own = -1 if key.modality is None else rank.get(key.modality, len(rank))
        return (key.part == "result", first, pair >= 0, own, pair)

    return sorted((k for k in every if choice.shows(k)), key=place)
