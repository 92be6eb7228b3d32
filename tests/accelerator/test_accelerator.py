"""All that runs on a device, on a stand-in for one: it ends, and its numbers are the CPU's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.checks import make_checks
from collapsekit.errors import ConfigError
from collapsekit.probes.runner import RAISE
from collapsekit.session.checks import check_device
from tests.accelerator.counting import PASSES, STEPS
from tests.accelerator.own import OWN

ROOT = Path(__file__).parents[2]
ALL = [c.name for c in make_checks() if c.anywhere]
SHORT = [
    "diagnose attention, quick",
    "shortcuts embedding",
    "substitution on a loaded repair",
    "monitor convolution",
    "live embedding",
]
# Of a device without float64, as Apple's: what computes in it.
SINGLE = [
    *(n for n in ALL if (n.startswith("diagnose") and n.endswith("quick")) or n.startswith(("monitor", "live"))),
    *(f"repair {m}" for m in ("kd", "ebr", "rtf")),
    "diagnose linear, standard",
]

SHORT_COUNTS = ["steps of kd", "passes of gradient_rank", "passes of reliance"]  # the others are slow tests
COUNTS = [n for n in (*STEPS, *PASSES) if n not in SHORT_COUNTS]

Lines = dict[str, dict[str, Any]]


def _run(*names: str) -> Lines:
    """What a process of its own says of these checks; with errors swallowed as users have them, so that all are told of."""
    env = {k: v for k, v in os.environ.items() if k != RAISE} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.accelerator", *names]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1800, check=False)
    lines = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert set(lines) == {n for n in names if not n.startswith("--")}, done.stderr
    return lines


@pytest.fixture(scope="module")
def short() -> Lines:
    return _run(*SHORT, *OWN, *SHORT_COUNTS)


@pytest.fixture(scope="module")
def whole() -> Lines:
    return _run(*(n for n in ALL if n not in SHORT))


@pytest.fixture(scope="module")
def single() -> Lines:
    return _run("--without-doubles", *SINGLE)


def _agrees(line: dict[str, Any]) -> None:
    assert line["odd"] == []
    assert line["numbers"] > 1
    assert line["counted"]["copies to the device"] > 0  # it was there


@pytest.mark.parametrize("name", OWN)
def test_the_stand_in_is_one(short: Lines, name: str) -> None:
    assert short[name]["odd"] == []


@pytest.mark.parametrize("name", SHORT)
def test_a_device_gives_the_numbers_of_the_cpu(short: Lines, name: str) -> None:
    _agrees(short[name])


@pytest.mark.parametrize("name", SHORT_COUNTS)
def test_steps_wait_for_nothing_and_passes_copy_back_once_a_batch(short: Lines, name: str) -> None:
    assert short[name]["odd"] == []


@pytest.fixture(scope="module")
def counts() -> Lines:
    return _run(*COUNTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_so_do_all_others(counts: Lines, name: str) -> None:
    assert counts[name]["odd"] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in ALL if n not in SHORT])
def test_every_probe_and_repair_gives_the_numbers_of_the_cpu(whole: Lines, name: str) -> None:
    _agrees(whole[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SINGLE)
def test_a_device_without_float64_does_too(single: Lines, name: str) -> None:
    _agrees(single[name])


def test_every_repair_is_among_the_checks() -> None:
    from collapsekit import registry

    registry.load_builtins()
    assert {f"repair {name}" for name in registry.REPAIRS} <= set(ALL)
    assert "repair kd,dropout" in ALL
    assert set(SHORT) <= set(ALL)


@pytest.mark.parametrize("device", ["meta", "nonsense", "cpu:x", "mps", "xla"])
def test_a_device_that_cannot_hold_data_is_refused(device: str) -> None:
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("it can")
    with pytest.raises(ConfigError, match=f"device '{device}' is not available .*use --device cpu"):
        check_device(device)
