"""CONTRIBUTING's walk-throughs, done as written in a copy of the repository: the files, then the commands."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
WALKS = {
    title: body
    for title, body in re.findall(r"^## (Add .+?)\n(.*?)(?=^## (?:Add|Style))", TEXT, re.M | re.S)
    if "```bash" in body
}
FILE = re.compile(r"^```(?:python\n# |markdown\n<!-- )(\S+)(?: -->)?\n(.*?)^```$", re.M | re.S)


@pytest.mark.slow  # whole contract tests, over the part that is added
@pytest.mark.parametrize("title", sorted(WALKS))
def test_a_walk_through_does_as_it_says(title: str, tmp_path: Path) -> None:
    for name in ("collapsekit", "tests", "docs", "examples", "plugins", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (*ROOT.glob("*.md"), ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "action.yml"):
        shutil.copy(file, tmp_path)
    files = FILE.findall(WALKS[title])
    assert len(files) >= 2
    for name, content in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        assert not (tmp_path / name).exists(), name  # nothing else is edited
        (tmp_path / name).write_text(content, encoding="utf-8")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    env["GIT_CEILING_DIRECTORIES"] = str(tmp_path.parent)  # no repository around it is meant
    for change in re.findall(r"^```diff\n(.*?)^```$", WALKS[title], re.M | re.S):
        command = ["git", "apply", "--recount", "--unidiff-zero", "-C1"]
        done = subprocess.run(command, cwd=tmp_path, env=env, input=change, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    (commands,) = re.findall(r"^```bash\n(.*?)^```$", WALKS[title], re.M | re.S)
    assert len(commands.splitlines()) >= 2
    for command in commands.splitlines():
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-2000:]}"


def test_each_kind_of_part_has_a_walk_through_and_all_but_a_format_edit_nothing() -> None:
    assert sorted(WALKS) == [
        "Add a format of checkpoints",
        "Add a probe",
        "Add a repair",
        "Add a task",
        "Add a view or a writer",
    ]
    assert [title for title, body in WALKS.items() if "```diff" in body] == ["Add a format of checkpoints"]
    for body in WALKS.values():
        assert any(name.startswith("tests/") for name, _ in FILE.findall(body))


def test_code_in_contributing_is_formatted(tmp_path: Path) -> None:
    for number, (name, content) in enumerate(FILE.findall(TEXT)):
        if name.endswith(".py"):
            (tmp_path / f"block{number}.py").write_text(content, encoding="utf-8")
    if importlib.util.find_spec("ruff") is None:
        pytest.skip("ruff is not installed")
    config = str(ROOT / "pyproject.toml")
    for command in (["format", "--check"], ["check", "--ignore", "I001"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--config", config, str(tmp_path)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
