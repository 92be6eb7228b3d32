"""Progress that follows a job through its stages, for whoever shows it."""

from __future__ import annotations

import time
from collections.abc import Callable

from collapsekit.context import Progress, Stages
from collapsekit.progress.job import TimedJob

Clock = Callable[[], float]
MINUTE, HOUR = 60.0, 3600.0


class Tracker(Progress):
    """Hears of stages and counts, and knows how far the whole job is; :meth:`changed` is called after each."""

    planned = True

    def __init__(self, clock: Clock = time.monotonic) -> None:
        """``clock``: what time it is, in seconds."""
        self.clock = clock
        self.job = TimedJob(clock())
        self.counted = ""  # what is counted at present, in words

    def plan(self, stages: Stages) -> None:
        self.job.plan(stages)
        self.changed()

    def begin(self, stage: str) -> None:
        self.job.begin(stage, self.clock())
        self.counted = ""
        self.changed()

    def step(self, what: str, done: int, total: int | None, *standing: str, **named: str) -> None:
        """See :meth:`Progress.step`, whose last argument may be named or not."""
        how, now = "".join((*standing, *named.values())), self.clock()
        if self.job.begin(what, now):
            self.counted = ""
        else:
            self.job.count(what, done, total, now)
            counted = f" {done:,} of {total:,}" if total else ""
            self.counted = f"{what}{counted}{f' ({how})' if how else ''}"
        self.changed()

    def changed(self) -> None:
        """Show what is new; here nothing is shown."""

    @property
    def stage(self) -> str:
        """What runs: the stages from the outermost on, or what is counted where none is known."""
        return ": ".join(self.job.names) or self.counted

    def describe(self) -> str:
        """Say how far the job is in one line: its share, what runs, and how long the rest will take."""
        now = self.clock()
        fraction, left = self.job.compute_fraction(now), self.job.estimate_remaining(now)
        if fraction is None or left is None:
            return f"{self.stage or 'starting'} · {duration(self.job.root.measure(now))} so far"
        return f"{100 * fraction:.0f} % · {self.stage} · about {duration(left)} left"


def duration(seconds: float) -> str:
    """Write seconds as people say them, to two digits at most: 8 s, 40 s, 3 min, 2.5 h."""
    if seconds < 10:
        return f"{max(1, round(seconds))} s"
    if seconds < 1.5 * MINUTE:
        return f"{5 * round(seconds / 5)} s"
    if seconds < 1.5 * HOUR:
        return f"{round(seconds / MINUTE)} min"
    return f"{round(2 * seconds / HOUR) / 2:g} h"
