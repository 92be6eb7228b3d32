"""What is shown of a job: plain lines now and then where it is piped, and all of it in the log."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from collapsekit.cli.following import Follower, Lines, Silent
from collapsekit.cli.log import LOG
from collapsekit.errors import ConfigError
from collapsekit.progress.tracker import duration


class Clock:
    """What time it is said to be."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(follower: Follower, clock: Clock, each: float) -> None:
    """Two stages of ten counts, each so many seconds apart."""
    follower.plan({"probe a": 1.0, "probe b": 1.0})
    for i, name in enumerate(("probe a", "probe b")):
        follower.step(name, i, 2)
        for done in range(10):
            clock.now += each
            follower.step("examples", done + 1, 10)
    follower.end()


@pytest.mark.parametrize(
    ("each", "count"),
    [(3.0, 3), (60.0, 20)],  # of 60 seconds at 12, 24 and 48; of 20 minutes at every count, a minute apart
)
def test_a_piped_job_says_a_line_every_ten_seconds_and_once_a_minute_later(
    each: float, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    run(Lines(clock=clock), clock, each)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == count
    assert all(re.fullmatch(r"\d+ % · probe [ab] · about .* left", line) for line in lines)
    assert each > 3 or lines[0] == "20 % · probe a · about 50 s left"


def test_a_short_job_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    run(Lines(clock=clock), clock, 0.4)
    assert capsys.readouterr().err == ""


def test_a_quiet_job_says_nothing_but_faults_and_has_a_log(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, clock = tmp_path / "folder" / "log.txt", Clock()
    LOG.start(path, verbose=False)
    follower = Silent(clock)
    follower.note("a note")
    run(follower, clock, 30.0)
    follower.fault("a fault\nand its traceback\x1b[31m")
    LOG.stop()
    assert capsys.readouterr().err.startswith("a fault\nand its traceback")
    lines = [line.split(" ", 1)[1] for line in path.read_text().splitlines()]
    assert lines[:3] == ["note    a note", "stage   probe a took 300.0 s", "stage   probe b took 300.0 s"]
    assert lines[3] == "fault   a fault"
    assert "\x1b" not in lines[4]


def test_the_log_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    for text in ("one", "two"):
        LOG.start(path, verbose=False)
        LOG.add("said", text)
        LOG.stop()
    assert [line.split()[-1] for line in path.read_text().splitlines()] == ["one", "two"]


def test_a_log_that_cannot_be_written_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--log .* cannot be written: .*; choose another place for it\.$"):
        LOG.start(tmp_path, verbose=False)


def test_stages_are_said_where_more_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    LOG.start(None, verbose=True)
    run(Lines(clock=clock), clock, 0.45)
    LOG.stop()
    assert capsys.readouterr().err.splitlines() == ["probe a took 4.5 s", "probe b took 4.5 s"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1 s"), (8.4, "8 s"), (41, "40 s"), (89, "90 s"), (100, "2 min"), (600, "10 min"), (9000, "2.5 h")],
)
def test_durations_are_written_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
