"""Fixtures over the synthetic problems of ``problems.py``."""

from __future__ import annotations

import os
from pathlib import Path

# Before NumPy is imported, here and in the processes that tests start. As in the command line.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
import torch

from tests.problems import Problem, make_problem

# Small problems on a shared machine: more threads only wait for one another.
torch.set_num_threads(1)


@pytest.fixture
def problem(tmp_path: Path) -> Problem:
    """Two modalities that both say something; audio is ignored by the model."""
    return make_problem(tmp_path, ignored=["audio"])
