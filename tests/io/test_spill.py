"""Columns: the same rows in memory and from files, files that vanish, memory that stays flat, disks without room."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collapsekit.errors import ConfigError
from collapsekit.io.spill import SpillBuffer
from tests.problems import make_problem
from tests.several import ROOT

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=8),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(DTYPES),
    st.integers(0, 200),
)
@settings(max_examples=60)
def test_rows_are_the_same_wherever_they_are_kept(
    sizes: list[int], shape: list[int], dtype: torch.dtype, budget: int
) -> None:
    g = torch.Generator().manual_seed(0)
    parts = [torch.randint(0, 2, (n, *shape), generator=g).to(dtype) for n in sizes]
    column = SpillBuffer(budget).column()
    assert column.shape is None
    for part in parts:
        column.append(part)
    found = column.tensor()
    assert column.shape == tuple(shape)
    assert found.dtype == dtype
    assert torch.equal(found, torch.cat(parts))


def test_the_budget_is_shared_and_no_file_is_left(tmp_path: Path) -> None:
    storage = SpillBuffer(1000, tmp_path)
    small, large = storage.column(), storage.column()
    small.append(torch.ones(100, dtype=torch.float64))  # 800 bytes
    for _ in range(5):
        large.append(torch.ones(10, 8))  # 320 bytes each
    assert storage.spilled == 1600
    assert storage.left == 200
    assert list(tmp_path.iterdir()) == []
    mapped = large.tensor()
    mapped[0] = 7  # writable, as what is in memory
    assert float(mapped.sum()) == 50 * 8 - 8 + 56
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(storage.taken(mapped, torch.tensor([1, 0]), step=1), mapped[[1, 0]])


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="files have a name for a moment on this system")
def test_a_process_killed_at_any_moment_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None ever has a name that would have to be taken from it."""
    monkeypatch.setattr(os, "unlink", lambda *_, **__: pytest.fail("it had a name"))
    column = SpillBuffer(0, tmp_path).column()
    column.append(torch.ones(3))
    assert list(tmp_path.iterdir()) == []
    assert float(column.tensor().sum()) == 3


def test_no_folder_and_no_room_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"cannot be kept in .*gone.*set TMPDIR"):
        SpillBuffer(0, tmp_path / "gone").column().append(torch.ones(3))

    def full(_file: int, _data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ConfigError, match=r"No space left on device.*--limit"):
        SpillBuffer(0, tmp_path).column().append(torch.ones(3))


def test_a_report_is_the_same_from_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brief_joint_here: None
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "files"))
    (tmp_path / "files").mkdir()
    problem = make_problem(tmp_path, noise=["audio"], steps=20)
    options = {"reliance": {"draws": 4}}
    one, other = (problem.diagnose(memory=memory, options=options).to_json() for memory in (None, 0))
    assert one == other
    assert list((tmp_path / "files").glob("collapsekit-*")) == []


CODE = """
import json, sys, threading, time
import torch
from collapsekit.stats.linalg.cka import Side, sides_leave_out
from collapsekit.stats.linalg.moments import moments_left_out
from collapsekit.stats.linalg.spectrum import singular_values
from collapsekit.io.spill import SpillBuffer
torch.set_num_threads(1)
held = []
def watch():
    while True:
        lines = open("/proc/self/status").read().splitlines()
        held.append(sum(int(l.split()[1]) for l in lines if l.startswith("RssAnon")) // 1024)
        time.sleep(0.002)
n, d = int(sys.argv[1]), 64
storage = SpillBuffer(0)
columns = storage.column(), storage.column()
g = torch.Generator().manual_seed(0)
threading.Thread(target=watch, daemon=True).start()
for _ in range(n // 4096):
    for column in columns:
        column.append(torch.randn(4096, d, generator=g))
x, y = (c.tensor() for c in columns)
groups = torch.arange(len(x)) % 2
full, left = moments_left_out(x, groups, 2)
ranks = [float(singular_values(m)[0]) for m in left]
value, out = sides_leave_out(Side.of(x, groups, 2), Side.of(y, groups, 2))
print(json.dumps({"most": max(held), "spilled": storage.spilled >> 20, "n": full.n, "cka": value}))
"""
# What is freed goes back to the system at once: what is held is then what is in use, not what malloc keeps for later.
EAGER = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_statistics_of_many_rows_take_no_more_memory_than_those_of_few() -> None:
    found = []
    for n in (32_768, 262_144):
        done = subprocess.run(
            [sys.executable, "-c", CODE, str(n)],
            env={**os.environ, **EAGER, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(json.loads(done.stdout))
    few, many = found
    assert (few["n"], many["n"]) == (32_768, 262_144)
    assert many["spilled"] == 8 * few["spilled"] == 128
    assert many["most"] - few["most"] < 24  # MB; half of the rows in float64 are 56 MB more
    assert abs(many["cka"]) < 0.01
