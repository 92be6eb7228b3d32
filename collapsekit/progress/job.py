"""A job as a tree of stages with the seconds they were reckoned at: what is done of it, and how long the rest takes.

Nothing here asks what time it is: every moment is an argument, in seconds from any beginning.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from collapsekit.context import Stages

# Of all that was reckoned: what has to be done before the measured pace counts in full.
ENOUGH = 0.03
BELIEVED = 0.1  # of all that a stage counts: once that share is done, the count is believed, and not what was reckoned
ALIKE = 0.5  # how much of the pace of one kind of stage holds for another, as a power: prices err apart, machines alike
OVERDUE = 0.1  # what is left, as a share of the time spent, of a stage that takes longer than was reckoned
LEAST = 1e-3  # seconds: no stage is reckoned at less


@dataclass
class _Phase:
    """What is counted inside a stage at present, and when its counting began."""

    what: str
    began: float
    first: int  # how many were done before
    done: int = 0
    total: int | None = None
    counted: float = 0.0  # when ``done`` was told

    def projected(self) -> float | None:
        """Seconds that the whole of it takes at the pace so far; None where that cannot be said."""
        new = self.done - self.first
        if self.total is None or new <= 0 or self.counted <= self.began:
            return None
        return (self.counted - self.began) * max(self.total - self.first, new) / new


@dataclass
class JobStage:
    """A part of a job. Stages whose names begin with the same word are of a kind, and go at the same pace."""

    name: str
    reckoned: float  # seconds
    began: float | None = None
    ended: float | None = None
    inner: list[JobStage] = field(default_factory=list)
    loose: float = 0.0  # seconds, of those reckoned, that no inner stage stands for
    nested: bool = False  # whether the inner stages were known with it, so that they go at its pace
    phase: _Phase | None = None

    @property
    def kind(self) -> str:
        """The first word of its name."""
        return self.name.partition(" ")[0]

    @property
    def running(self) -> bool:
        """Whether it began and has not ended."""
        return self.began is not None and self.ended is None

    @property
    def share(self) -> float:
        """How much of the stage is done by what it counts, from 0 to 1; 0 where that is not known."""
        if self.phase is None or self.phase.what != self.name or not self.phase.total:
            return 0.0
        return min(1.0, self.phase.done / self.phase.total)

    @property
    def counts(self) -> bool:
        """Whether what it counts tells how long it takes."""
        return _projected(self) is not None

    def measure(self, now: float) -> float:
        """Measure the seconds it took, or has taken until now."""
        return 0.0 if self.began is None else (now if self.ended is None else self.ended) - self.began

    def count(self, what: str, done: int, total: int | None, now: float) -> None:
        """Hear that so many of something are done inside this stage.

        Args:
            what: What is counted; under the stage's own name it is all of the stage.
            done: How many are done.
            total: Of how many; None where that is not known.
            now: The moment.
        """
        if self.phase is None or self.phase.what != what or done < self.phase.done:
            whole = what == self.name and self.began is not None
            # What else is counted is measured from its first count on: other work may have come before that.
            self.phase = _Phase(what, self.began if whole and self.began is not None else now, 0 if whole else done)
        self.phase.done, self.phase.total, self.phase.counted = done, total, now

    def end(self, now: float) -> None:
        """End it, and whatever runs inside; what never began is left out."""
        for stage in self.inner:
            if stage.running:
                stage.end(now)
        self.ended = now


@dataclass(frozen=True)
class _Pace:
    """Seconds measured for every second that was reckoned, by the kind of stage."""

    evidence: tuple[tuple[str, float, float], ...]  # kind, seconds measured, seconds reckoned
    reckoned: float  # of all stages, done or not
    before: float = 1.0  # what is taken for the pace until then

    def of(self, kind: str) -> float:
        """The pace of a kind: as measured where it was, else partly that of all kinds, and what was taken for it before."""
        own = [(m, r) for k, m, r in self.evidence if k == kind]
        known = own or [(m, r) for _, m, r in self.evidence]
        measured, reckoned = sum(m for m, _ in known), sum(r for _, r in known)
        if measured <= 0 or reckoned <= 0:
            return self.before
        trust = min(1.0, reckoned / (ENOUGH * self.reckoned)) * (1.0 if own else ALIKE)
        return self.before * math.exp(trust * math.log(measured / reckoned / self.before))


class TimedJob:
    """A job that began at a moment, and the stages it is known to have. Moments never go back."""

    def __init__(self, now: float) -> None:
        self.root = JobStage("", LEAST, now)
        self._most = 0.0

    def plan(self, stages: Stages) -> None:
        """Tell what the innermost running stage, or the whole job, consists of from here on."""
        inmost = self._running()[-1]
        inmost.inner = [stage for stage in inmost.inner if stage.began is not None]
        inmost.inner += [_stage(name, seconds) for name, seconds in stages.items()]

    def begin(self, name: str, now: float) -> bool:
        """Begin the next stage of that name that has not begun; what ran beside or inside it ends. Answers whether there
        is one."""
        for outer in reversed(self._running()):
            found = next((s for s in outer.inner if s.name == name and s.began is None), None)
            if found is not None:
                for stage in outer.inner:
                    if stage.running:
                        stage.end(now)
                found.began = now
                return True
        return False

    def count(self, what: str, done: int, total: int | None, now: float) -> None:
        """Hear that so many of something are done inside the innermost running stage.

        Args:
            what: What is counted; under the stage's own name it is all of the stage.
            done: How many are done.
            total: Of how many; None where that is not known.
            now: The moment.
        """
        inmost = self._running()[-1]
        inmost.count(what, done, total, now)
        if inmost.share == 1 and len(self.running) > 1:  # what else its outer stage does is not of this one
            inmost.end(now)

    def end(self, now: float) -> None:
        """End all of it."""
        self.root.end(now)

    @property
    def names(self) -> list[str]:
        """Names of the stages that run, the outermost first."""
        return [stage.name for stage in self.running]

    @property
    def running(self) -> list[JobStage]:
        """The stages that run, the outermost first."""
        return self._running()[1:]

    def estimate_remaining(self, now: float) -> float | None:
        """Estimate the seconds that are left, never less than 0; None where no stages are known yet."""
        if self.root.ended is not None:
            return 0.0
        return _remaining(self.root, now, 1.0) if self.root.inner else None

    def compute_fraction(self, now: float) -> float | None:
        """Compute the share of the job's time that is over, from 0 to 1; it never falls. None where no stages are known
        yet."""
        remaining = self.estimate_remaining(now)
        if remaining is None:
            return None
        spent = self.root.measure(now)
        self._most = max(self._most, spent / (spent + remaining) if spent + remaining > 0 else 0.0)
        return self._most

    def _running(self) -> list[JobStage]:
        """The stages that run, from the whole job to the innermost."""
        found = [self.root]
        while (inner := next((s for s in found[-1].inner if s.running), None)) is not None:
            found.append(inner)
        return found


def _stage(name: str, seconds: float | Mapping[str, float]) -> JobStage:
    """A stage that has not begun, with the stages inside it."""
    if not isinstance(seconds, Mapping):
        return JobStage(name, max(LEAST, seconds))
    inner = [_stage(one, each) for one, each in seconds.items() if one]
    return JobStage(name, max(LEAST, sum(seconds.values())), inner=inner, loose=seconds.get("", 0.0), nested=True)


def _remaining(stage: JobStage, now: float, pace: float) -> float:
    """Seconds that are left of a stage, of which ``pace`` is known from others."""
    if stage.ended is not None:
        return 0.0
    if stage.began is None:
        return stage.reckoned * pace
    return _of_inner(stage, now, pace**ALIKE if stage.nested else 1.0) if stage.inner else _of_leaf(stage, now, pace)


def _of_inner(stage: JobStage, now: float, outer: float) -> float:
    """What is left of the stages inside, and of what none of them stands for: of the running one first, whose pace then
    tells of those to come."""
    before = _pace(stage, now, (), outer)
    running = next((s for s in stage.inner if s.running), None)
    rest, more = 0.0, list[tuple[str, float, float]]()
    if running is not None:
        rest = _remaining(running, now, before.of(running.kind))
        more += _evidence(running, now, rest)
    pace = _pace(stage, now, more, outer)
    beside = stage.measure(now) - sum(s.measure(now) for s in stage.inner)
    loose = max(0.0, stage.loose * outer - beside)
    return rest + loose + sum(s.reckoned * pace.of(s.kind) for s in stage.inner if s.began is None)


def _pace(stage: JobStage, now: float, more: Iterable[tuple[str, float, float]], outer: float) -> _Pace:
    done = [(s.kind, s.measure(now), s.reckoned) for s in stage.inner if s.ended is not None]
    return _Pace((*done, *more), sum(s.reckoned for s in stage.inner), outer)


def _evidence(running: JobStage, now: float, rest: float) -> Iterator[tuple[str, float, float]]:
    """What a running stage tells of the pace: all of it where its own stages are known, else the part that is over, where
    it counts or is overdue."""
    spent = running.measure(now)
    whole = spent + rest
    if running.inner:
        yield running.kind, whole, running.reckoned
    elif whole > 0 and (running.counts or spent > running.reckoned):
        # What counts a part of itself only says little of other stages, and so do the first few that are counted.
        known = running.share if spent <= running.reckoned else 1.0
        yield running.kind, known * spent, known * running.reckoned * spent / whole


def _projected(stage: JobStage) -> float | None:
    """Seconds that a stage takes at least, by what it counts: until that began, and all of that."""
    seconds = None if stage.phase is None else stage.phase.projected()
    if seconds is None or stage.phase is None or stage.began is None:
        return None
    return stage.phase.began - stage.began + seconds


def _of_leaf(stage: JobStage, now: float, pace: float) -> float:
    """What is left of a stage that has no stages inside. What it counts is a bound from below at once. Where that is all of
    the stage it is believed once a part of it is done, else the more the longer the stage runs."""
    spent, whole = stage.measure(now), stage.reckoned * pace
    projected = _projected(stage)
    if projected is not None and projected > 0:
        trust = min(1.0, max(spent / whole, stage.share / BELIEVED))
        whole = max(projected, math.exp((1 - trust) * math.log(whole) + trust * math.log(projected)))
    return max(whole - spent, OVERDUE * spent * (1 - stage.share))  # where all of it is counted, it is known
