"""docs/tutorial.md, done word by word in an empty folder: its files, its commands, and what it says that they print."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.repository.test_tutorials import BLOCK, PROGRAMS, stands_in

TEXT = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text(encoding="utf-8")
FILE = re.compile(r"\A# (\w+\.py)\n(.*)\Z", re.S)


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    assert {kind for kind, _ in BLOCK.findall(TEXT)} == {"bash", "python", "text", "yaml"}
    assert [name for kind, text in BLOCK.findall(TEXT) if kind == "python" for name, _ in [_file(text)]] == [
        "my_model.py",
        "my_training.py",
    ]


def _file(block: str) -> tuple[str, str]:
    found = FILE.match(block)
    assert found is not None, block
    return found[1], found[2]


@pytest.mark.slow
def test_each_step_does_as_it_says(tmp_path: Path) -> None:
    env = plain_environment(tmp_path)
    here = tmp_path / "empty"
    here.mkdir()
    printed, shown = "", 0
    for kind, text in BLOCK.findall(TEXT):
        if kind == "python":
            name, content = _file(text)
            (here / name).write_text(content, encoding="utf-8")
        elif kind == "bash":
            printed = "".join(run(line, here, env) for line in text.splitlines())
        elif kind == "yaml":
            assert yaml.safe_load((here / "collapsekit.yaml").read_text(encoding="utf-8")) == yaml.safe_load(text)
        else:
            shown += 1
            assert stands_in(text, printed), (text, printed)
    assert shown >= 5


def plain_environment(folder: Path) -> dict[str, str]:
    """What a reader has who follows a page, and a cache in ``folder``."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("COLLAPSEKIT_")}
    cache = str(folder / "cache")
    return env | {"OMP_NUM_THREADS": "1", "COLUMNS": "80", "PYTHONIOENCODING": "utf-8", "XDG_CACHE_HOME": cache}


def run(line: str, here: Path, env: dict[str, str]) -> str:
    """Run a command of the page, which has to end with the code that stands behind it. Returns what it printed."""
    command, _, comment = line.partition("#")
    program, *rest = shlex.split(command)
    done = subprocess.run(
        [*PROGRAMS[program], *rest], cwd=here, env=env, capture_output=True, encoding="utf-8", timeout=600
    )
    wanted = int(found[1]) if (found := re.search(r"exit code (\d+)", comment)) else 0
    assert done.returncode == wanted, (line, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr
