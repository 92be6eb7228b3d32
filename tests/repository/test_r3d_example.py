"""examples/r3d: its page names what is there, and its two commands work on files laid out as the real ones."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from collapsekit import Report
from tests.reproduce.r3d_files import write_r3d_files

FOLDER = Path(__file__).parents[2] / "examples" / "r3d"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
TRAIN, DIAGNOSE = "python train.py", "collapsekit diagnose -p reliance -p utilisation"


def blocks(language: str) -> list[str]:
    """The README's code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.M | re.S)


def test_the_readme_shows_the_config_the_commands_and_the_files_that_are_there() -> None:
    assert blocks("yaml") == [(FOLDER / "collapsekit.yaml").read_text(encoding="utf-8")]
    assert [b.strip() for b in blocks("bash")] == [TRAIN, DIAGNOSE]
    named = set(re.findall(r"^\| `([\w.]+)` \|", README, flags=re.M))
    assert named == {p.name for p in FOLDER.iterdir() if p.suffix in (".py", ".yaml")}


def test_the_readme_says_what_must_not_be_read_into_it() -> None:
    """That the order alone says what follows, and that random channels stand beside the weakest."""
    text = " ".join(README.split())
    assert "all in the same order" in text
    assert "random channels" in text
    assert "order only" in text


@pytest.mark.slow
def test_both_commands(tmp_path: Path) -> None:
    write_r3d_files(tmp_path)
    folder = tmp_path / "r3d"
    folder.mkdir()
    for name in ("train.py", "model.py", "collapsekit.yaml"):
        shutil.copy(FOLDER / name, folder)
    env = {**os.environ, "COLLAPSEKIT_DATA": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    env["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    python = {"python": [sys.executable], "collapsekit": [sys.executable, "-m", "collapsekit"]}

    def run(command: str) -> subprocess.CompletedProcess[str]:
        program, *words = shlex.split(command)
        return subprocess.run(
            [*python[program], *words], cwd=folder, env=env, capture_output=True, encoding="utf-8", timeout=600
        )

    trained = run(f"{TRAIN} --quick")
    assert trained.returncode == 0, trained.stderr
    assert len((folder / "outcomes.jsonl").read_text().splitlines()) == 10
    tables = re.findall(r"^\| (utd_mhad|utkinect) \|", trained.stdout, flags=re.M)
    assert tables == ["utd_mhad", "utd_mhad", "utkinect", "utkinect"]
    diagnosed = run(f"{DIAGNOSE} --profile quick")
    assert diagnosed.returncode == 0, diagnosed.stderr
    report = Report.load(folder / "collapsekit-report" / "report.json")
    assert set(report.modalities) == set(yaml.safe_load(blocks("yaml")[0])["modalities"])

    del env["COLLAPSEKIT_DATA"]
    refused = run(TRAIN)
    assert refused.returncode == 1
    assert "as COLLAPSEKIT_DATA is not set" in refused.stderr
    assert "Traceback" not in refused.stderr
