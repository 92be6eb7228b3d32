"""Baselines that several processes update at once lose nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gating.making import make_report
from tests.gating.updating_together import SIZE
from tests.several import ROOT


def played(folder: Path, rounds: int) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.gating.updating_together", str(rounds), str(folder)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("rounds", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_four_at_once_lose_nothing_and_leave_nothing(tmp_path: Path, rounds: int) -> None:
    every = sorted(make_report(sha=f"weights {number}").subject.sha256 for number in range(SIZE + 1))
    found = played(tmp_path, rounds)
    assert len(found) == rounds
    for each in found:
        assert each == {"codes": [0] * SIZE, "kept": every, "left": ["baseline.json"]}
