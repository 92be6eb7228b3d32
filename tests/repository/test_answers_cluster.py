"""examples/answers_cluster: jobs that share out the questions of a plan; one that is ended loses nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from collapsekit.cli import run

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "examples" / "answers_cluster"


def test_an_array_of_jobs_answers_and_the_verdict_is_the_planted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in FOLDER.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run([sys.executable, "network.py"], check=True)
    words = ["--config", "elsewhere.yaml"]
    assert run(["plan", *words, "--set", "reliance.draws=8", "-o", "questions"]) == 0
    total = json.loads(Path("questions/manifest.json").read_text())["cost"]["questions"]

    def job(number: int) -> str:
        env = {**os.environ, "PATH": path, "SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_COUNT": "3"}
        return subprocess.run(["bash", "array.sh"], env=env, check=True, capture_output=True, text=True).stdout

    for number in range(3):
        assert f"job {number} of 3: " in job(number)
    second = Path("answers-001.jsonl")
    second.write_bytes(second.read_bytes()[:-2000])  # as if its node had gone down
    asked_again = ["score", "questions", *map(str, sorted(Path().glob("answers-*.jsonl"))), *words]
    assert run([*asked_again, "--missing", "left.jsonl"]) == 5
    assert 0 < len(Path("left.jsonl").read_text().splitlines()) < total // 3
    job(1)
    assert run([*asked_again, "-o", "report", "-f", "json"]) == 0
    told = json.loads(Path("report/report.json").read_text())
    assert {m: v["verdict"] for m, v in told["modalities"].items()} == {"spectrum": "used", "blood": "collapsed"}


def test_the_readme_names_every_file() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for file in FOLDER.iterdir():
        if file.suffix in (".py", ".yaml", ".sh"):
            assert f"`{file.name}`" in readme
