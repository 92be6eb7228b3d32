"""How far a job is, on stderr: one line that moves on a terminal, a plain line now and then where it is piped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from collapsekit.cli.log import LOG
from collapsekit.cli.output import message
from collapsekit.progress.tracker import Clock, Tracker
from collapsekit.user_code import interrupts

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

EVERY, RARELY = 10.0, 60.0  # seconds between plain lines: at least and at most
RARER = 0.5  # and between these, as a share of the time until then
Cut = Callable[[str], Sequence[str]]


def whole(text: str) -> Sequence[str]:
    """Print all of a note."""
    return (text,)


class Follower(Tracker):
    """Where a Ctrl-C that somebody's function swallowed is raised again. Which config is used, and faults, are said however
    quiet it is; nothing else is. The log has all of it, and how long each stage took."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        super().__init__(clock)
        self.ran = self.job.running

    def step(self, what: str, done: int, total: int | None, *standing: str, **named: str) -> None:
        interrupts.check()
        super().step(what, done, total, *standing, **named)

    def note(self, text: str) -> None:
        LOG.add("note", text)

    def announce(self, text: str) -> None:
        message(text)

    def fault(self, text: str) -> None:
        message(text, "fault")

    def changed(self) -> None:
        for stage in (stage for stage in reversed(self.ran) if stage.ended is not None):
            self.stage_over(f"{stage.name} took {stage.measure(0.0):.1f} s")
        self.ran = self.job.running

    def end(self) -> None:
        """Say what ran last."""
        self.job.end(self.clock())
        Follower.changed(self)

    def stage_over(self, text: str) -> None:
        """Say how long a stage took: where it is quiet, to the log only."""
        LOG.add("stage", text)


class Silent(Follower):
    """For whom nothing is reckoned, as nobody sees it."""

    planned = False


class Lines(Follower):
    """A plain line at most every ten seconds, once a minute in long jobs; and notes."""

    def __init__(self, lines: Cut = whole, clock: Clock = time.monotonic) -> None:
        """``lines``: what is printed of a note."""
        super().__init__(clock)
        self.lines, self.last = lines, self.clock()

    def note(self, text: str) -> None:
        LOG.add("note", text)
        for line in self.lines(text):
            message(line, None)

    def stage_over(self, text: str) -> None:
        super().stage_over(text)
        if LOG.verbose:
            message(text, None)

    def changed(self) -> None:
        super().changed()
        now = self.clock()
        if now - self.last >= max(EVERY, min(RARELY, RARER * self.job.root.measure(now))):
            self.last = now
            message(self.describe(), "stage")


class Drawn(Follower):
    """One line on a terminal: what runs, a bar of the whole job, and how long it will take."""

    def __init__(self, bar: Bar, task: TaskID, lines: Cut = whole) -> None:
        """``lines``: what is printed of a note."""
        super().__init__()
        self.bar, self.task, self.lines = bar, task, lines

    def draw(self, text: str) -> None:
        """Print lines above the bar."""
        from rich.text import Text

        from collapsekit.io.safe_text import clean

        for line in text.splitlines():
            self.bar.console.print(Text(clean(line, limit=1000)))

    def note(self, text: str) -> None:
        LOG.add("note", text)
        for line in self.lines(text):
            self.draw(line)

    def announce(self, text: str) -> None:
        LOG.add("said", text)
        self.draw(text)

    def fault(self, text: str) -> None:
        LOG.add("fault", text)
        self.draw(text)

    def stage_over(self, text: str) -> None:
        super().stage_over(text)
        if LOG.verbose:
            self.draw(text)

    def changed(self) -> None:
        from collapsekit.io.safe_text import clean

        super().changed()
        fraction = self.job.compute_fraction(self.clock())
        about = f" ({self.counted})" if self.counted and self.counted != self.stage else ""
        done, total = (0.0, None) if fraction is None else (fraction, 1.0)
        self.bar.update(self.task, description=clean(f"{self.stage or 'starting'}{about}"), completed=done, total=total)

    def describe_left(self) -> str:
        """Say how much is done, and how long the rest will take."""
        from collapsekit.progress.tracker import duration

        now = self.clock()
        left, fraction = self.job.estimate_remaining(now), self.job.compute_fraction(now)
        return "" if left is None or fraction is None else f"{100 * fraction:3.0f} % about {duration(left)} left"


@contextmanager
def drawn(lines: Cut = whole) -> Iterator[Drawn]:
    """Show a bar on the terminal during the block."""
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar
    from rich.table import Column
    from rich.text import Text

    class Left(ProgressColumn):
        """Asked anew at every refresh, so that it falls while nothing is counted."""

        follower: Drawn | None = None  # not yet where the bar is drawn first

        def render(self, _task: object) -> Text:
            return Text("" if self.follower is None else self.follower.describe_left())

    left = Left()
    text = TextColumn(
        "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
    )
    columns = (text, BarColumn(16), TimeElapsedColumn(), left)
    with Bar(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
        follower = Drawn(bar, bar.add_task("starting", total=None), lines)
        left.follower = follower
        yield follower
