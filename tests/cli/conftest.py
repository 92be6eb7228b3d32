from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import joint_trained_briefly, one_figure_drawn

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="package", autouse=True)
def _one_figure() -> Iterator[None]:
    """Pages are written with one figure."""
    with one_figure_drawn():
        yield


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's folder with a quick report, made by the command line; do not write into it. Of the examples to train
    with it has a third and of the others half, since to fit readouts to all takes longer than the rest."""
    base = tmp_path_factory.mktemp("demo")
    from safetensors.torch import load_file, save_file

    from collapsekit.context import Progress
    from collapsekit.demo.make import make_demo

    data = make_demo(base / "project", 0, Progress()).with_name("data.safetensors")
    save_file({k: v[:: 3 if k.startswith("train/") else 2].clone() for k, v in load_file(data).items()}, data)
    with pytest.MonkeyPatch.context() as patch, joint_trained_briefly(), one_figure_drawn():
        done = _here(
            "diagnose", "--profile", "quick", "-o", "out", cwd=base / "project", cache=base / "cache", patch=patch
        )
    assert done.returncode == 0, done.stderr
    return base / "project"


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    """A copy of the demo's folder that the test may change."""
    folder = tmp_path / "project"
    shutil.copytree(made, folder)
    return folder


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``collapsekit ARGS`` in this process, piped: what most tests need, without importing torch again."""

    def run(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        return _here(*map(str, args), cwd=cwd, cache=tmp_path / "cache", patch=monkeypatch)

    return run


@pytest.fixture
def process(tmp_path: Path) -> Run:
    """Run ``collapsekit ARGS`` as a user would, in a process of its own, piped."""

    def run(*args: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
        return _run(*map(str, args), cwd=cwd, cache=tmp_path / "cache", **env)

    return run


def _here(*args: str, cwd: Path, cache: Path, patch: pytest.MonkeyPatch) -> subprocess.CompletedProcess[str]:
    from typer.testing import CliRunner

    from collapsekit.cli import app

    patch.chdir(cwd)
    patch.setenv("COLLAPSEKIT_CACHE", str(cache))
    done = CliRunner().invoke(app, list(args), env={"COLUMNS": "80"}, prog_name="collapsekit")
    return subprocess.CompletedProcess(args, done.exit_code, done.stdout, done.stderr)


def _run(*args: str, cwd: Path, cache: Path, **env: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "COLLAPSEKIT_CACHE": str(cache), "OMP_NUM_THREADS": "1", "COLUMNS": "80", **env}
    command = [sys.executable, "-m", "collapsekit", *args]
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=300, check=False)
