"""Where one of several processes fails, none waits for it: all that live say so in a sentence, and none passes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from collapsekit.distributed.heartbeat import Heartbeat
from collapsekit.distributed.process_group import together
from collapsekit.distributed.rendezvous import Place
from collapsekit.errors import ConfigError
from tests.several import ROOT, free_port

RENDEZVOUS, HEARTBEAT = 6, 3
GONE = r"error(?: of process \d)?: process {} of {} has not answered for \d+ s"
# Which of the two notices first: the exchange that breaks off, or the watch over signs of life.
LOST = r"error(?: of process \d)?: process \d of {} (?:lost touch with another one|has not answered for)"
ABSENT = rf"error: process {{}} of {{}} did not come within {RENDEZVOUS} s"
ENDED = "error: process {} of {} failed: {}"
KILLED, STOPPED = -9, -9
Fault = tuple[int, dict[int, dict[str, Any]], dict[int, tuple[int, str]]]

# Processes, what goes wrong at which, and of each that is to say something: its code, and what it says.
FAULTS: dict[str, Fault] = {
    "none": (3, {}, {0: (0, ""), 1: (0, ""), 2: (0, "")}),
    "meeting twice": (3, {r: {"twice": True} for r in range(3)}, {0: (0, ""), 1: (0, ""), 2: (0, "")}),
    "a long computation": (2, {1: {"between": "compute"}}, {0: (0, ""), 1: (0, "")}),
    "stopped for a moment": (2, {1: {"between": "nap"}}, {0: (0, ""), 1: (0, "")}),
    "stopped before they meet": (3, {1: {"before": "stop"}}, {r: (2, ABSENT.format(1, 3)) for r in (0, 2)}),
    "the first stopped before they meet": (
        2,
        {0: {"before": "stop"}},
        {1: (2, "error: process 1 of 2 found no others at")},
    ),
    "stopped in a piece": (3, {2: {"piece": "stop"}}, {r: (4, GONE.format(2, 3)) for r in (0, 1)}),
    "the first stopped in a piece": (3, {0: {"piece": "stop"}}, {r: (4, GONE.format(0, 3)) for r in (1, 2)}),
    "stopped while the others are in a collective": (2, {1: {"while": "stop"}}, {0: (4, GONE.format(1, 2))}),
    "stopped in user code": (2, {1: {"between": "stop"}}, {0: (4, GONE.format(1, 2))}),
    "killed in a piece": (3, {1: {"piece": "kill"}}, {r: (4, LOST.format(3)) for r in (0, 2)}),
    "the first killed in user code": (2, {0: {"between": "kill"}}, {1: (4, LOST.format(2))}),
    "killed while the others are in a collective": (2, {1: {"while": "kill"}}, {0: (4, LOST.format(2))}),
    "gone with exit code 0": (2, {1: {"piece": "exit 0"}}, {0: (4, LOST.format(2))}),
    "the first gone with exit code 0": (3, {0: {"between": "exit 0"}}, {r: (4, LOST.format(3)) for r in (1, 2)}),
    "a usage error": (
        3,
        {2: {"usage": True}},
        dict.fromkeys((0, 1), (2, r"error: process 2 of 3 ended before the others met it \(exit code 2\): see what")),
    ),
    "another WORLD_SIZE": (
        2,
        {1: {"size": 3}},
        {0: (2, "error: process 0 of 2 met process 1 of 3: WORLD"), 1: (2, "error: process 1 of 3 met process 0 of 2")},
    ),
    "two of one RANK": (
        3,
        {2: {"rank": 1}},
        dict.fromkeys(range(3), (2, "error: two processes came as process 1 of 3: each must have a RANK")),
    ),
    "one missing": (2, {1: {"missing": True}}, {0: (2, ABSENT.format(1, 2))}),
    "the first missing": (2, {0: {"missing": True}}, {1: (2, "error: process 1 of 2 found no others at")}),
    "a port that is taken": (
        2,
        {0: {"taken": True}},
        {
            0: (2, r"error: process 0 of 2 cannot listen at port \d+ .*: set MASTER_PORT"),
            1: (2, "error: process 1 of 2 found"),
        },
    ),
    "an error in a piece": (
        2,
        {1: {"piece": "error"}},
        {0: (4, r"error: process 1 failed \(ValueError: a cable was pulled\)"), 1: (4, "internal: ValueError")},
    ),
    "an error in user code": (
        3,
        {1: {"between": "error"}},
        {
            **{r: (4, ENDED.format(1, 3, "ValueError: a cable was pulled")) for r in (0, 2)},
            1: (4, "internal: ValueError"),
        },
    ),
    "a sentence in user code of the first": (
        2,
        {0: {"between": "sentence"}},
        {1: (2, ENDED.format(0, 2, "the config is not usable")), 0: (2, "error: the config is not")},
    ),
    "a process group of the caller's own": (2, {r: {"before": "group"} for r in range(2)}, {0: (0, ""), 1: (0, "")}),
    "stopped in a process group of the caller's own": (
        2,
        {0: {"before": "group"}, 1: {"before": "group", "between": "stop"}},
        {0: (4, GONE.format(1, 2))},
    ),
    "interrupted": (2, {1: {"piece": "interrupt"}}, {0: (4, ENDED.format(1, 2, "KeyboardInterrupt")), 1: (130, "")}),
}
BY_DEFAULT = (
    "meeting twice",
    "a process group of the caller's own",
    "none",
    "stopped before they meet",
    "the first stopped in a piece",
    "stopped while the others are in a collective",
    "killed in a piece",
    "a usage error",
    "another WORLD_SIZE",
    "an error in user code",
)


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All faults that are asked for, some at once, by a process that imports once and forks."""
    place = tmp_path_factory.mktemp("faults")
    chosen = {
        item.callspec.params["name"] for item in request.session.items if "played" in getattr(item, "fixturenames", ())
    }
    told = [(size, str(place / name), faults) for name, (size, faults, _) in FAULTS.items() if name in chosen]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env |= {"COLLAPSEKIT_RENDEZVOUS_TIMEOUT": str(RENDEZVOUS), "COLLAPSEKIT_HEARTBEAT_TIMEOUT": str(HEARTBEAT)}
    env["TORCH_CPP_LOG_LEVEL"] = "FATAL"  # as hush() has it where torch is imported by us
    command = [sys.executable, "-m", "tests.faults_together", json.dumps(told)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return place


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in BY_DEFAULT else pytest.mark.slow) for n in FAULTS])
def test_processes_that_survive_a_fault_end_and_name_it(name: str, played: Path) -> None:
    """None is killed for hanging, which is what -9 would say."""
    size, faults, expected = FAULTS[name]
    for rank, (code, words) in expected.items():
        said = (played / name / f"{rank}.err").read_text()
        assert int((played / name / f"{rank}.rc").read_text()) == code, (rank, said)
        lines = said.splitlines()
        assert len(lines) == bool(words), said
        assert not words or re.match(words, lines[0]), said
    silent = {"stop", "kill", "exit 0"}
    for rank in range(size):
        own = faults.get(rank, {})
        assert rank in expected or silent & set(own.values()) or {"missing", "usage"} & set(own)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RANK", "one", "RANK is 'one', expected a number"),
        ("RANK", "2", "RANK is 2, expected one below WORLD_SIZE, 2"),
        ("MASTER_PORT", "-1", "MASTER_PORT is '-1', expected a number"),
        ("COLLAPSEKIT_RENDEZVOUS_TIMEOUT", "0", "COLLAPSEKIT_RENDEZVOUS_TIMEOUT is '0', expected seconds"),
        ("COLLAPSEKIT_HEARTBEAT_TIMEOUT", "nan", "COLLAPSEKIT_HEARTBEAT_TIMEOUT is 'nan', expected seconds"),
    ],
)
def test_what_the_environment_cannot_mean_is_refused_at_once(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", name: value}
    for variable, text in told.items():
        monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigError, match=said), together():
        pass


def test_limits_may_be_given_by_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """They go before those of the environment."""
    told = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for variable, text in {**told, "COLLAPSEKIT_RENDEZVOUS_TIMEOUT": "500"}.items():
        monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigError, match=r"process 1 of 2 did not come within 0\.2 s"), together(0.2, 5):
        pass


def test_what_a_machine_sleeps_through_is_no_silence_of_others() -> None:
    """A watch that looks at the clock after an hour has not heard of an hour in which it listened."""
    watch = Heartbeat(Place(0, 2, "", 0, 0), 45, lambda: None, met=True)  # type: ignore[arg-type,return-value]
    watch._heard[1] = "once"
    watch.count(3600.0)
    assert watch._longest_silence() is None
    for _ in range(44):
        watch.count(1.0)
    assert "process 1 of 2 has not answered for 4" in str(watch._longest_silence())


def test_who_failed_itself_is_named_and_not_who_ended_because_of_it() -> None:
    """Process 0 ends with what process 1 said; process 2 may hear either of them first."""
    watches = [Heartbeat(Place(rank, 3, "", 0, 0), 45, lambda: None, met=True) for rank in (0, 2)]  # type: ignore[arg-type,return-value]
    first, last = watches
    first._told[1] = {"kind": "ValueError", "text": "ValueError: a cable was pulled"}
    heard = first._failure()
    assert str(heard) == "process 1 of 3 failed: ValueError: a cable was pulled"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("collapsekit.distributed.heartbeat._TELLING", 0.0)
        first.tell(heard)
    last._told[0] = first._state  # type: ignore[assignment]
    assert str(last._failure()) == str(heard)
    last._told[1] = first._told[1]
    assert str(last._failure()) == str(heard)
