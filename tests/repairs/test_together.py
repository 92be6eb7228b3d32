"""Training by several processes: all end in the same bits, near those of one process, whoever was interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from collapsekit.repairs.sharing import share, summed
from collapsekit.world import World
from tests.repairs.making import differing
from tests.several import ROOT

CLIPPED = {"accumulate": 2, "clip": 0.1}
LOST = {"ignored": ["audio"], "kept": {"audio": 0.1}}
# Name: processes, and how they train; those of one folder go on from one another.
RUNS: list[tuple[str, int, dict[str, Any]]] = [
    ("plain alone", 1, {}),
    ("plain", 3, {}),
    ("clipped alone", 1, {"training": CLIPPED}),
    ("clipped", 3, {"training": CLIPPED}),
    ("lively", 2, {"methods": ["kd", "dropout"], "lively": True, "training": {"epochs": 2}}),
    ("warmed", 2, {"methods": ["ebr"], "lively": True, "training": {"epochs": 2, **LOST}}),
    ("broken", 2, {"break": [1, 4]}),
    ("stopped 1", 3, {"stop": 2}),
    ("stopped 1", 1, {}),
    ("stopped 2", 3, {"stop": 2}),
    ("stopped 2", 2, {}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of it done, in one process that imports once and forks."""
    place = tmp_path_factory.mktemp("together")
    told = [(size, str(place / name), {"methods": ["finetune"], **how}) for name, size, how in RUNS]
    command = [sys.executable, "-m", "tests.repairs.training_together", json.dumps(told)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return place


def ended(folder: Path, name: str) -> list[dict[str, Any]]:
    """What each process ended with."""
    return [torch.load(file, weights_only=True) for file in sorted((folder / name).glob("*.pt"))]


def far(a: dict[str, Any], b: dict[str, Any]) -> float:
    """The largest difference between two models' weights."""
    return max(float((a["state"][k] - b["state"][k]).abs().max()) for k in a["state"])


@pytest.mark.parametrize("name", ["plain", "clipped"])
def test_fine_tuning_by_several_is_that_of_one_but_for_rounding(folder: Path, name: str) -> None:
    (alone,), found = ended(folder, f"{name} alone"), ended(folder, name)
    assert len(found) == 3
    for each in found:
        assert not differing(each["state"], found[0]["state"])
        assert each["curves"] == found[0]["curves"]
    assert far(alone, found[0]) < 1e-5
    for one, many in zip(*(json.loads(x["curves"]) for x in (alone, found[0])), strict=True):
        assert one["kept"] == many["kept"]
        assert many["held"] == pytest.approx(one["held"], abs=1e-5)
        assert many["training"][1:] == pytest.approx(one["training"][1:], abs=1e-5)


def test_batch_norm_dropout_and_memories_stay_the_same_everywhere(folder: Path) -> None:
    found = ended(folder, "lively")
    assert len(found) == 2
    assert not differing(found[0]["state"], found[1]["state"])
    assert found[0]["curves"] == found[1]["curves"]


def test_what_a_repair_begins_with_is_the_same_everywhere(folder: Path) -> None:
    """A new encoder, trained alone, and a new fusion."""
    found = ended(folder, "warmed")
    assert len(found) == 2
    assert not differing(found[0]["state"], found[1]["state"])
    assert found[0]["curves"] == found[1]["curves"]
    assert json.loads(found[0]["curves"])[0]["stage"] == "warming up audio"


def test_what_is_not_finite_for_one_sends_all_back(folder: Path) -> None:
    found = ended(folder, "broken")
    assert len(found) == 2
    assert not differing(found[0]["state"], found[1]["state"])
    for each in found:
        (curve,) = json.loads(each["curves"])
        assert curve["note"] == "the learning rate was halved 1 times"


@pytest.mark.parametrize("size", [1, 2])
def test_snapshots_of_three_go_on_with_fewer(folder: Path, size: int) -> None:
    (whole,), found = ended(folder, "plain alone"), ended(folder, f"stopped {size}")
    assert len(found) == size  # the three were interrupted
    assert far(whole, found[0]) < 1e-5
    (curve,), (wanted,) = (json.loads(x["curves"]) for x in (found[0], whole))
    assert curve["epochs"] == wanted["epochs"]


def test_shares_are_all_rows_once_and_small_batches_are_whole() -> None:
    rows = torch.arange(11)
    shares = [share(rows, World(r, 3)) for r in range(3)]
    assert torch.equal(torch.cat([mine for mine, _ in shares]), rows)
    assert sum(weight for _, weight in shares) == pytest.approx(1)
    for mine, weight in shares:
        assert weight == len(mine) / 11
    few = [share(rows[:5], World(r, 3)) for r in range(3)]
    assert all(torch.equal(mine, rows[:5]) for mine, _ in few)
    assert sum(weight for _, weight in few) == pytest.approx(1)


def test_alone_nothing_is_summed() -> None:
    parameter = nn.Parameter(torch.ones(2))
    assert summed([parameter], (1.0, 2.0), World()) == [1.0, 2.0]
    assert parameter.grad is None
