"""Training killed with SIGKILL, at random moments and at each write, ends in the same weights once it has gone on."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from collapsekit.repairs.training import loop
from tests.repairs.making import chain, differing

ROOT = Path(__file__).parents[2]
STAGES = {"finetune": ("stage0",), "kd": ("stage0", "stage1")}
FINISHED = sorted(
    [*STAGES, *(f"{m}/{s}{b}.safetensors" for m, stages in STAGES.items() for s in stages for b in ("", "b"))]
)

# Run by a process of its own, which never trains itself: each training is in a fork of it, begun before torch has
# threads. Prints a JSON line a trial.
SCRIPT = """
import json, os, signal, sys, time, traceback
from pathlib import Path
import torch
import torch._dynamo  # which optimisers import; before the forks, so that it is done once
torch.set_num_threads(1)
from safetensors.torch import save_file
from collapsekit.repairs.training import loop
from collapsekit.repairs.training.snapshots import Snapshots
from tests.repairs.making import chain

asked = json.loads(sys.argv[1])
loop.ROUND = 2

def dying(name, at, after):
    # os.<name> that kills the process in its call number `at`, before or after doing its work
    real, calls = getattr(os, name), 0
    def call(*given, **named):
        nonlocal calls
        calls += 1
        if after:
            real(*given, **named)
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        if not after:
            real(*given, **named)
    setattr(os, name, call)

def child(folder, patch=None):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if patch:
            dying(*patch)
        save_file(chain(folder), str(folder.with_suffix(".safetensors")))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)

def ended(pid):
    status = os.waitpid(pid, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

def refuse(text):
    raise AssertionError(text)

def look(folder):
    # what a kill left: every snapshot is read, as going on will
    found = {"snapshots": 0, "temporary": 0}
    for kept in sorted(folder.iterdir()) if folder.is_dir() else []:
        snapshots = Snapshots(kept, {"method": kept.name}, note=refuse)
        for file in kept.iterdir():
            if file.name.startswith(".stage"):
                found["temporary"] += 1
                continue
            tensors, about = snapshots.load(int(file.stem.removeprefix("stage").removesuffix("b")))
            assert tensors
            found["snapshots"] += 1
    return found

def names(folder):
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*"))

def trial(folder, plan):
    if "moment" in plan:
        pid = child(folder)
        time.sleep(plan["moment"] * length)
        os.kill(pid, signal.SIGKILL)
    else:
        pid = child(folder, (plan["call"], plan["at"], plan["after"]))
    first = ended(pid)
    found = look(folder)
    again = ended(child(folder))
    last = names(folder)
    for name in ("kd", "finetune"):
        Snapshots(folder / name, {}).clear()
    print(json.dumps({"first": first, "again": again, **found, "last": last, "left": names(folder)}), flush=True)

folder = Path(asked["folder"])
began = time.monotonic()
assert ended(child(folder / "whole")) == 0
length = time.monotonic() - began
for i, plan in enumerate(asked["plans"]):
    trial(folder / str(i), plan)
"""


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The weights of training that nothing interrupts, and how often it calls what replaces and flushes files."""
    calls = {"replace": 0, "fsync": 0}

    def counted(name: str, real: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            calls[name] += 1
            return real(*given, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "ROUND", 2)
        for name in calls:
            patch.setattr(os, name, counted(name, getattr(os, name)))
        state = chain(tmp_path_factory.mktemp("whole"))
    assert calls["replace"] > 15
    assert calls["fsync"] == 2 * calls["replace"]  # the file, then its folder
    return {"state": state, **calls}


def interrupted(tmp_path: Path, expected: Mapping[str, Any], plans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run the script on ``plans``, and check of every trial that training went on to the same bits."""
    script = tmp_path / "killed.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), json.dumps({"folder": str(tmp_path), "plans": plans})],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for number, trial in enumerate(found):
        assert trial["again"] == 0, done.stderr
        assert differing(load_file(tmp_path / f"{number}.safetensors"), expected["state"]) == set()
        # Going on writes the file again whose write was killed, and removes what was left of that.
        assert trial["last"] == FINISHED
        assert trial["left"] == []
    assert len(found) == len(plans)
    return found


def moments(count: int) -> list[dict[str, Any]]:
    """Moments spread over the time that training takes."""
    draw = random.Random(20)
    return [{"moment": (i + draw.random()) / count} for i in range(count)]


def writes(expected: Mapping[str, Any], stride: int) -> list[dict[str, Any]]:
    """Each ``stride``-th call that gives a file its name or flushes it, before and behind its work."""
    return [
        {"call": call, "at": at, "after": after}
        for call in ("replace", "fsync")
        for after in (False, True)
        for at in range(1, expected[call] + 1, stride)
    ]


def check(plan: Mapping[str, Any], trial: Mapping[str, Any]) -> None:
    """Whether a trial killed where its plan says; the machine may be faster than when the time was measured."""
    assert trial["first"] == -9 or ("moment" in plan and trial["first"] == 0)
    if "moment" in plan:
        return
    flushed = plan["call"] == "fsync" and plan["at"] % 2 == 1  # the file; then, behind the replacing, the folder
    unnamed = flushed or (plan["call"] == "replace" and not plan["after"])
    assert trial["temporary"] == int(unnamed)
    writes_done = (plan["at"] + 1) // 2 if plan["call"] == "fsync" else plan["at"]
    assert (trial["snapshots"] > 0) == (writes_done - int(unnamed) > 0)


def test_killed_at_a_moment_and_a_write(tmp_path: Path, expected: dict[str, Any]) -> None:
    plans = [moments(4)[1], writes(expected, 400)[0]]
    found = interrupted(tmp_path, expected, plans)
    for plan, trial in zip(plans, found, strict=True):
        check(plan, trial)
    assert found[0]["first"] == -9


@pytest.mark.slow
def test_killed_at_many_moments_and_each_write(tmp_path: Path, expected: dict[str, Any]) -> None:
    plans = [*moments(80), *writes(expected, 1)]
    found = interrupted(tmp_path, expected, plans)
    for plan, trial in zip(plans, found, strict=True):
        check(plan, trial)
    assert sum(t["first"] == -9 for t in found[:80]) >= 50  # the others had ended before


def test_finished_training_leaves_two_files_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "ROUND", 1)
    chain(tmp_path, epochs=1)
    assert sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*")) == FINISHED


def test_weights_that_differ_would_be_seen(tmp_path: Path, expected: dict[str, Any]) -> None:
    """What the trials compare with depends on every step: one epoch less gives other weights."""
    fewer = chain(tmp_path, epochs=1)
    assert {k for k in fewer if torch.is_floating_point(fewer[k])} <= differing(fewer, expected["state"])
