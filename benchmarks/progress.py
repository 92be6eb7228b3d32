"""How often the time that is said to be left is within a factor of two of what is left, from a tenth of a job on.

python -m benchmarks.progress [--profile standard] [--planted 3] [--from 10] [--repair]

Twice at once: by the clock, as users see it, and by this process's CPU seconds, which a busy machine stretches less. The
job is asked a hundred times, evenly over its time, as it last counted; the last half second is left out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.planted.measure import config_of
from benchmarks.planted.subjects import draw, make
from collapsekit import diagnose, repair
from collapsekit.context import Progress, Stages
from collapsekit.demo.make import make_demo
from collapsekit.progress.tracker import Clock, Tracker

FACTOR, FROM, ASKED, LAST = 2.0, 0.1, 100, 0.5


class Watched(Tracker):
    """What was said to be left, at every event."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.told = list[tuple[float, float | None]]()

    def changed(self) -> None:
        now = self.clock()
        self.told.append((now - self.job.root.began, self.job.estimate_remaining(now)))  # type: ignore[operator]

    def share_right(self) -> tuple[float, float]:
        """Seconds in all, and how often what was said was within the factor."""
        whole = self.clock() - self.job.root.began  # type: ignore[operator]
        moments, right, asked = [moment for moment, _ in self.told], 0, 0
        for i in range(ASKED):
            now = whole * (FROM + (1 - FROM) * i / ASKED)
            if whole - now < LAST:
                break
            moment, left = self.told[max(0, bisect_right(moments, now) - 1)]
            shown = None if left is None else max(left - (now - moment), 0.0)  # it falls while nothing is counted
            asked += 1
            right += shown is not None and (whole - now) / FACTOR <= shown <= (whole - now) * FACTOR
        return whole, right / max(asked, 1)


class Both(Progress):
    """Two clocks at one job."""

    planned = True

    def __init__(self) -> None:
        self.watched = {"clock": Watched(time.perf_counter), "CPU": Watched(time.process_time)}

    def plan(self, stages: Stages) -> None:
        for one in self.watched.values():
            one.plan(stages)

    def begin(self, stage: str) -> None:
        for one in self.watched.values():
            one.begin(stage)

    def step(self, what: str, done: int, total: int | None, said: str = "") -> None:
        for one in self.watched.values():
            one.step(what, done, total, said)


def jobs(
    folder: Path, profile: str, planted: range, *, repairs: bool
) -> Iterator[tuple[str, Callable[[Both], object]]]:
    """What is run, by name: the demo, planted subjects, and a repair of the demo."""
    checkpoint = make_demo(folder / "demo", 0, Progress())
    config = folder / "demo" / "collapsekit.yaml"
    how: dict[str, object] = {"profile": profile, "cache": folder / "cache"}
    if not planted.start:
        yield "demo", lambda both: diagnose(checkpoint, config=config, progress=both, **how)  # type: ignore[arg-type]
    for subject in draw(planted.stop, 0)[planted.start :]:
        made = make(subject)
        place = folder / subject.name
        place.mkdir()
        about = config_of(made, place)
        name = f"planted {subject.name} ({made.world.task}, {len(made.world.modalities)} modalities, n = {subject.n})"
        yield name, lambda both: diagnose(model=made.model, config=about, progress=both, **how)  # type: ignore[arg-type] # noqa: B023
    if repairs:
        yield (
            "repair of the demo",
            lambda both: repair(checkpoint, output=folder / "repaired", config=config, progress=both, **how),  # type: ignore[arg-type]
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="How good the time is that is said to be left.")
    parser.add_argument("--profile", default="quick", choices=["quick", "standard", "full"])
    parser.add_argument("--planted", type=int, default=3, help="subjects of benchmarks.planted")
    parser.add_argument(
        "--from", type=int, default=0, dest="first", help="the first of them; others than 0: without the demo"
    )
    parser.add_argument("--repair", action="store_true", help="also repair the demo")
    given = parser.parse_args()
    torch.set_num_threads(1)
    numbers = range(given.first, given.first + given.planted)
    print("| job | seconds | within a factor of two | CPU seconds | within a factor of two |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for what, run in jobs(Path(name), given.profile, numbers, repairs=given.repair):
            both = Both()
            run(both)
            (clock, right), (cpu, right_cpu) = (one.share_right() for one in both.watched.values())
            print(f"| {what}, {given.profile} | {clock:.0f} | {right:.0%} | {cpu:.0f} | {right_cpu:.0%} |", flush=True)


if __name__ == "__main__":
    main()
