"""What a report says, as quantities that other reports say too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from collapsekit.comparison.inputs import Group
from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.measures import Quantity, index, lookup
from collapsekit.measures.of_verdict import COSTS_IF_MISSING, COSTS_NOW, OF_VERDICT, SCORE, VERDICT
from collapsekit.report.diagnosis import Interval, Report, Result

VERDICTS = tuple(m.name for m in OF_VERDICT)


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
    """Collect all that the report says as a number or a verdict, in its order; the first where a key occurs twice."""
    found: dict[Key, Found] = {}
    for key, value in (*_verdicts(report), *_results(report.results)):
        found.setdefault(key, value)
    return found


def _verdicts(report: Report) -> Iterator[tuple[Key, Found]]:
    def of(quantity: Quantity, value: float | None, interval: Interval | None = None) -> Found:
        missing = None if value is not None else "the report has no such number"
        said = quantity.definition, quantity.source, value, interval
        return Found(*said, unit=quantity.unit, why_not=missing)

    def verdict(state: str) -> Found:
        return Found(VERDICT.definition, VERDICT.source, state=state)

    metric = report.subject.metric
    yield Key("verdict", "verdict"), verdict(report.verdict)
    for m, v in report.modalities.items():
        yield Key("verdict", "verdict", m), verdict(v.verdict)
        yield Key("verdict", "score", m), of(SCORE.fill(), v.score, v.interval)
        yield Key("verdict", "costs_now", m), of(COSTS_NOW.fill(metric=metric), v.costs_now)
        most = COSTS_IF_MISSING.fill(metric=metric, what="the most of the task metric", other="one other modality")
        yield Key("verdict", "costs_if_missing", m), of(most, max(v.costs_if_missing.values(), default=None))
        each = COSTS_IF_MISSING.fill(metric=metric, what="task metric", other="the other one")
        for other, cost in v.costs_if_missing.items():
            yield Key("verdict", "costs_if_missing", m, other), of(each, cost)


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
        """Tell whether the quantity is shown."""
        if self.only:
            return any(fnmatchcase(key.name, pattern) for pattern in self.only)
        if self.every:
            return True
        if key.part == "verdict":
            return key.versus is None
        made = lookup(key.name)
        if made is None or made.headline is None or key.versus is not None:
            return False
        return made.headline == "each" or key.modality is None


def arranged(groups: Sequence[Group], said: Sequence[Sequence[dict[Key, Found]]], choice: Choice) -> list[Key]:
    """Put the quantities to show in order: verdicts first, then headlines, then as in the reports; a name's together.

    Args:
        groups: The columns; the first one's report gives the order of modalities.
        said: The quantities of each column's runs, in the order of ``groups``.
        choice: Which quantities are shown.

    Returns:
        Keys of the quantities that some run has.

    Raises:
        ConfigError: Where a pattern of the choice fits no number; it names what there is.
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
    first = sorted((n for n in names if (made := lookup(n)) is not None and made.headline is not None), key=index)
    order = {name: i for i, name in enumerate([*first, *(n for n in names if n not in first)])}
    modalities = groups[0].runs[0].report.subject.modalities
    rank = {m: i for i, m in enumerate(modalities)}

    def place(key: Key) -> tuple[int, int, int, int, int]:
        at = VERDICTS.index(key.name) if key.part == "verdict" else order[key.name]
        pair = -1 if key.versus is None else rank.get(key.versus, len(rank))
        own = -1 if key.modality is None else rank.get(key.modality, len(rank))
        return (key.part == "result", at, pair >= 0, own, pair)

    return sorted((k for k in every if choice.shows(k)), key=place)
